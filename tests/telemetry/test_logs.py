"""Where log events go: nowhere of our own when embedded, to standard error from the command line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from telemetry.logs import configure_logging, get_logger


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


def written(format: str, level: str = "info", **fields: object):
    stream = io.StringIO()
    configure_logging(format, level, stream=stream, colour=False, fields=fields)
    return stream


def test_a_process_among_several_says_which_it_is_in_every_line_also_of_its_threads() -> None:
    stream = written("json", worker=2)

    logging.getLogger("other").warning("theirs")
    thread = threading.Thread(target=lambda: get_logger("leasehold.runtime").info("lease.renewed"))
    thread.start()
    thread.join()

    assert [json.loads(line)["worker"] for line in stream.getvalue().splitlines()] == [2, 2]


def test_embedded_an_event_is_a_record_of_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        get_logger("leasehold.runtime").bind(session_id="s").info("run.claimed", run_id="r", share="50 %")

    [record] = caplog.records
    assert (record.name, record.levelname) == ("leasehold.runtime", "INFO")
    assert record.getMessage() == 'run.claimed session_id=s run_id=r share="50 %"'
    assert record.leasehold == {"session_id": "s", "run_id": "r", "share": "50 %"}


def test_a_processor_of_the_programs_that_raises_harms_nobody_who_logs(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_logger: Any, _method: str, _event: Any) -> Any:
        raise ValueError("of the program's")

    structlog.configure(processors=[broken])
    with caplog.at_level(logging.INFO):
        get_logger("leasehold.test").info("it.happened", n=1)

    assert caplog.messages == ['it.happened n=1 unsaid="ValueError: of the program\'s"']


def test_embedded_a_value_of_several_words_is_in_quotes(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("leasehold.telemetry").warning("it.happened", reason="Connection refused", hint='say "x"', n=1, none="")

    assert caplog.messages == ['it.happened reason="Connection refused" hint="say \\"x\\"" n=1 none=""']


def test_embedded_in_a_program_with_structlog_an_event_goes_there() -> None:
    with structlog.testing.capture_logs() as events:
        structlog.configure(processors=structlog.get_config()["processors"])
        get_logger("leasehold.runtime").warning("lease.lost", session_id="s")

    assert events == [{"event": "lease.lost", "log_level": "warning", "session_id": "s"}]


def test_embedded_nothing_is_configured_and_nothing_is_printed() -> None:
    code = (
        "import sys; from telemetry.logs import get_logger; get_logger().info('run.claimed'); "
        "import logging; assert not logging.getLogger().handlers; assert 'structlog' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_a_line_of_json_has_time_level_event_and_fields() -> None:
    stream = written("json")

    get_logger("leasehold.runtime").info("run.claimed", run_id="r", n=1)

    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"level": "info", "event": "run.claimed", "logger": "leasehold.runtime", "run_id": "r", "n": 1}


def test_a_line_for_people_has_no_logger_of_ours() -> None:
    stream = written("console")

    get_logger("leasehold.runtime").info("run.claimed", run_id="r")

    assert stream.getvalue().split() == [stream.getvalue().split()[0], "[info", "]", "run.claimed", "run_id=r"]


def test_other_libraries_come_out_in_the_same_form() -> None:
    stream = written("json")

    logging.getLogger("httpx").warning("got %s", "it", extra={"status": 200})

    event = json.loads(stream.getvalue())
    assert (event["event"], event["logger"], event["status"]) == ("got it", "httpx", 200)


def test_what_is_below_the_level_is_left_out() -> None:
    stream = written("json", "warning")

    get_logger().info("run.claimed")
    get_logger().warning("lease.lost")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["lease.lost"]


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_traceback_shows_no_values(format: str) -> None:
    stream = written(format)

    payload = "secret-" + "payload"

    def body(payload: str) -> None:
        raise ValueError(len(payload))

    try:
        body(payload)
    except ValueError:
        get_logger().exception("actor.crashed", run_id="r")

    assert "ValueError: 14" in stream.getvalue()
    assert "secret-payload" not in stream.getvalue()
