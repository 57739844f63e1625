"""Run prune from options to result: read the rules, tidy up the trash, make the plan, carry it out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gsvckpt.commands.prune.demote import Computer
from gsvckpt.commands.prune.execute import Cleared, PruneOrders, carry_out, check_archive
from gsvckpt.commands.prune.metrics import read_table
from gsvckpt.commands.prune.plan import PruneOptions, PrunePlan, excess, plan_prune, unmatched
from gsvckpt.commands.prune.policy import DemoteTo, Policy, parse_every
from gsvckpt.commands.prune.policy_file import Applied, rules_for
from gsvckpt.commands.prune.result import as_json, failures_json
from gsvckpt.commands.prune.trash import alone, find_runs, has_trash, require_trash, settle_interrupted
from gsvckpt.engine.document import document
from gsvckpt.engine.resources import Resources
from gsvckpt.errors import GsvError, MissingError, RefusedError, UsageError
from gsvckpt.files.paths import require_local
from gsvckpt.files.progress import Progress
from gsvckpt.units import parse_duration, parse_size, size


class PruneRules(NamedTuple):
    """The rules of the options, as they were written."""

    keep_last: int | None
    keep_best: int | None
    metric: str | None
    mode: Literal["min", "max"] | None
    keep_every: str | None
    keep_within: str | None
    keep: tuple[str, ...]
    max_size: str | None
    demote_after: int | None
    demote_to: DemoteTo | None

    def policy(self) -> Policy:
        """Raises UsageError for a rule that cannot be read."""
        return Policy(
            self.keep_last,
            self.keep_best,
            parse_every(self.keep_every, "--keep-every") if self.keep_every is not None else None,
            parse_duration(self.keep_within, "--keep-within") if self.keep_within is not None else None,
            self.keep,
            parse_size(self.max_size, "--max-size") if self.max_size is not None else None,
            self.demote_after,
            self.demote_to,
            self.metric,
            self.mode,
        )


class PruneFiles(NamedTuple):
    """The files and the folder that options name: rules, a table with a metric, and the folder to which files are copied before they are removed."""

    policy: str | None
    metrics: str | None
    archive: str | None


class PreparedPrune(NamedTuple):
    """The task to plan: the folders, those whose trash is used, the rules for each, and the device and threads."""

    folders: tuple[str, ...]
    places: tuple[str, ...]
    rules: Policy
    options: PruneOptions
    orders: PruneOrders

    @property
    def applied(self) -> tuple[Applied, ...]:
        """Where the rules come from."""
        return self.options.rules.applied(self.folders)


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A plan and, if it was carried out, its result. `warnings` are pairs of an option or a path, and a sentence."""

    plan: PrunePlan
    applied: tuple[Applied, ...]
    warnings: tuple[tuple[str, str], ...]
    cleared: Cleared | None = None

    @property
    def errors(self) -> tuple[GsvError, ...]:
        """Folders that could not be looked through, and files that could not be moved."""
        return (*self.plan.inventory.failures, *(self.cleared.failures if self.cleared is not None else ()))

    @property
    def freed(self) -> int:
        """The bytes that the plan frees; after it was carried out, those really freed, or that emptying the trash frees."""
        return self.plan.freed if self.cleared is None else self.cleared.freed

    @property
    def exit_code(self) -> int:
        """The exit code that the command would have."""
        return max((error.exit_code for error in self.errors), default=0)

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        files = failures_json(self.plan, self.cleared)
        return document("prune", files, self.exit_code, after=as_json(self.plan, self.applied, self.cleared))


def require_folders(folders: Sequence[str]) -> None:
    """Raise UsageError for URLs, and MissingError for missing paths."""
    require_local(folders, "prune")
    for folder in folders:
        if not os.path.exists(folder):
            raise MissingError("there is no such file or folder", path=folder, hint="name a folder with checkpoints, like logs/alice")


