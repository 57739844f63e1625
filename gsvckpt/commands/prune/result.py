"""The JSON objects of prune: the plan, what was done, and the runs in the trash."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import get_args

from gsvckpt.commands.prune.decisions import Decision, Fate, GroupPlan
from gsvckpt.commands.prune.demote import Demoted
from gsvckpt.commands.prune.execute import Cleared
from gsvckpt.commands.prune.plan import PrunePlan
from gsvckpt.commands.prune.policy_file import Applied
from gsvckpt.commands.prune.trash_run import TrashRun
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.listing import Features
from gsvckpt.engine.saves import Ignored, Save


def as_json(plan: PrunePlan, applied: Sequence[Applied], cleared: Cleared | None) -> dict[str, object]:
    """The keys of the document besides those that all have. Freed bytes are the plan's, after a run those that really went. `policy` is where the
    rules come from; where folders have files of their own, the first of them, and `policies` has all.
    """
    told = sorted((one.as_json() for one in applied), key=lambda facts: facts["file"] is None)
    return {
        "policy": told[0],
        **({"policies": told} if len(told) > 1 else {}),
        "groups": [_group_json(group, plan.demoted) for group in plan.groups],
        **_runs_json(plan),
        "ignored": [left._asdict() for left in plan.ignored],
        "left": [{"paths": paths, "why": why} for why, paths in left_by_reason(plan.ignored).items()],
        **({"features": _features_json(plan.inventory.features)} if plan.inventory.features else {}),
        "freed_bytes": plan.freed if cleared is None else cleared.freed,
        "done": cleared is not None,
        "trash": [run.folder for run in cleared.runs if os.path.isdir(run.folder)] if cleared is not None else [],
    }


def _runs_json(plan: PrunePlan) -> dict[str, object]:
    """`runs`, with their dates, where one name holds several."""
    dated = [group.group for group in plan.groups if group.group.dates]
    found = [{"group": group.label, "folder": group.folder or ".", "dates": group.dates} for group in dated]
    return {"runs": found} if found else {}


def failures_json(plan: PrunePlan, cleared: Cleared | None) -> list[dict[str, object]]:
    """Folders that could not be looked through and files that could not be moved."""
    return [failure_json(error) for error in (*plan.inventory.failures, *(cleared.failures if cleared is not None else ()))]


def _group_json(group: GroupPlan, demoted: Mapping[Save, tuple[Demoted, ...]]) -> dict[str, object]:
    facts: dict[str, object] = {"group": group.group.label, "folder": group.group.folder or "."}
    facts |= {"dates": group.group.dates} if group.group.dates else {}
    for fate in get_args(Fate):
        facts[fate] = [_decision_json(decision, demoted.get(decision.save, ())) for decision in group.of(fate)]
    return {**facts, "note": group.note}


def _decision_json(decision: Decision, demoted: Sequence[Demoted]) -> dict[str, object]:
    save = decision.save
    facts: dict[str, object] = {
        "paths": list(save.paths),
        "reasons": list(decision.reasons),
        "bytes": save.size,
        "epoch": save.epoch,
        "step": save.step,
    }
    if decision.fate == "demote":
        facts |= {"bytes_after": sum(one.size for one in demoted), "outputs": [one.place for one in demoted]}
    return facts


def left_by_reason(ignored: Sequence[Ignored]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for left in ignored:
        found.setdefault(left.why, []).append(left.path)
    return found


def _features_json(features: Sequence[Features]) -> dict[str, object]:
    return {"files": sum(one.files for one in features), "bytes": sum(one.size for one in features), "folders": [one.folder for one in features]}


def run_json(run: TrashRun) -> dict[str, object]:
    """A run of the trash that was undone or emptied."""
    return {"run": run.stamp, "root": run.root, "paths": [run.original(step) for step in run.steps]}
