"""Plan a prune: list the saves, apply the policy, verify what stays. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.commands.prune.decisions import Decision, GroupPlan, RunRules, decide, group_saves, matches, places
from gsvckpt.commands.prune.demote import Computer, Demoted, plan_demotion
from gsvckpt.commands.prune.inventory import STRAYS, Inventory, take_inventory
from gsvckpt.commands.prune.metric_files import Table
from gsvckpt.commands.prune.metrics import Wanted, find_scores
from gsvckpt.commands.prune.policy import Scores
from gsvckpt.commands.prune.policy_file import RuleSet
from gsvckpt.commands.verify.batch import verify_files
from gsvckpt.commands.verify.findings import select_checks
from gsvckpt.commands.verify.result import Expected, Options
from gsvckpt.engine.saves import Group, Ignored, Save, freed_by
from gsvckpt.errors import GsvError, MissingError, RefusedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import TRASH
from gsvckpt.hints import Hint, quote_word

# What a file must stand that is kept in another's place: all of its bytes are there, as they were saved, and its weights are numbers.
_SOUND = "container,record,pickle,tensor,-tensor.range"
_STRAY = "left by an interrupted save; nothing reads it"


class PruneOptions(NamedTuple):
    """What a prune is to go by: the rules, a table with a metric, and the device and threads for what is to shrink."""

    rules: RuleSet
    table: Table | None = None
    computer: Computer = Computer()


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What stays, goes and shrinks. `freed` are the bytes that this frees; `demoted` what demoted files become; `ignored` is left alone."""

    inventory: Inventory
    groups: tuple[GroupPlan, ...]
    demoted: Mapping[Save, tuple[Demoted, ...]]
    ignored: tuple[Ignored, ...]
    freed: int

    @property
    def empty(self) -> bool:
        """Whether the plan changes nothing."""
        return not any(group.of("remove") or group.of("demote") for group in self.groups)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in which something goes or shrinks."""
        return tuple(dict.fromkeys(group.group.folder for group in self.groups if group.of("remove") or group.of("demote")))


def plan_prune(paths: Sequence[str], options: PruneOptions, progress: Progress) -> PrunePlan:
    """Plan a prune of folders and files. Whatever is kept in the place of something that goes is read whole first, and does not count if damaged.

    Raises MissingError where there is no checkpoint at all, and RefusedError where the policy would empty a group.
    """
    for path in paths:
        above, _, inside = os.path.abspath(path).partition(f"{os.sep}{TRASH}")
        if inside[:1] in ("", os.sep) and above != os.path.abspath(path):
            hint = Hint("brings back the last run; --empty-trash frees the space", f"gsvckpt prune {quote_word(above)} --undo")
            raise RefusedError("is in the trash of gsvckpt", path=path, hint=hint)
    inventory = take_inventory(paths, options.computer.jobs)
    if not inventory.saves and not inventory.ignored:
        raise _nothing(paths, inventory)
    saves = [save for save in inventory.saves if save.group.kind != STRAYS]
    strays = [save for save in inventory.saves if save.group.kind == STRAYS]
    damaged = dict(inventory.damaged)
    known: set[Save] = set()
    runs = [_with_rules(group, of, options) for group, of in group_saves(saves).items()]
    while True:
        groups = decide(runs, damaged)
        doubtful = [save for save in _needed(groups) if save not in known]
        if not doubtful:
            break
        known.update(doubtful)
        damaged |= _find_damaged(doubtful, options.computer.jobs, progress)
    groups, demoted = _with_demotions(groups, inventory.folders, options)
    groups += _stray_plans(strays)
    ignored = (*inventory.ignored, *(Ignored(save.paths[0], why) for save, why in damaged.items()))
    return PrunePlan(inventory, groups, demoted, ignored, _freed(groups, demoted))


def _with_rules(group: Group, saves: tuple[Save, ...], options: PruneOptions) -> RunRules:
    policy = options.rules.of(group)
    scores = find_scores(saves, Wanted(policy.metric, policy.mode, options.table)) if policy.best is not None else Scores()
    return RunRules(group, saves, policy, scores)


def unmatched(plan: PrunePlan, globs: Sequence[str]) -> tuple[str, ...]:
    """The globs that match no save."""
    paths = [path for save in plan.inventory.saves for path in places(save)]
    return tuple(glob for glob in globs if not any(matches(path, glob) for path in paths))


def excess(plan: PrunePlan, rules: RuleSet) -> tuple[int, int] | None:
    """What is left and the `max_size` that it is more than, in bytes; None where it fits or nothing says how much may stay."""
    limits = [limit for group in plan.groups if (limit := rules.of(group.group).max_size) is not None]
    left = sum(decision.save.size for group in plan.groups for decision in (*group.of("keep"), *group.of("demote")))
    left -= sum(save.size for save in plan.demoted) - sum(part.size for parts in plan.demoted.values() for part in parts)
    return (left, min(limits)) if limits and left > min(limits) else None


def _nothing(paths: Sequence[str], inventory: Inventory) -> GsvError:
    for failure in inventory.failures:
        return failure
    return MissingError("holds no checkpoint", path=paths[0], hint="name a folder with checkpoints, like logs/alice or SoVITS_weights_v2")


def _needed(groups: Sequence[GroupPlan]) -> list[Save]:
    """The saves whose staying justifies that others go, and those that are to shrink, which a damaged one cannot."""
    return [
        decision.save
        for group in groups
        if group.of("remove") or group.of("demote")
        for decision in (*group.of("keep"), *group.of("demote"))
        if decision.fate == "demote" or decision.reasons != decision.save.guards
    ]


def _find_damaged(saves: Sequence[Save], jobs: int, progress: Progress) -> dict[Save, str]:
    """Read saves whole. Those that are not sound, and why."""
    options = Options(select_checks(_SOUND), digests=frozenset())
    files = {path: Expected() for save in saves for path in save.readable}
    results = {result.path: result for result in verify_files(files, options, jobs, progress)}
    found: dict[Save, str] = {}
    for save in saves:
        for path in save.readable:
            result = results[path]
            worst = next((finding.why for finding in result.findings if finding.severity == "error"), "")
            if result.status in ("damaged", "unsafe", "unchecked") or worst:
                why = worst or (result.error["why"] if result.error is not None else result.status)
                which = f"{os.path.basename(path)} " if len(save.readable) > 1 else ""
                found.setdefault(save, f"{which}is {result.status}: {why}")
    return found


def _with_demotions(
    groups: Sequence[GroupPlan], folders: Sequence[str], options: PruneOptions
) -> tuple[tuple[GroupPlan, ...], dict[Save, tuple[Demoted, ...]]]:
    """Work out what demoted saves become; one that cannot be made smaller stays as it is."""
    demoted: dict[Save, tuple[Demoted, ...]] = {}
    done = []
    for group in groups:
        to = options.rules.of(group.group).demote_to or "stripped"
        decisions = []
        note = group.note
        for decision in group.decisions:
            if decision.fate == "demote":
                try:
                    demoted[decision.save] = plan_demotion(decision.save, to, folders, options.computer)
                except GsvError as error:
                    note = f"cannot be made smaller: {error.why}"
                    decisions.append(Decision(decision.save, "keep", (note,)))
                    continue
            decisions.append(decision)
        done.append(group._replace(decisions=tuple(decisions), note=note if not any(decision.fate == "demote" for decision in decisions) else ""))
    return tuple(done), demoted


def _stray_plans(strays: Sequence[Save]) -> tuple[GroupPlan, ...]:
    folders: dict[Group, list[Save]] = {}
    for save in strays:
        folders.setdefault(save.group, []).append(save)
    return tuple(GroupPlan(group, tuple(Decision(save, "remove", (_STRAY,)) for save in saves)) for group, saves in folders.items())


def _freed(groups: Sequence[GroupPlan], demoted: Mapping[Save, tuple[Demoted, ...]]) -> int:
    """Bytes that the disk gets back."""
    gone = [file for group in groups for decision in group.decisions if decision.fate != "keep" for file in decision.save.files]
    return freed_by(gone) - sum(one.size for made in demoted.values() for one in made)
