"""Planning a prune: what folders hold, what the policy says, whether what stays is sound. Nothing is changed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.commands.prune.decisions import Decision, GroupPlan, Policy, Scores, decide, matches
from gsvckpt.commands.prune.demote import EngineFor, Shrunk, plan_demotion
from gsvckpt.commands.prune.inventory import STRAYS, Ignored, Inventory, LookAll, take_inventory
from gsvckpt.commands.prune.saves import Group, Unit, freed_by
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.findings import select_checks
from gsvckpt.commands.verify.result import Expected, Options
from gsvckpt.errors import GsvError, MissingError, RefusedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import TRASH

# What a file must stand that is kept in another's place: all of its bytes are there, as they were saved, and its weights are numbers.
_SOUND = "container,record,pickle,tensor,-tensor.range"
_STRAY = "an interrupted save left it, and nothing reads it"


class Wishes(NamedTuple):
    """What a prune is to go by. `policy_of` and `scores_of` are asked for each group, `engine_for` for each file that is to shrink."""

    policy_of: Callable[[Group], Policy]
    scores_of: Callable[[Sequence[Unit], Policy], Scores]
    engine_for: EngineFor
    look_all: LookAll
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What stays, goes and shrinks. `freed` are the bytes that this comes to; `shrunk` what demoted files become; `ignored` is left alone."""

    inventory: Inventory
    groups: tuple[GroupPlan, ...]
    shrunk: Mapping[Unit, tuple[Shrunk, ...]]
    ignored: tuple[Ignored, ...]
    freed: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not any(group.of("remove") or group.of("demote") for group in self.groups)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in which something goes or shrinks."""
        return tuple(dict.fromkeys(group.group.folder for group in self.groups if group.of("remove") or group.of("demote")))


def plan_prune(paths: Sequence[str], wishes: Wishes, progress: Progress) -> PrunePlan:
    """Plan a prune of folders and files. Whatever is kept in the place of something that goes is read whole first, and does not count if damaged.

    Raises MissingError where there is no checkpoint at all, and RefusedError where the policy would empty a group.
    """
    for path in paths:
        above, _, inside = os.path.abspath(path).partition(f"{os.sep}{TRASH}")
        if inside[:1] in ("", os.sep) and above != os.path.abspath(path):
            raise RefusedError("lies in the trash of gsvckpt", path=path, hint=f"gsvckpt prune {shlex.quote(above)} --undo, or --empty-trash")
    inventory = take_inventory(paths, wishes.look_all)
    if not inventory.units:
        raise _nothing(paths, inventory)
    units = [unit for unit in inventory.units if unit.group.kind != STRAYS]
    strays = [unit for unit in inventory.units if unit.group.kind == STRAYS]
    damaged = dict(inventory.damaged)
    known: set[Unit] = set()
    scores: dict[Group, Scores] = {}
    members: dict[Group, list[Unit]] = {}
    for unit in units:
        members.setdefault(unit.group, []).append(unit)

    def scores_of(group: Group) -> Scores:
        if group not in scores:
            scores[group] = wishes.scores_of(members[group], wishes.policy_of(group))
        return scores[group]

    while True:
        groups = decide(units, wishes.policy_of, scores_of, damaged)
        doubtful = [unit for unit in _needed(groups) if unit not in known]
        if not doubtful:
            break
        known.update(doubtful)
        damaged |= _find_damaged(doubtful, wishes.jobs, progress)
    groups, shrunk = _with_demotions(groups, wishes)
    groups += _stray_plans(strays)
    ignored = (*inventory.ignored, *(Ignored(unit.paths[0], why) for unit, why in damaged.items()))
    return PrunePlan(inventory, groups, shrunk, ignored, _freed(groups, shrunk))


def unmatched(plan: PrunePlan, globs: Sequence[str]) -> tuple[str, ...]:
    """Those that mean none of the saves."""
    paths = [path for unit in plan.inventory.units for path in unit.paths]
    return tuple(glob for glob in globs if not any(matches(path, glob) for path in paths))


def excess(plan: PrunePlan, policy_of: Callable[[Group], Policy]) -> tuple[int, int] | None:
    """What is left and the `max_size` that it is more than, in bytes; None where it fits or nothing says how much may stay."""
    limits = [limit for group in plan.groups if (limit := policy_of(group.group).max_size) is not None]
    left = sum(decision.unit.size for group in plan.groups for decision in (*group.of("keep"), *group.of("demote")))
    left -= sum(unit.size for unit in plan.shrunk) - sum(part.size for parts in plan.shrunk.values() for part in parts)
    return (left, min(limits)) if limits and left > min(limits) else None


def _nothing(paths: Sequence[str], inventory: Inventory) -> GsvError:
    for failure in inventory.failures:
        return failure
    for left in inventory.ignored:
        why = f"holds no checkpoint to decide about: {os.path.basename(left.path)}: {left.why}"
        return MissingError(why, path=paths[0], hint=f"gsvckpt verify {paths[0]} -r tells what is wrong with the files")
    return MissingError("holds no checkpoint", path=paths[0], hint="name a folder with checkpoints, like logs/alice or SoVITS_weights_v2")


def _needed(groups: Sequence[GroupPlan]) -> list[Unit]:
    """The units whose staying justifies that others go, and those that are to shrink, which a damaged one cannot."""
    return [
        decision.unit
        for group in groups
        if group.of("remove") or group.of("demote")
        for decision in (*group.of("keep"), *group.of("demote"))
        if decision.fate == "demote" or decision.reasons != decision.unit.guards
    ]


def _find_damaged(units: Sequence[Unit], jobs: int, progress: Progress) -> dict[Unit, str]:
    """Read units whole. Those that are not sound, and why."""
    options = Options(select_checks(_SOUND), digests=frozenset())
    files = {path: Expected() for unit in units for path in unit.paths}
    results = {result.path: result for result in verify_files(files, options, jobs, progress)}
    found: dict[Unit, str] = {}
    for unit in units:
        for path in unit.paths:
            result = results[path]
            worst = next((finding.why for finding in result.findings if finding.severity == "error"), "")
            if result.status in ("damaged", "unsafe", "unchecked") or worst:
                why = worst or (result.error["why"] if result.error is not None else result.status)
                which = f"{os.path.basename(path)} " if len(unit.paths) > 1 else ""
                found.setdefault(unit, f"{which}is {result.status}: {why}")
    return found


def _with_demotions(groups: Sequence[GroupPlan], wishes: Wishes) -> tuple[tuple[GroupPlan, ...], dict[Unit, tuple[Shrunk, ...]]]:
    """Work out what demoted units become; one that cannot be made smaller stays as it is."""
    shrunk: dict[Unit, tuple[Shrunk, ...]] = {}
    done = []
    for group in groups:
        to = wishes.policy_of(group.group).demote_to or "stripped"
        decisions = []
        note = group.note
        for decision in group.decisions:
            if decision.fate == "demote":
                try:
                    shrunk[decision.unit] = plan_demotion(decision.unit, to, wishes.engine_for, wishes.jobs)
                except GsvError as error:
                    note = f"cannot be made smaller: {error.why}"
                    decisions.append(Decision(decision.unit, "keep", (note,)))
                    continue
            decisions.append(decision)
        done.append(group._replace(decisions=tuple(decisions), note=note if not any(decision.fate == "demote" for decision in decisions) else ""))
    return tuple(done), shrunk


def _stray_plans(strays: Sequence[Unit]) -> tuple[GroupPlan, ...]:
    folders: dict[Group, list[Unit]] = {}
    for unit in strays:
        folders.setdefault(unit.group, []).append(unit)
    return tuple(GroupPlan(group, tuple(Decision(unit, "remove", (_STRAY,)) for unit in units)) for group, units in folders.items())


def _freed(groups: Sequence[GroupPlan], shrunk: Mapping[Unit, tuple[Shrunk, ...]]) -> int:
    """Bytes that the disk gets back."""
    gone = [member for group in groups for decision in group.decisions if decision.fate != "keep" for member in decision.unit.members]
    return freed_by(gone) - sum(one.size for made in shrunk.values() for one in made)
