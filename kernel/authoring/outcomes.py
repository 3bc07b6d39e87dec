"""What a body or a check returned, turned into data: validated, encoded once, ready to be recorded.

This is the border between user code and the engine. What does not fit the stage is an error that repeating the
attempt would only repeat, so these errors are never retried. Whatever executes bodies calls these functions with what
the body returned; what a body raised is not their business.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, cast

from kernel.authoring.payload_guard import PAYLOAD_BYTES_MAX, encode_payload
from kernel.authoring.results import Failed, NotReady, Ready, StageResult, Suspend
from kernel.authoring.stage import Stage
from kernel.errors import InvalidCommand, InvalidOutput, InvalidStage
from kernel.ports.executor import BodyCompleted, BodySuspended

__all__ = ["CheckAgain", "CheckOutcome", "encode_check_result", "encode_result"]

AnyStage: TypeAlias = Stage[Any, Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAgain:
    """The check said `NotReady`: look again after `next_check_in` (None: the stage's interval); `state` replaces."""

    next_check_in: timedelta | None
    state: bytes | None


CheckOutcome: TypeAlias = BodyCompleted | CheckAgain | Failed


def encode_result(
    stage: AnyStage, returned: object, *, bytes_max: int = PAYLOAD_BYTES_MAX
) -> BodyCompleted | BodySuspended:
    """The outcome of a body that returned.

    Raises: InvalidOutput when it is not what the stage returns; InvalidStage when the stage may not return such a
    thing at all; PayloadRefused when no store could keep it. None of them is worth a retry.
    """
    match returned:
        case Suspend():
            return _suspended(stage, cast("Suspend[object]", returned), bytes_max)
        case StageResult():
            result = cast("StageResult[object]", returned)
            return _completed(stage, result.output, result.metrics, result.artifacts, bytes_max)
        case Ready() | NotReady() | Failed():
            raise InvalidStage(
                stage.id, "its body returned Ready, NotReady or Failed", hint="Only a check returns that."
            )
        case _:
            return _completed(stage, returned, {}, {}, bytes_max)


def encode_check_result(stage: AnyStage, returned: object, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> CheckOutcome:
    """The outcome of a check that returned.

    `Ready()` is the output None, which a stage refuses whose output type does not admit it. Raises: as `encode_result`.
    """
    match returned:
        case Ready():
            ready = cast("Ready[object]", returned)
            return _completed(stage, ready.output, ready.metrics, ready.artifacts, bytes_max)
        case NotReady():
            state = None if returned.state is None else _encoded_state(stage, returned.state, bytes_max)
            return CheckAgain(next_check_in=returned.next_check_in, state=state)
        case Failed():
            return returned
        case _:
            _refuse_unawaited(stage, returned, "check")
            raise InvalidStage(
                stage.id,
                f"its check returned {type(returned).__qualname__}",
                hint="Return Ready(output), NotReady() or Failed(error).",
            )


def _completed(
    stage: AnyStage, output: object, metrics: Mapping[str, float], artifacts: Mapping[str, Any], bytes_max: int
) -> BodyCompleted:
    where = f'stage "{stage.id}"'
    try:
        text = stage.schemas.output.encode(output, where=where, refuse=InvalidOutput, bytes_max=bytes_max)
    except InvalidCommand:
        _refuse_unawaited(stage, output, "body")  # the likelier mistake, with the better explanation
        raise
    return BodyCompleted(
        output=text,
        metrics=metrics,
        artifacts={name: _artifact(stage, name, value, bytes_max) for name, value in artifacts.items()},
    )


def _suspended(stage: AnyStage, suspend: Suspend[object], bytes_max: int) -> BodySuspended:
    if not stage.suspends:
        raise InvalidStage(
            stage.id, "its body returned Suspend", hint="Use @batch_stage and give it a .check function."
        )
    return BodySuspended(
        state=_encoded_state(stage, suspend.state, bytes_max),
        poll_interval_s=suspend.poll_interval.total_seconds(),
        max_wait_s=suspend.max_wait.total_seconds(),
        metrics=suspend.metrics,
    )


def _encoded_state(stage: AnyStage, state: object, bytes_max: int) -> bytes:
    schema = stage.schemas.state
    assert schema is not None, "only a batch stage suspends, and build() refuses one without a state"
    return schema.encode(
        state, where=f'stage "{stage.id}" (suspended state)', refuse=InvalidOutput, bytes_max=bytes_max
    )


def _artifact(stage: AnyStage, name: str, value: object, bytes_max: int) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    what = f'Artifact "{name}" of stage "{stage.id}"'
    return encode_payload(value, what=what, field="artifacts", bytes_max=bytes_max)


def _refuse_unawaited(stage: AnyStage, returned: object, role: str) -> None:
    if inspect.isawaitable(returned) or inspect.isasyncgen(returned) or inspect.isgenerator(returned):
        if inspect.iscoroutine(returned):
            returned.close()  # else Python warns that it was never awaited
        raise InvalidStage(
            stage.id,
            f"its {role} returned a {type(returned).__name__} instead of a value",
            hint='Write "async def", also under decorators that wrap the function.',
        )
