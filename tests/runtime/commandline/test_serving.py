"""What `up` says of the queues that it serves."""

from __future__ import annotations

from runtime import App
from runtime.commandline.serving import unmatched_queues
from tests.runtime.queues import Gates, gated, plain


def test_a_served_queue_that_no_stage_names_is_found_and_so_is_a_stage_that_is_not_served() -> None:
    app = App(workflows=[gated(Gates()), gated(Gates(), "more"), plain()])

    assert unmatched_queues(app, ["default", "gpu"]) == ((), {})
    assert unmatched_queues(app, ["default", "gup"]) == (("gup",), {"gpu": ["render"]})


def test_the_default_queue_need_not_be_named_by_a_stage() -> None:
    assert unmatched_queues(App(workflows=[plain()]), ["default"]) == ((), {})
