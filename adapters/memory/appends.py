"""The append: seven modes, each with its condition, its refusals and what it writes.

Every function checks first and writes last, so a refusal leaves no trace. An append that is sent again is recognised:
by its id in the history, or, where it writes no history, by its effect on the head.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from types import MappingProxyType

from pydantic_core import from_json

from adapters.memory import jobs
from adapters.memory.payloads import frozen_json
from adapters.memory.tables import Key, Run, Tables
from kernel.errors import Conflict, InvalidCommand, JobLost, LeaseLost, RunNotFound, StaleVersion, WorkflowNotFound
from kernel.model.head import Head
from kernel.model.ids import RUN_ID_SKEW_MAX, is_run_id, minted_at
from kernel.ports.persistence import Append, HistoryRow, KeyRecord, KeyTaken

__all__ = ["write"]

KEY_LIFETIME = timedelta(days=30)

ERROR_MESSAGE_MAX = 10_000
"""Characters of an error's message that a head keeps."""


def write(tables: Tables, append: Append, bodies: Mapping[str, bytes], now: datetime) -> bool:
    """Do what the append says, and return whether other processes may care.

    Raises: what `Appends.append` promises; then nothing has changed.
    """
    match append.mode:
        case "create":
            return _create(tables, append, bodies, now)
        case "park" if append.lease is None:
            return _park_unowned(tables, append, now)
        case "foreign" | "dispatch" | "unpark":
            return _from_outside(tables, append, bodies, now)
        case "poll" if append.lease is None:
            return _from_outside(tables, append, bodies, now)
        case _:
            return _by_owner(tables, append, bodies, now)


def _create(tables: Tables, append: Append, bodies: Mapping[str, bytes], now: datetime) -> bool:
    new = append.new
    assert new is not None, "a creation says what it creates"
    run = tables.runs.get(append.run_id)
    if run is not None:
        return _refuse(run, append, StaleVersion(append.run_id, expected=append.expected, actual=run.seq))
    _check_run_id(append.run_id, now)
    if (new.workflow_id, new.workflow_version) not in tables.workflows:
        known = (workflow_id for workflow_id, _ in tables.workflows)
        raise WorkflowNotFound(new.workflow_id, version=new.workflow_version, known=known)
    if append.lease is not None and tables.find_live(append.lease.session_id, now) is None:
        raise LeaseLost(append.run_id, session_id=append.lease.session_id)
    metadata = None if new.metadata is None else frozen_json(new.metadata, "metadata")
    _check_key(tables, append.key, now)
    run = Run(
        run_id=append.run_id,
        new=replace(new, metadata=None, trace_context=None if new.trace_context is None else dict(new.trace_context)),
        metadata=metadata,
        head=append.head,
        seq=0,
        created_at=append.at,
        updated_at=now,
    )
    tables.insert(run)
    if append.lease is not None:
        run.claim = append.lease.claim
        tables.place(run, owner=append.lease.session_id, wake_at=None)
    return _extend(tables, run, append, bodies, now)


def _by_owner(tables: Tables, append: Append, bodies: Mapping[str, bytes], now: datetime) -> bool:
    lease = append.lease
    assert lease is not None, "who owns a run names the lease"
    run = tables.runs.get(append.run_id)
    lost = LeaseLost(append.run_id, session_id=lease.session_id)
    if run is None:
        raise lost
    holds = run.owner == lease.session_id and run.claim == lease.claim
    if not holds or tables.find_live(lease.session_id, now) is None:
        return _refuse(run, append, lost)
    if run.seq != append.expected:
        return _refuse(run, append, StaleVersion(append.run_id, expected=append.expected, actual=run.seq))
    if append.mode == "owned":
        return _extend(tables, run, append, bodies, now)
    run.attention = False
    run.updated_at = now
    _keep_looks(run, append)
    if append.mode == "poll":
        return False
    if append.mode == "park":
        run.parked_reason = append.parked_reason or "unknown"
        run.parked_at = now
        tables.place(run, owner=None, wake_at=None)
        return False
    tables.place(run, owner=None, wake_at=None if run.ended else _not_past(append.head.wake_at, now))
    return _due(run, now)


def _from_outside(tables: Tables, append: Append, bodies: Mapping[str, bytes], now: datetime) -> bool:
    run = tables.runs.get(append.run_id)
    if run is None:
        raise RunNotFound(append.run_id)
    stale = StaleVersion(append.run_id, expected=append.expected, actual=run.seq)
    if run.seq != append.expected:
        return _refuse(run, append, stale)
    if append.mode == "dispatch":
        _check_unowned(tables, run, append)
    try:
        jobs.check_lease(tables, append.jobs)
    except JobLost as lost:
        return _refuse(run, append, lost)
    if append.mode in ("foreign", "dispatch"):
        _check_key(tables, append.key, now)
        if append.mode == "dispatch":
            tables.place(run, owner=None, wake_at=None)
            run.attention = False
        return _extend(tables, run, append, bodies, now)
    if append.mode == "poll":
        _keep_looks(run, append)
        runnable = jobs.change(tables, run, append.jobs, now)
        run.updated_at = now
        if run.owner is None and run.parked_reason is None:
            tables.place(run, owner=None, wake_at=None if run.ended else _not_past(append.head.wake_at, now))
        return _due(run, now) or runnable
    if run.parked_reason is None:
        return _refuse(run, append, stale)
    run.parked_reason = run.parked_at = None
    run.updated_at = now
    tables.place(run, owner=None, wake_at=_not_past(append.head.wake_at, now))
    return _due(run, now)


