"""Why one run does not progress, in words: from what the store says of it to sentences and what to do about it.

One literal table, `EXPLAINED`, has a row for every word of `waiting_for`, which decides; nothing is decided anew here.
Pure: `now` is the database's, and nothing is read. OPERATIONS.md says the same at more length, by the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kernel.model.machine import Status
from runtime.commandline.run_case import (
    PROVIDE_IT,
    Case,
    attempt_sentence,
    held,
    held_meanwhile,
    job_held,
    job_of,
    moment,
    moment_at,
    no_process,
    retry_sentence,
    suspension_sentence,
    unknown_sentence,
)
from runtime.commandline.times import duration

__all__ = ["EXPLAINED", "Explanation", "explain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`reason` is a word of `waiting_for`, "executing" or "finished"; `because` are sentences, `advice` things to do.

    `then` says what happens by itself, and `until` when, where a moment is known.
    """

    reason: str
    because: Sequence[str]
    then: str | None = None
    until: datetime | None = None
    advice: Sequence[str] = field(default_factory=tuple[str, ...])


def explain(case: Case) -> Explanation:
    """Why the run is where it is."""
    word = case.info.waiting_for
    if case.info.ended:
        told = _finished(case)
    elif word is None:
        told = _executing(case)
    else:
        told = EXPLAINED.get(word, _parked)(case)
    because, advice = _publication(case)
    return Explanation(
        reason=told.reason,
        because=(*told.because, *because),
        then=told.then,
        until=told.until,
        advice=(*told.advice, *advice),
    )


# -- it goes on, or has ended ------------------------------------------------------------------------------------------


def _finished(case: Case) -> Explanation:
    info = case.info
    when = "" if info.completed_at is None else f" {moment_at(info.completed_at, case.now)}"
    match Status(info.status):
        case Status.COMPLETED:
            took = "" if info.duration_s is None else f" It took {duration(info.duration_s)}."
            return Explanation(reason="finished", because=[f"It completed{when}.{took}"])
        case Status.CANCELLED:
            why = f": {info.cancel_reason}" if info.cancel_reason else ""
            return Explanation(
                reason="finished", because=[f"It was cancelled{when}{why}."], advice=[_rerun(case, "STAGE")]
            )
        case _:
            error = info.error
            assert error is not None, "a failed run has an error"
            stage_id = error.stage_id or "STAGE"
            where = f' in stage "{error.stage_id}"' if error.stage_id else ""
            return Explanation(
                reason="finished",
                because=[f"It failed{when}{where}.", f"{error.type}: {error.message}"],
                advice=[f"leasehold show {case.short_id} --full shows where it was raised.", _rerun(case, stage_id)],
            )


def _rerun(case: Case, stage_id: str) -> str:
    return f"To do it again: leasehold rerun {case.short_id} --from {stage_id}"


def _executing(case: Case) -> Explanation:
    running = case.stages(Status.RUNNING)
    because = [held(case)] if case.head.owner is not None else []
    for stage in running:
        because.append(attempt_sentence(case, stage))
        job = job_of(case, stage)
        if job is not None:
            because.append(job_held(case, job))
    because += _beside(case)
    if case.head.owner is None and not case.jobs:
        return Explanation(
            reason="executing",
            because=[*because, "But nobody holds it, and it has no job that would move it: it is stuck."],
            then="Whichever process looks first repairs it, within a minute or so.",
            advice=no_process(case)[1],
        )
    if not running:
        return Explanation(
            reason="executing",
            because=[*because, "Nothing of it executes at this moment: it is between two steps."],
            then="Its process goes on at once.",
            advice=[f"If it stays so for seconds, look again: leasehold explain {case.short_id}"],
        )
    return Explanation(
        reason="executing",
        because=because,
        then="It goes on when the body ends.",
        advice=[
            f"To see what it does: leasehold logs {case.short_id} --follow",
            f"A body that hangs is interrupted by: leasehold cancel {case.short_id}",
        ],
    )


def _beside(case: Case) -> list[str]:
    """What other stages wait for meanwhile."""
    return [
        *(suspension_sentence(case, stage) for stage in case.stages(Status.SUSPENDED)),
        *(retry_sentence(case, stage) for stage in case.stages(Status.PENDING) if stage.retry_at is not None),
    ]


# -- a row for each word of waiting_for --------------------------------------------------------------------------------


