"""What of a run's state a golden history promises, as JSON.

Only what users and drivers can see: statuses, numbers, moments, places of payloads. How the state is built is free to
change; what a stored history means is not. A summary may learn to say more: an older file is asked what it knew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from kernel.model.head import head_of
from kernel.model.run import RunState
from kernel.model.stage import Body, StageState

__all__ = ["as_asked", "summary_of"]


def summary_of(state: RunState) -> dict[str, Any]:
    """The visible part of a state, with plain JSON values only."""
    head = head_of(state)
    summary = {
        "workflow": f"{state.workflow_id} {state.workflow_version} {state.fingerprint}",
        "status": state.status,
        "phase": head.phase,
        "priority": state.priority,
        "wake_at": head.wake_at,
        "seq": state.seq,
        "group": state.group,
        "checked": state.checked,
        "owner": state.owner,
        "run_at": state.run_at,
        "created_at": state.created_at,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "config": state.config,
        "input": _place(state.input),
        "error": state.error,
        "cancel_reason": state.cancel_reason,
        "total_cost": state.total_cost,
        "total_tokens": state.total_tokens,
        "noted": sorted(state.noted),
        "stages": {stage.id: _stage(stage) for stage in state.stages.values()},
        "steps": {
            stage_id: [[step.name, _place(step.result)] for step in steps] for stage_id, steps in state.steps.items()
        },
    }
    plain: dict[str, Any] = to_jsonable_python(summary)
    return plain


def as_asked(summary: Mapping[str, Any], golden: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without what the golden one did not say yet, about the run, its stages and their suspensions."""
    asked = _common(summary, golden)
    asked["stages"] = {
        stage_id: _stage_as_asked(stage, golden["stages"].get(stage_id, {}))
        for stage_id, stage in summary["stages"].items()
    }
    return asked


def _stage_as_asked(stage: Mapping[str, Any], golden: Mapping[str, Any]) -> dict[str, Any]:
    asked = _common(stage, golden)
    if stage["suspension"] and golden.get("suspension"):
        asked["suspension"] = _common(stage["suspension"], golden["suspension"])
    return asked


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key in other}


def _stage(stage: StageState) -> dict[str, Any]:
    waiting = stage.suspension
    return {
        "status": stage.status,
        "group": stage.plan.group,
        "number": stage.plan.number,
        "queue": stage.plan.queue,
        "execution": stage.execution,
        "attempt": stage.attempt,
        "token": stage.token,
        "failures": stage.failures,
        "lost": stage.lost,
        "keys": stage.keys,
        "due_at": stage.due_at,
        "started_at": stage.started_at,
        "ended_at": stage.ended_at,
        "error": stage.error,
        "output": None if stage.output is None else _place(stage.output),
        "metrics": stage.metrics,
        "artifacts": stage.artifacts,
        "suspension": waiting
        and {
            "state": _place(waiting.state),
            "next_poll_at": waiting.next_poll_at,
            "max_wait_until": waiting.max_wait_until,
            "check_failures": waiting.check_failures,
        },
    }


def _place(body: Body) -> int | str:
    return body.seq if body.blob is None else f"{body.blob.key} {body.blob.digest} {body.blob.size_bytes}"
