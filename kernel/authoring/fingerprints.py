"""What a workflow's definition is, in a form that can be compared: with another process's, with last month's.

A run belongs to the definition it was started with. The fingerprint covers what a history depends on: the groups, the
stage ids, their queues, and the names of their types. It leaves out what may change under a run: code, display names,
retry policies, timeouts, and where a class is defined.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kernel.authoring.dataflow import StageGroup
from kernel.authoring.schema import Schema

__all__ = ["definition_difference", "fingerprint_of", "fingerprinted"]


def fingerprinted(groups: Sequence[StageGroup], *, input: Schema, output: Schema) -> dict[str, Any]:
    """The compared parts of a definition as JSON data, to be stored beside the fingerprint."""
    return {
        "input": input.name,
        "output": output.name,
        "groups": [
            {
                "parallel": group.parallel,
                "on_failure": group.on_failure,
                "stages": [
                    {
                        "id": stage.id,
                        "queue": stage.queue,
                        "input": stage.schemas.input.name,
                        "output": stage.schemas.output.name,
                        "config": _name(stage.schemas.config),
                        "state": _name(stage.schemas.state),
                    }
                    for stage in group.stages
                ],
            }
            for group in groups
        ],
    }


def fingerprint_of(data: Mapping[str, Any]) -> str:
    """A short digest of what `fingerprinted` made: 16 hexadecimal digits."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def definition_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What changed between two definitions, in words; empty when nothing did.

    Both are what `fingerprinted` made; `old` may come from a store that an earlier release wrote, so a key that is
    absent there counts as unknown rather than as changed.
    """
    changes: list[str] = []
    for key in ("input", "output"):
        changes.extend(_changed(f"the workflow's {key}", old.get(key), new.get(key)))
    before, after = _stages(old), _stages(new)
    changes.extend(f'stage "{stage_id}" was removed' for stage_id in before if stage_id not in after)
    changes.extend(
        f'stage "{stage_id}" was added to group {after[stage_id]["group"]}'
        for stage_id in after
        if stage_id not in before
    )
    for stage_id in [stage_id for stage_id in before if stage_id in after]:
        for key in ("group", "input", "output", "config", "state", "queue"):
            was, now = before[stage_id].get(key), after[stage_id].get(key)
            changes.extend(_changed(f'{key} of stage "{stage_id}"', was, now))
    changes.extend(_changed_groups(old, new))
    if not changes and [*before] != [*after]:
        changes.append(f"the order of the stages was {', '.join(before)} and is {', '.join(after)}")
    return "; ".join(changes)


def _name(schema: Schema | None) -> str | None:
    return None if schema is None else schema.name


def _changed(what: str, was: object, now: object) -> list[str]:
    return [] if was == now else [f"{what} was {_shown(was)} and is {_shown(now)}"]


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _stages(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        stage["id"]: {**stage, "group": number}
        for number, group in enumerate(data.get("groups", ()), start=1)
        for stage in group["stages"]
    }


def _changed_groups(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes: list[str] = []
    both = zip(old.get("groups", ()), new.get("groups", ()), strict=False)
    for number, (was, now) in enumerate(both, start=1):
        for key in ("parallel", "on_failure"):
            changes.extend(_changed(f"{key} of group {number}", was.get(key), now.get(key)))
    return changes
