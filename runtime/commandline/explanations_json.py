"""An explanation for machines: its words, and what they were made of. The keys are public and stable."""

from __future__ import annotations

from typing import Any

from kernel.model.machine import ACTIVE
from kernel.ports.jobs import JobInfo
from runtime.commandline.explanations import Explanation
from runtime.commandline.run_case import Case
from runtime.info import StageInfo, time_json

__all__ = ["explanation_json"]


def explanation_json(case: Case, told: Explanation) -> dict[str, Any]:
    """The explanation as plain JSON: the words, and what they were made of."""
    head = case.head
    return {
        "id": case.info.id,
        "workflow_id": case.info.workflow_id,
        "workflow_version": case.info.workflow_version,
        "status": case.info.status,
        "waiting_for": case.info.waiting_for,
        "reason": told.reason,
        "because": list(told.because),
        "then": told.then,
        "until": time_json(told.until),
        "advice": list(told.advice),
        "due_at": time_json(head.head.wake_at),
        "parked_reason": head.parked_reason,
        "parked_at": time_json(head.parked_at),
        "holder": None if head.owner is None else _holder_json(case, head.owner),
        "stages": [_stage_json(stage) for stage in case.info.stages or () if stage.status in ACTIVE],
        "jobs": [_job_json(case, job) for job in case.jobs],
        "processes": None if case.sessions is None else {"live": len(case.live), "knowing": len(case.knowing)},
        "sinks": [
            {
                "sink": d.sink,
                "owed": d.owed,
                "tries": d.tries,
                "error": d.error,
                "dead": d.dead,
                "dead_error": d.dead_error,
            }
            for d in case.debts
        ],
    }


def _holder_json(case: Case, session_id: str) -> dict[str, Any]:
    seen = case.session(session_id)
    if seen is None:
        return {
            "session": session_id,
            "state": None,
            "name": None,
            "hostname": None,
            "pid": None,
            "lease_expires_at": None,
        }
    return {
        "session": session_id,
        "state": seen.state,
        "name": seen.name,
        "hostname": seen.hostname,
        "pid": seen.pid,
        "lease_expires_at": time_json(seen.lease_expires_at),
    }


def _stage_json(stage: StageInfo) -> dict[str, Any]:
    return {
        "id": stage.id,
        "status": stage.status,
        "execution": stage.execution,
        "attempt": stage.attempt,
        "started_at": time_json(stage.started_at),
        "retry_at": time_json(stage.retry_at),
        "next_poll_at": time_json(stage.next_poll_at),
        "max_wait_until": time_json(stage.max_wait_until),
        "queue": stage.queue,
    }


def _job_json(case: Case, job: JobInfo) -> dict[str, Any]:
    return {
        "stage_id": job.stage_id,
        "queue": job.queue,
        "due_at": time_json(job.due_at),
        "taken": job.token is not None,
        "lease_until": time_json(job.lease_until),
        "holder": None if job.session_id is None else _holder_json(case, job.session_id),
        "served": None if case.sessions is None else any(job.queue in seen.queues for seen in case.knowing),
    }