def _claim(case: Case) -> Explanation:
    because: list[str] = []
    if case.head.owner is not None:
        because += [held(case), "Nobody has taken it over yet."]
        interrupted = [stage.id for stage in case.stages(Status.RUNNING)]
        if interrupted:
            because.append(f"Interrupted: {', '.join(interrupted)}.")
    elif case.jobs:
        return _claim_of_jobs(case)
    elif case.head.head.wake_at is not None:
        because.append(
            f"It could go on, and nobody has taken it: due since {moment(case.head.head.wake_at, case.now)}."
        )
    nobody, advice = no_process(case)
    if nobody:
        return Explanation(reason="claim", because=[*because, *nobody], advice=advice)
    runs = sum(seen.runs for seen in case.knowing)
    if case.sessions is not None:
        because.append(f"Processes that know its workflow: {len(case.knowing)}, driving {runs} runs.")
    return Explanation(
        reason="claim",
        because=because,
        then="The next process with room takes it, by priority and by how long it has waited.",
        advice=[
            "If it is not taken within seconds, start more processes (leasehold up), or raise LEASEHOLD_MAX_BODIES."
        ],
    )


def _claim_of_jobs(case: Case) -> Explanation:
    """Nobody owns it: its jobs move it, and whoever had taken one is gone."""
    queues = ",".join(sorted({job.queue for job in case.jobs}))
    return Explanation(
        reason="claim",
        because=[f'Stage "{job.stage_id}": {job_held(case, job)}' for job in case.jobs],
        advice=[f"If nobody looks: leasehold up --queues {queues}; or have the ServerlessHost called."],
    )


def _unknown_workflow(case: Case) -> Explanation:
    because = (
        [unknown_sentence(case)]
        if case.sessions is not None
        else ["No live process knows its workflow in this version."]
    )
    return Explanation(
        reason="unknown_workflow",
        because=because,
        then="It waits as long as it takes, unless LEASEHOLD_UNKNOWN_WORKFLOW_GRACE_S is set.",
        advice=[PROVIDE_IT, f"If nobody wants it any more: leasehold cancel {case.short_id}"],
    )


def _newer_release(case: Case) -> Explanation:
    return Explanation(
        reason="newer_release",
        because=[f"A newer release of Leasehold wrote it (format {case.head.format}); this one cannot read it."],
        then="Processes of the newer release go on with it.",
        advice=["Finish the upgrade: replace the old processes."],
    )


def _delayed(case: Case) -> Explanation:
    at = case.info.run_at
    assert at is not None, "a delayed run has a time"
    nobody, advice = no_process(case)
    return Explanation(
        reason="delayed_until",
        because=[f"It was started with a run_at: it begins {moment_at(at, case.now)}, and not before.", *nobody],
        then="Nothing is wrong.",
        until=at,
        advice=[
            *advice,
            f"It cannot be brought forward: leasehold cancel {case.short_id}, and start another without run_at.",
        ],
    )


def _retry(case: Case) -> Explanation:
    waiting = [stage for stage in case.stages(Status.PENDING) if stage.retry_at is not None]
    nobody, advice = no_process(case)
    first = waiting[0].id if waiting else "STAGE"
    return Explanation(
        reason="retry",
        because=[*(retry_sentence(case, stage) for stage in waiting), *held_meanwhile(case), *nobody],
        then="The next attempt begins then.",
        until=min((stage.retry_at for stage in waiting if stage.retry_at is not None), default=None),
        advice=[
            *advice,
            f"To begin at once: leasehold cancel {case.short_id}, then leasehold rerun {case.short_id} --from {first}",
        ],
    )


def _poll(case: Case) -> Explanation:
    waiting = case.stages(Status.SUSPENDED)
    nobody, advice = no_process(case)
    return Explanation(
        reason="poll",
        because=[*(suspension_sentence(case, stage) for stage in waiting), *held_meanwhile(case), *nobody],
        then="Its check is asked again then.",
        until=min((stage.next_poll_at for stage in waiting if stage.next_poll_at is not None), default=None),
        advice=[
            *advice,
            f"To have it looked at now: leasehold poll {case.short_id}",
            f"If what it waits for will not come: leasehold cancel {case.short_id}",
        ],
    )


def _queue(case: Case) -> Explanation:
    because, unserved = list[str](), list[str]()
    for job in case.jobs:
        because.append(f'Stage "{job.stage_id}": {job_held(case, job)}')
        if case.sessions is None or job.token is not None:
            continue
        serving = [seen for seen in case.knowing if job.queue in seen.queues]
        if serving:
            because.append(f'Processes that serve "{job.queue}": {", ".join(seen.name for seen in serving)}.')
        else:
            unserved.append(job.queue)
            because.append(f'No live process that knows its workflow serves "{job.queue}".')
    because += _beside(case)
    if not case.jobs:
        names = sorted({stage.queue for stage in case.stages(Status.PENDING) if stage.queue is not None})
        because.append(f"Its stage is to be executed by who serves {', '.join(names) or 'its queue'}.")
    advice = "It is taken as soon as one has room; start more if that takes too long."
    if unserved:
        names = sorted(set(unserved))
        advice = f"Start one: leasehold up --queues {','.join(names)}; or have the ServerlessHost called."
    return Explanation(
        reason="queue", because=because, then="It goes on when its job has been executed.", advice=[advice]
    )


