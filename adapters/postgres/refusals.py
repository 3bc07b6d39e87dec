"""Why an append is missing from its statement's answer: told apart by a second read, never guessed.

Pure: what to ask for each item, and what follows from the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from adapters.postgres.batches import Item, key_columns
from kernel.errors import InvalidCommand, JobLost, LeaseLost, RunNotFound, StaleVersion
from kernel.model.ids import RUN_ID_SKEW_MAX, minted_at
from kernel.model.jobs import JobLease
from kernel.ports.persistence import Append, KeyRecord, KeyTaken

__all__ = ["Refusal", "Verdict", "judge", "questions"]


def questions(items: Sequence[Item]) -> tuple[object, ...]:
    """The parameters of `append_refused.sql`."""
    return tuple(
        zip(
            *(
                (
                    item.append.run_id,
                    item.append.append_id,
                    item.append.seq,
                    item.kind.session,
                    *key_columns(item.append.key)[:3],
                    None if (lease := _job_lease(item)) is None else lease.stage_id,
                )
                for item in items
            ),
            strict=True,
        )
    )


class Refusal(NamedTuple):
    """What `append_refused.sql` says of one item."""

    now: datetime
    seq: int | None
    owner: str | None
    claim: int | None
    parked: bool
    landed: bool
    live: bool
    key_run_id: str | None
    key_digest: str | None
    key_expired: bool | None
    job_token: str | None


class Verdict(NamedTuple):
    """What became of an item that its statement did not do: done before, refused for good, or to be sent again."""

    done: bool = False
    error: Exception | None = None
    forget_key: bool = False


DONE = Verdict(done=True)
AGAIN = Verdict()
AGAIN_WITHOUT_KEY = Verdict(forget_key=True)


def judge(item: Item, found: Refusal) -> Verdict:
    """Tell the refusals apart, by what the store says now and never by guessing."""
    if found.landed and item.append.events is not None:
        return DONE
    match item.kind.group:
        case "create":
            return _judge_created(item, found)
        case "owned":
            return _judge_owned(item, found)
        case "foreign":
            return _judge_foreign(item, found)


def _judge_created(item: Item, found: Refusal) -> Verdict:
    append = item.append
    if found.seq is not None:
        return Verdict(error=StaleVersion(append.run_id, expected=append.expected, actual=found.seq))
    minted = minted_at(append.run_id)
    if abs(minted - found.now) > RUN_ID_SKEW_MAX:
        return Verdict(
            error=InvalidCommand(
                f'The id of run "{append.run_id}" was minted at {minted.isoformat()}, more than an hour off the '
                f"database's time {found.now.isoformat()}.",
                field="run_id",
                hint="Set this machine's clock, and mint ids when they are used.",
            )
        )
    if append.lease is not None and not found.live:
        return Verdict(error=LeaseLost(append.run_id, session_id=append.lease.session_id))
    return _judge_key(append.key, found) or AGAIN


def _judge_owned(item: Item, found: Refusal) -> Verdict:
    append = item.append
    lease = append.lease
    assert lease is not None
    if append.events is None and append.mode != "poll":
        # No history row tells; the head does: nobody has owned the run since, and it is as this would have left it.
        left = found.seq == append.expected and found.owner is None and found.claim == lease.claim
        if left and found.parked == (append.mode == "park"):
            return DONE
    if found.owner != lease.session_id or found.claim != lease.claim or not found.live:
        return Verdict(error=LeaseLost(append.run_id, session_id=lease.session_id))
    if found.seq != append.expected:
        return Verdict(error=StaleVersion(append.run_id, expected=append.expected, actual=found.seq))
    # As expected in everything: somebody had it locked just then.
    return AGAIN


def _judge_foreign(item: Item, found: Refusal) -> Verdict:
    append = item.append
    if found.seq is None:
        return Verdict(error=RunNotFound(append.run_id))
    if found.seq != append.expected:
        return Verdict(error=StaleVersion(append.run_id, expected=append.expected, actual=found.seq))
    if append.mode in ("dispatch", "park"):
        return _judge_unowned(append, found)
    if append.mode == "unpark" and not found.parked:
        if found.owner is None:
            return DONE
        return Verdict(error=StaleVersion(append.run_id, expected=append.expected, actual=found.seq))
    lease = _job_lease(item)
    if lease is not None and found.job_token != lease.token:
        return Verdict(error=JobLost(lease.run_id, lease.stage_id, token=lease.token))
    return _judge_key(append.key, found) or AGAIN


def _judge_unowned(append: Append, found: Refusal) -> Verdict:
    if found.owner is not None:
        return Verdict(error=LeaseLost(append.run_id, session_id=found.owner))
    if not found.parked:
        return AGAIN
    stale = StaleVersion(append.run_id, expected=append.expected, actual=found.seq)
    return DONE if append.mode == "park" else Verdict(error=stale)


def _job_lease(item: Item) -> JobLease | None:
    return None if item.append.jobs is None else item.append.jobs.lease


def _judge_key(key: KeyRecord | None, found: Refusal) -> Verdict | None:
    if key is None or found.key_run_id is None:
        return None
    if found.key_expired:
        return AGAIN_WITHOUT_KEY
    assert found.key_digest is not None
    return Verdict(error=KeyTaken(key, run_id=found.key_run_id, digest=found.key_digest))
