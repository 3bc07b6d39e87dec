from __future__ import annotations

import pytest

from adapters.sinks import sign, verify

NOW = 1_750_000_000.0
BODY = b'{"a": 1}'
GOOD = sign("secret", BODY, at=NOW)


def test_a_signature_covers_the_time_and_the_body() -> None:
    later = sign("secret", BODY, at=NOW + 1).replace(f"t={int(NOW) + 1}", f"t={int(NOW)}")

    assert verify("secret", GOOD, BODY, now=NOW)
    assert not verify("secret", later, BODY, now=NOW)
    assert not verify("secret", GOOD, b"{}", now=NOW)
    assert not verify("other", GOOD, BODY, now=NOW)


@pytest.mark.parametrize("off", [-301, 301])
def test_an_old_one_is_refused_and_one_of_the_future(off: int) -> None:
    assert verify("secret", GOOD, BODY, now=NOW + off * 0.99)
    assert not verify("secret", GOOD, BODY, now=NOW + off)


def test_while_a_secret_changes_one_that_fits_is_enough() -> None:
    both = GOOD.replace(",v1=", f",v1={'0' * 64},v1=")

    assert verify("secret", both, BODY, now=NOW)


@pytest.mark.parametrize("text", ["", "t=1", "v1=00", "t=x,v1=0", "t=,v1=", f"t=1,{GOOD}", "t=٣,v1=0", "=", ",,", "ü"])
def test_any_other_text_is_no_signature(text: str) -> None:
    assert not verify("secret", text, BODY, now=NOW)
