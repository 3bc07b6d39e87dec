"""Running a command in an event loop."""

from __future__ import annotations

import signal
import threading

import anyio
import anyio.lowlevel
import pytest

from adapters.postgres.bridge import current_event_loop
from kernel import Unavailable
from runtime.commandline.opening import run_async
from runtime.config import Settings


async def raise_in_groups() -> int:
    async def fail() -> None:
        raise Unavailable("gone")

    async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
        inner.start_soon(fail)
        outer.start_soon(anyio.sleep_forever)
    return 0


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_an_error_comes_out_of_its_task_groups_bare(event_loop: str) -> None:
    with pytest.raises(Unavailable, match="gone"):
        run_async(raise_in_groups, Settings(event_loop=event_loop))


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_the_first_interrupt_cancels_the_command_which_may_still_clean_up(event_loop: str) -> None:
    left: list[str] = []

    async def wait() -> int:
        try:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                left.append("in order")
        return 0

    with pytest.raises(KeyboardInterrupt):
        run_async(wait, Settings(event_loop=event_loop))

    assert left == ["in order"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_can_run_in_a_thread_that_hears_of_no_signal() -> None:
    codes: list[int] = []

    async def done() -> int:
        return 7

    thread = threading.Thread(target=lambda: codes.append(run_async(done, Settings())))
    thread.start()
    thread.join()

    assert codes == [7]


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
@pytest.mark.parametrize("long_lived", [False, True])
def test_the_configured_event_loop_is_used(event_loop: str, *, long_lived: bool) -> None:
    found: list[str] = []

    async def look() -> int:
        found.append(current_event_loop())
        return 7

    assert run_async(look, Settings(event_loop=event_loop), long_lived=long_lived) == 7
    assert found == [event_loop]
