"""Payloads are recorded only when somebody asks, and only as far as the hook lets them."""

from __future__ import annotations

import json
import logging
from typing import Any, get_args

import pytest

from kernel import InvalidCommand
from runtime import App
from runtime.config import load_settings
from telemetry import names
from telemetry.privacy import LENGTH_MAX, NOTHING, Privacy

PAYLOAD = b'{"name":"Ada","card":"4111"}'


def without_card(name: str, value: Any) -> Any:
    return {key: kept for key, kept in value.items() if key != "card"}


def test_nothing_is_recorded_unless_it_is_asked_for() -> None:
    assert NOTHING.captured("run.input", PAYLOAD) is None
    assert Privacy(capture=False, redact=without_card).captured("run.input", PAYLOAD) is None


def test_what_is_asked_for_is_recorded_as_it_is_stored() -> None:
    assert Privacy(capture=True).captured("run.input", PAYLOAD) == PAYLOAD.decode()


def test_the_hook_sees_every_payload_with_its_name_and_says_what_is_kept() -> None:
    seen: list[tuple[str, Any]] = []

    def redact(name: str, value: Any) -> Any:
        seen.append((name, value))
        return without_card(name, value) if name == "run.input" else None

    privacy = Privacy(capture=True, redact=redact)

    assert json.loads(privacy.captured("run.input", PAYLOAD) or "") == {"name": "Ada"}
    assert privacy.captured("stage.output", b"[1]") is None
    assert seen == [("run.input", {"name": "Ada", "card": "4111"}), ("stage.output", [1])]


def test_every_name_that_the_hook_may_be_told_is_explained_and_is_that_of_an_attribute() -> None:
    assert set(get_args(names.PayloadName)) == set(names.PAYLOADS)
    assert {f"leasehold.{name}" for name in names.PAYLOADS} <= {attribute.key for attribute in names.ATTRIBUTES}


def test_what_could_not_be_redacted_is_not_recorded_and_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    def stumble(name: str, value: Any) -> Any:
        raise KeyError(value["card"])

    with caplog.at_level(logging.WARNING):
        assert Privacy(capture=True, redact=stumble).captured("run.input", PAYLOAD) is None

    assert caplog.messages == ["payload.not_redacted payload=run.input error=KeyError"]


def test_a_long_payload_is_cut() -> None:
    recorded = Privacy(capture=True).captured("run.input", b'"' + b"x" * 2 * LENGTH_MAX + b'"')

    assert recorded is not None
    assert (len(recorded), recorded[-1]) == (LENGTH_MAX, "…")


@pytest.mark.parametrize("given, meant", [("1", True), ("true", True), ("0", False), ("off", False), ("", False)])
def test_capturing_is_a_setting(given: str, meant: object, tmp_path) -> None:
    settings = load_settings(environ={"LEASEHOLD_CAPTURE_PAYLOADS": given}, directory=tmp_path)

    assert settings.capture_payloads is meant


def test_a_value_that_is_neither_yes_nor_no_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidCommand, match='LEASEHOLD_CAPTURE_PAYLOADS must be "true" or "false", not "maybe"'):
        load_settings(environ={"LEASEHOLD_CAPTURE_PAYLOADS": "maybe"}, directory=tmp_path)


def test_an_app_names_its_hook() -> None:
    assert App(workflows=[], redact=without_card).redact is without_card
    assert App(workflows=[]).redact is None