def _park_unowned(tables: Tables, append: Append, now: datetime) -> bool:
    run = tables.runs.get(append.run_id)
    if run is None:
        raise RunNotFound(append.run_id)
    if run.seq != append.expected or run.ended:
        raise StaleVersion(append.run_id, expected=append.expected, actual=run.seq)
    if run.parked_reason is None:
        _check_unowned(tables, run, append)
        run.parked_reason, run.parked_at = append.parked_reason or "unknown", now
        run.attention = False
        run.updated_at = now
        tables.place(run, owner=None, wake_at=None)
    return False


def _check_unowned(tables: Tables, run: Run, append: Append) -> None:
    """Nobody may own it but a condemned session, and it must not be parked. Raises: LeaseLost, StaleVersion."""
    if run.owner is not None and not tables.sessions[run.owner].condemned:
        raise LeaseLost(append.run_id, session_id=run.owner)
    if run.parked_reason is not None:
        raise StaleVersion(append.run_id, expected=append.expected, actual=run.seq)


def _extend(tables: Tables, run: Run, append: Append, bodies: Mapping[str, bytes], now: datetime) -> bool:
    """Add the history row and the key, and move the head; everything has been checked."""
    assert append.events is not None
    run.rows.append(
        HistoryRow(
            first_seq=append.expected + 1,
            seq=append.seq,
            append_id=append.append_id,
            session_id=None if append.lease is None else append.lease.session_id,
            at=append.at,
            events=append.events,
            bodies=MappingProxyType(dict(bodies)),
        )
    )
    run.seq, run.head, run.updated_at = append.seq, _kept(append.head), now
    run.format = max(run.format, append.format)
    _keep_looks(run, append)
    if tables.sinks and run.publish_at is None:
        run.publish_at = now
        tables.unspread[run.run_id] = run
    if append.key is not None:
        expires_at = append.key.expires_at or now + KEY_LIFETIME
        tables.keys[_name(append.key)] = Key(run_id=run.run_id, digest=append.key.digest, expires_at=expires_at)
    runnable = jobs.change(tables, run, append.jobs, now)
    if run.ended:
        run.parked_reason = run.parked_at = None
        # Whoever executes something of a run that others ended must hear of it, and gives it back then.
        run.attention = append.mode == "foreign" and run.owner is not None
        tables.place(run, owner=run.owner if run.attention else None, wake_at=None)
        return True
    if run.owner is not None:
        run.attention = append.mode == "foreign"
        return run.attention or runnable
    if run.parked_reason is None:
        tables.place(run, owner=None, wake_at=_not_past(append.head.wake_at, now))
    return _due(run, now) or runnable


def _keep_looks(run: Run, append: Append) -> None:
    """What is asked of a run that has ended is nothing any more."""
    if run.ended:
        run.poll_state = None
    elif append.poll_state is not None:
        run.poll_state = {**(run.poll_state or {}), **from_json(append.poll_state)}


def _kept(head: Head) -> Head:
    """A head without what is too long for one; the whole error stands in the history."""
    if head.error is None:
        return head
    error = replace(head.error.error, traceback=None, message=head.error.error.message[:ERROR_MESSAGE_MAX])
    return replace(head, error=replace(head.error, error=error))


def _refuse(run: Run, append: Append, error: Conflict) -> bool:
    """Raise the error, unless the refusal only means that this very append is there already."""
    if append.events is not None:
        at = bisect_left(run.rows, append.seq, key=attrgetter("seq"))
        landed = at < len(run.rows) and run.rows[at].append_id == append.append_id
    elif append.mode == "poll":
        # Whether it was done does not matter: who looks again looks once too often at worst.
        landed = False
    elif append.mode == "unpark":
        landed = run.seq == append.expected and run.owner is None
    else:
        assert append.lease is not None, "what outsiders do is recognised by its condition"
        landed = run.seq == append.expected and run.owner is None and run.claim == append.lease.claim
        landed = landed and (run.parked_reason is not None) == (append.mode == "park")
    if not landed:
        raise error
    return False


def _check_run_id(run_id: str, now: datetime) -> None:
    if not is_run_id(run_id):
        raise InvalidCommand(
            f'"{run_id}" is no run id.', field="run_id", hint="Run ids are UUIDs of version 7, in lower case."
        )
    if abs(minted_at(run_id) - now) > RUN_ID_SKEW_MAX:
        raise InvalidCommand(
            f'The id of run "{run_id}" was minted at {minted_at(run_id).isoformat()}, more than an hour off the '
            f"database's time {now.isoformat()}.",
            field="run_id",
            hint="Set this machine's clock, and mint ids when they are used.",
        )


def _check_key(tables: Tables, key: KeyRecord | None, now: datetime) -> None:
    if key is None:
        return
    holder = tables.keys.get(_name(key))
    if holder is not None and holder.expires_at > now:
        raise KeyTaken(key, run_id=holder.run_id, digest=holder.digest)


def _name(key: KeyRecord) -> tuple[str, str, str]:
    return key.command_type, key.scope, key.key


def _not_past(moment: datetime | None, now: datetime) -> datetime | None:
    return None if moment is None else max(moment, now)


def _due(run: Run, now: datetime) -> bool:
    return run.owner is None and run.wake_at is not None and run.wake_at <= now


def unpark_all(tables: Tables, definitions: Sequence[tuple[str, str, str | None]], now: datetime) -> int:
    """Make the runs claimable that were parked because one of these definitions had changed."""
    wanted = {(run_id, version): fingerprint for run_id, version, fingerprint in definitions}
    returned = 0
    for run in tables.runs.values():
        if not (run.parked_reason or "").startswith("definition_changed") or run.definition not in wanted:
            continue
        if wanted[run.definition] in (None, run.new.fingerprint):
            run.parked_reason = run.parked_at = None
            run.updated_at = now
            tables.place(run, owner=None, wake_at=now)
            returned += 1
    return returned
