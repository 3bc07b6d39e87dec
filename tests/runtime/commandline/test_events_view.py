"""What an event says in its line."""

from __future__ import annotations

from datetime import UTC, datetime

from kernel.events import Log
from runtime.commandline.events_view import event_detail
from runtime.commandline.layout import line, text_of

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def test_a_line_of_a_body_is_told_with_its_fields() -> None:
    log = Log(
        run_id="r", seq=1, at=NOW, level="INFO", message="sent", stage_id="s", fields={"to": "Ada L.", "pages": [1, 2]}
    )

    assert text_of(line(event_detail(log, NOW))) == 'sent  to="Ada L." pages=[1, 2]'
