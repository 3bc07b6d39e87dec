"""Run ids carry their moment; tokens are derived."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.model.ids import attempt_token, is_run_id, minted_at, run_id_from
from tests.kernel.stories import EXAMPLES

MOMENTS = st.timedeltas(timedelta(0), timedelta(days=7000 * 365)).map(
    lambda age: datetime(1970, 1, 1, tzinfo=UTC) + age
)


@settings(max_examples=EXAMPLES)
@given(at=MOMENTS, chance=st.binary(min_size=10, max_size=10))
def test_a_run_id_is_a_uuid_of_version_7_that_tells_its_millisecond(at: datetime, chance: bytes) -> None:
    run_id = run_id_from(at, chance)

    assert is_run_id(run_id)
    assert str(UUID(run_id)) == run_id
    assert UUID(run_id).version == 7
    assert UUID(run_id).bytes[7] == 0
    assert minted_at(run_id) == at.replace(microsecond=at.microsecond // 1000 * 1000)


def test_run_ids_sort_by_their_moment() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    earlier = run_id_from(at, b"\xff" * 10)
    later = run_id_from(at + timedelta(milliseconds=1), b"\x00" * 10)

    assert earlier < later


def test_other_texts_and_things_are_no_run_ids() -> None:
    run_id = run_id_from(datetime(2026, 1, 1, tzinfo=UTC), bytes(10))

    assert not any(
        is_run_id(value)
        for value in (
            "",
            run_id.upper(),
            run_id + "0",
            f" {run_id}",
            run_id.replace("-7", "-4"),
            run_id.replace("-", ""),
            UUID(run_id),
            None,
        )
    )


def test_a_token_is_the_same_for_the_same_append_and_position_and_no_other() -> None:
    tokens = [attempt_token(append, seq) for append in ("append-1", "append-2") for seq in (2, 3)]

    assert attempt_token("append-1", 2) == tokens[0]
    assert len(set(tokens)) == 4
    assert all(len(token) == 24 for token in tokens)