def places_of(paths: Sequence[str]) -> tuple[str, ...]:
    """The folders whose trash is used: named folders and the folders of named files, each once, and none inside another."""
    found: dict[str, str] = {}
    for path in paths:
        folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
        found.setdefault(os.path.realpath(folder), folder)
    return tuple(folder for real, folder in found.items() if not any(real.startswith(other.rstrip(os.sep) + os.sep) for other in found))


def prepare(folders: Sequence[str], rules: Policy, files: PruneFiles, resources: Resources, *, purge: bool, dry_run: bool) -> PreparedPrune:
    """Read the rules. Raises UsageError if they cannot be read or there are none, and RefusedError if the trash is not ours."""
    check_archive(files.archive, folders)
    _require_quoted(folders, rules)
    rule_set = rules_for(folders, rules, files.policy)
    table = read_table(files.metrics, rules.metric) if files.metrics is not None else None
    places = places_of(folders)
    for place in places if not dry_run else ():
        require_trash(place)
    computer = Computer(resources.device, resources.workers, fixed=resources.jobs is not None)
    return PreparedPrune(tuple(folders), places, rules, PruneOptions(rule_set, table, computer), PruneOrders(files.archive, purge, computer))


def _require_quoted(paths: Sequence[str], rules: Policy) -> None:
    """Raise UsageError if the shell seems to have expanded the glob of --keep: then all matches but the first are among the folders."""
    folders = {os.path.realpath(path) for path in paths if os.path.isdir(path)}
    files = [path for path in paths if not os.path.isdir(path) and os.path.realpath(os.path.dirname(path) or ".") in folders]
    if rules.keep and files:
        why = "takes one glob, and this file is in a folder that is pruned anyway"
        raise UsageError(why, where="--keep", path=files[0], hint="put the glob in quotes: --keep '*-e10.ckpt'")


def settle(places: Sequence[str], *, allowed: bool) -> tuple[tuple[str, str], ...]:
    """Put the trash in order after a run that was interrupted, before a plan is made. If that is not allowed, return the warnings instead.

    Raises RefusedError where a file cannot be brought back.
    """
    if allowed and has_trash(places):
        with alone(places):
            undone = settle_interrupted(places)
        for _, conflicts in undone:
            for conflict in conflicts:
                raise conflict
    elif any(run.state == "begun" for place in places for run in find_runs(place)):
        return ((places[0], "another prune is running or was interrupted; a real run first puts back what that one moved"),)
    return ()


def make_plan(prepared: PreparedPrune, progress: Progress) -> PruneResult:
    """Make the plan, and warn of rules that match nothing. Raises as `plan_prune` does."""
    plan = plan_prune(prepared.folders, prepared.options, progress)
    warnings = [("--keep", f"{glob} matches no save") for glob in unmatched(plan, prepared.rules.keep)]
    groups = [group.group for group in plan.groups]
    applied = prepared.applied
    warnings += [("prune.groups", f"{glob} matches no group") for one in applied for glob in one.policies.unmatched(groups)]
    beyond = excess(plan, prepared.options.rules)
    if beyond is not None:
        why = f"the files that must stay take {size(beyond[0])}, more than {size(beyond[1])}; the plan says why each file stays"
        warnings.append(("max-size", why))
    return PruneResult(plan, applied, tuple(warnings))


def clear(plan: PrunePlan, prepared: PreparedPrune, watch: Callable[[str], AbstractContextManager[Progress]]) -> Cleared:
    """Carry out the plan. Raises RefusedError if another prune was interrupted meanwhile."""
    with alone(prepared.places):
        if any(run.state != "done" for place in prepared.places for run in find_runs(place)):
            why = "another prune was interrupted here while the plan was made"
            raise RefusedError(why, path=prepared.folders[0], hint="run the same command again")
        with watch("moving" if prepared.orders.archive is None else "archiving") as progress:
            return carry_out(plan, prepared.folders, prepared.orders, progress)