_NOT_BEGUN = (
    "Either that process took it a moment ago; or it has no room, because all its bodies are busy "
    "(LEASEHOLD_MAX_BODIES, threads, child interpreters); or it is gone, and its lease has not ended yet."
)


def _capacity(case: Case) -> Explanation:
    """Nothing durable tells which of the possible reasons it is; a second look tells them apart."""
    waiting = ", ".join(f'"{stage.id}"' for stage in case.stages(Status.PENDING) if case.info.started_at is not None)
    return Explanation(
        reason="capacity",
        because=[
            *([held(case)] if case.head.owner is not None else []),
            f"It could go on with {waiting}, and has not." if waiting else "Nothing of it has begun.",
            _NOT_BEGUN,
        ],
        then="It goes on when one of them ends. If the process is gone, another takes the run when the lease ends.",
        advice=[
            f"Look again in a few seconds: leasehold explain {case.short_id}",
            "If its lease then lasts longer, the process lives, and the run waits for room.",
            "If there is no room for long: start another process, which takes what nobody has begun.",
            "Which bodies are busy, and since when: leasehold runs --status running",
        ],
    )


def _definition_changed(case: Case) -> Explanation:
    return Explanation(
        reason="definition_changed",
        because=_set_aside(case),
        then="Nothing happens by itself until somebody decides.",
        advice=[
            "If the change was a mistake: deploy the former definition, which takes such runs up by itself.",
            "If it is harmless for this run: leasehold up --accept-changes",
            f"Otherwise bump its version, put the former definition beside it, and: leasehold unpark {case.short_id}",
        ],
    )


_REPORT = (
    "Keep the evidence (SELECT * FROM leasehold.history WHERE run_id = …) and report it: its history is damaged, or "
    "this is a bug of ours."
)


def _undecidable(case: Case) -> Explanation:
    return Explanation(
        reason="undecidable",
        because=_set_aside(case),
        then="Nothing happens by itself until somebody decides.",
        advice=[
            _REPORT,
            f"After a release or a restore that mends it: leasehold unpark {case.short_id}",
            f"Otherwise: leasehold cancel {case.short_id}",
        ],
    )


def _parked(case: Case) -> Explanation:
    return Explanation(
        reason=case.info.waiting_for or "parked",
        because=_set_aside(case),
        then="Nothing happens by itself until somebody decides.",
        advice=[f"When it is mended: leasehold unpark {case.short_id}", f"Otherwise: leasehold cancel {case.short_id}"],
    )


def _set_aside(case: Case) -> list[str]:
    at = "" if case.head.parked_at is None else f" {moment_at(case.head.parked_at, case.now)}"
    return [f"It was set aside{at}.", f"{(case.head.parked_reason or 'No reason is known').rstrip('.')}."]


EXPLAINED: Mapping[str, Callable[[Case], Explanation]] = {
    "claim": _claim,
    "unknown_workflow": _unknown_workflow,
    "newer_release": _newer_release,
    "delayed_until": _delayed,
    "retry": _retry,
    "poll": _poll,
    "queue": _queue,
    "capacity": _capacity,
    "definition_changed": _definition_changed,
    "undecidable": _undecidable,
    "parked": _parked,
}
"""By the words of `waiting_for`; another release's reason for parking is explained as `parked`."""


# -- what sinks have not taken -----------------------------------------------------------------------------------------


def _publication(case: Case) -> tuple[list[str], list[str]]:
    because, advice = list[str](), list[str]()
    for debt in case.debts:
        if debt.dead:
            events = "1 of its events" if debt.dead == 1 else f"{debt.dead} of its events"
            because.append(f'Sink "{debt.sink}" refused {events} for good: {debt.dead_error}')
        if debt.owed and debt.tries:
            because.append(
                f'Sink "{debt.sink}" is owed {debt.owed} of its events, tried {debt.tries} times: {debt.error}'
            )
        elif debt.owed:
            because.append(f'Sink "{debt.sink}" is owed {debt.owed} of its events.')
    if any(debt.dead for debt in case.debts):
        advice.append("When the sink is mended: leasehold dlq replay")
    return because, advice
