"""What crosses between this process and a child interpreter: the job, its answer, and what happens in between.

Everything is JSON: the input, the configuration and the outputs of earlier stages are the texts that are stored, and
the child finds the stages by `module:name`, so no object and no code travels. Both sides use these functions, each in
its direction.

To the child go `hello` (once), `run`, `cancel`; from it come `begun`, `log`, `progress`, and at last `completed` or
`raised`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from kernel import ErrorInfo, InvalidConfig, InvalidInput
from kernel.authoring.context import BodyIdentity
from kernel.model.attempts import Raised
from kernel.ports.executor import Attempt, BodyCompleted
from runtime.bodies import AnyStage, identity_of
from runtime.frames import Frame
from telemetry.logs import current_ids
from telemetry.remote import current_traceparent

__all__ = ["Answer", "Backend", "Job", "answer_frame", "job_frame", "make_job", "read_answer", "read_job"]

Backend = Literal["asyncio", "trio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt for a child to run.

    `reference` is the stage's `module:name`, `references` those of the stages that `outputs` come from; `timeout_s`
    counts from `now`, which is the time when the job was sent. `backend` is for async bodies, `log_ids` is what its
    log lines carry, `traceparent` the span that its own nest under.
    """

    token: str
    reference: str
    identity: BodyIdentity
    input: bytes
    config: bytes | None
    outputs: Mapping[str, bytes]
    references: Mapping[str, str]
    offloaded: tuple[str, ...]
    now: datetime
    timeout_s: float | None
    bytes_max: int
    backend: Backend
    log_ids: Mapping[str, object] = field(default_factory=dict[str, object])
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How the attempt ended; `reusable` when nothing of it is left in the child, `dropped` counts lost log lines."""

    outcome: BodyCompleted | Raised
    reusable: bool
    dropped: int


def make_job(attempt: Attempt, stage: AnyStage, *, now: datetime, bytes_max: int, backend: Backend) -> Job:
    """The job of an attempt. Raises: InvalidInput, InvalidConfig, MissingOutput, PayloadRefused."""
    workflow, schemas = attempt.workflow, stage.schemas
    where = f'stage "{stage.id}"'
    given = workflow.stage_input(stage.id, attempt.outputs, attempt.input)
    config = None
    if schemas.config is not None:
        values = workflow.stage_config(stage.id, attempt.config)
        config = schemas.config.encode(values, where=where, refuse=InvalidConfig, bytes_max=bytes_max)
    return Job(
        token=attempt.token,
        reference=stage.reference,
        identity=identity_of(attempt),
        input=schemas.input.encode(given, where=where, refuse=InvalidInput, bytes_max=bytes_max),
        config=config,
        outputs=attempt.outputs,
        references={name: workflow.get_stage(name).reference for name in attempt.outputs},
        offloaded=tuple(sorted(attempt.offloaded)),
        now=now,
        timeout_s=None if stage.timeout is None else stage.timeout.total_seconds(),
        bytes_max=bytes_max,
        backend=backend,
        log_ids=current_ids(),
        traceparent=current_traceparent(),
    )


def job_frame(job: Job) -> Frame:
    """The job as a frame."""
    header = {
        "token": job.token,
        "reference": job.reference,
        "identity": job.identity._asdict(),
        "configured": job.config is not None,
        "outputs": list(job.outputs),
        "references": dict(job.references),
        "offloaded": job.offloaded,
        "now": job.now.isoformat(),
        "timeout_s": job.timeout_s,
        "bytes_max": job.bytes_max,
        "backend": job.backend,
        "log_ids": dict(job.log_ids),
        "traceparent": job.traceparent,
    }
    return Frame("run", header, (job.input, job.config or b"", *job.outputs.values()))


def read_job(frame: Frame) -> Job:
    """The job of a frame that `job_frame` made."""
    header = frame.header
    given, config, *outputs = frame.parts
    return Job(
        token=header["token"],
        reference=header["reference"],
        identity=BodyIdentity(**header["identity"]),
        input=given,
        config=config if header["configured"] else None,
        outputs=dict(zip(header["outputs"], outputs, strict=True)),
        references=header["references"],
        offloaded=tuple(header["offloaded"]),
        now=datetime.fromisoformat(header["now"]),
        timeout_s=header["timeout_s"],
        bytes_max=header["bytes_max"],
        backend=header["backend"],
        log_ids=header["log_ids"],
        traceparent=header["traceparent"],
    )


def answer_frame(token: str, answer: Answer) -> Frame:
    """The answer as a frame."""
    common = {"token": token, "reusable": answer.reusable, "dropped": answer.dropped}
    outcome = answer.outcome
    if isinstance(outcome, BodyCompleted):
        header = {**common, "metrics": dict(outcome.metrics), "artifacts": list(outcome.artifacts)}
        return Frame("completed", header, (outcome.output, *outcome.artifacts.values()))
    delay_s = None if outcome.retry_after is None else outcome.retry_after.total_seconds()
    return Frame("raised", {**common, "error": asdict(outcome.error), "retry_after_s": delay_s})


def read_answer(frame: Frame) -> Answer | None:
    """The answer of a frame that `answer_frame` made; None when it is another kind of frame."""
    header = frame.header
    outcome: BodyCompleted | Raised
    if frame.kind == "completed":
        output, *artifacts = frame.parts
        names = cast("list[str]", header["artifacts"])
        outcome = BodyCompleted(
            output=output, metrics=header["metrics"], artifacts=dict(zip(names, artifacts, strict=True))
        )
    elif frame.kind == "raised":
        error: dict[str, Any] = header["error"]
        delay_s: float | None = header["retry_after_s"]
        delay = None if delay_s is None else timedelta(seconds=delay_s)
        outcome = Raised(error=ErrorInfo(**error), retry_after=delay)
    else:
        return None
    return Answer(outcome=outcome, reusable=header["reusable"], dropped=header["dropped"])
