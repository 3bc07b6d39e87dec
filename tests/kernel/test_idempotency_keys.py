"""Which idempotency keys are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kernel import CreateRun, ExecuteJob, InvalidCommand
from kernel.idempotency_keys import check_idempotency_key


@pytest.mark.parametrize("key", [None, "k", "k" * 1000, "é" * 500])
def test_no_key_and_any_text_within_the_bound_is_taken(key: str | None) -> None:
    check_idempotency_key(key)


@pytest.mark.parametrize(
    "key,reason",
    [
        (" ", "must not be empty"),
        ("k" * 1001, "is 1001 bytes long as UTF-8, and at most 1000"),
        ("é" * 501, "is 1002 bytes long"),
        ("\udcff\udcfe", "not valid UTF-8"),
        ("a\0b", "NUL"),
        (5, "must be text, not int"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        lambda key: CreateRun(workflow_id="w", input=None, idempotency_key=key),
        lambda key: ExecuteJob(run_id="r", stage_id="s", idempotency_key=key),
    ],
)
def test_another_key_is_refused_by_every_command_that_has_one(
    command: Callable[[Any], object], key: Any, reason: str
) -> None:
    with pytest.raises(InvalidCommand, match=reason) as refused:
        command(key)

    assert refused.value.field == "idempotency_key"
