"""examples/plugins.py: everybody is told, and one of them fails."""

from __future__ import annotations

import pytest

from examples import plugins


@pytest.mark.anyio
async def test_every_plugin_is_told_whatever_another_does(capsys: pytest.CaptureFixture[str]) -> None:
    await plugins.main()

    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        [
            "parcel of order 7",
            "4 stage.completed",
            "5 run.completed",
            "nobody hears of run.completed",
        ]
    )


def test_the_webhook_asks_for_ends_alone() -> None:
    sink = plugins.to_accounting("https://accounting.example/events", "sixteen or more characters")

    assert (sink.name, sink.events) == ("accounting", {"run.completed", "run.failed"})
    assert plugins.shop(sink).sinks == (sink,)
