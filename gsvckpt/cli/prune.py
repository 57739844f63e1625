"""gsvckpt prune, and what it does with its trash: bring the last run back, free the space, put it in order after a kill."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Literal

import typer

from gsvckpt.cli.options import Settings, shared_options
from gsvckpt.commands.prune.demote import Computer
from gsvckpt.commands.prune.execute import Cleared, PruneOrders, carry_out, check_archive
from gsvckpt.commands.prune.metrics import read_table
from gsvckpt.commands.prune.plan import PruneOptions, PrunePlan, excess, plan_prune, unmatched
from gsvckpt.commands.prune.policy import Policy, parse_every
from gsvckpt.commands.prune.policy_file import rules_for
from gsvckpt.commands.prune.result import as_json, failures_json, run_json
from gsvckpt.commands.prune.trash import alone, find_last, find_runs, has_trash, require_trash, settle_interrupted, undo_last
from gsvckpt.commands.prune.trash_run import TrashRun
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.errors import GsvError, MissingError, RefusedError, UsageError
from gsvckpt.files.paths import require_local
from gsvckpt.files.publish import disk_space
from gsvckpt.report import prune as report
from gsvckpt.report.console import print_error, print_line, print_warning
from gsvckpt.report.json_document import print_document
from gsvckpt.report.output import printing
from gsvckpt.units import parse_duration, parse_size, plural, size

EXAMPLES = """
**Examples**

`gsvckpt prune logs/alice --keep-last 2 --dry-run`  what would go, and why

`gsvckpt prune logs/alice --keep-last 2 --keep-best 1`  the newest two and the best one stay

`gsvckpt prune logs --keep-every 5 --keep-last 1 --yes`  for scripts: no question asked

`gsvckpt prune logs/alice --demote-after 1`  older files lose their optimizer state instead

`gsvckpt prune SoVITS_weights_v2 --max-size 2GB --archive /mnt/old`

`gsvckpt prune logs/alice --undo`, or `gsvckpt prune logs/alice --empty-trash` to free the space
"""
_SCARCE = 5_000_000_000  # bytes; below that, or 2 % of the disk, the next saves may not fit
_RULES, _DOING, _TRASH = "What stays", "How it is done", "Trash"


@shared_options(without={"cluster"})
def prune(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="Experiments, weights folders, or all of GPT-SoVITS.", show_default=False)],
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", min=1, metavar="N", help="Keep the newest N of each run.", rich_help_panel=_RULES)
    ] = None,
    keep_best: Annotated[
        int | None, typer.Option("--keep-best", min=1, metavar="N", help="Keep the best N by a metric.", rich_help_panel=_RULES)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="The name of the metric [default: the one that training watched].", rich_help_panel=_RULES),
    ] = None,
    mode: Annotated[
        Literal["min", "max"] | None, typer.Option("--mode", help="Whether low (min) or high (max) values are good.", rich_help_panel=_RULES)
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Read the metric from this CSV or JSON lines, with epoch, step or file in each line.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    keep_every: Annotated[
        str | None, typer.Option("--keep-every", metavar="N|Nsteps", help="Keep every Nth epoch, or every N steps.", rich_help_panel=_RULES)
    ] = None,
    keep_within: Annotated[
        str | None, typer.Option("--keep-within", metavar="7d", help="Keep saves at most this much older than the newest.", rich_help_panel=_RULES)
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="GLOB", help="Keep saves with matching names (repeatable).", rich_help_panel=_RULES)
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Keep as many as fit into this size, the newest and best first.", rich_help_panel=_RULES),
    ] = None,
    demote_after: Annotated[
        int | None,
        typer.Option("--demote-after", min=1, metavar="N", help="Remove nothing; shrink saves older than the newest N.", rich_help_panel=_RULES),
    ] = None,
    demote_to: Annotated[
        Literal["stripped", "inference"] | None,
        typer.Option("--demote-to", help="How to shrink: without optimizer state, or to small weights.", rich_help_panel=_RULES),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy", metavar="FILE.toml", help=r"Read the rules from this file [default: \[prune] in gsvckpt.toml].", rich_help_panel=_RULES
        ),
    ] = None,
    archive: Annotated[
        str | None, typer.Option("--archive", metavar="DIR", help="Copy each file to this folder before removing it.", rich_help_panel=_DOING)
    ] = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete at once, without the trash; --undo cannot restore it.", rich_help_panel=_DOING)
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan and change nothing.", rich_help_panel=_DOING)] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.", rich_help_panel=_DOING)] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Restore what the last run removed.", rich_help_panel=_TRASH)] = False,
    empty_trash: Annotated[bool, typer.Option("--empty-trash", help="Delete the trash for good.", rich_help_panel=_TRASH)] = False,
    sort: Annotated[
        report.Sort | None, typer.Option("--sort", help="Sort runs and saves by this.", show_default=False, rich_help_panel=_DOING)
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="7d", help="With --empty-trash: delete only runs older than this.", rich_help_panel=_TRASH)
    ] = None,
    *,
    settings: Settings,
) -> int:
    """Remove old saves by rules, and never the one that matters.

    Only files that are certainly old saves are removed: the epoch or step stands inside, or in words in the name. A save stays if any rule keeps it.
    Everything that is kept is read completely before anything is removed, and a damaged file does not count as kept. Files move to `.gsvckpt-trash`
    in the same folder, and `--undo` brings them back. The newest sound save of every run, pretrained models, files that GPT-SoVITS is set to use and
    the one that it would resume from always stay.
    """
    _require_folders(folders)
    places = _places(folders)
    rules = Policy(
        keep_last,
        keep_best,
        parse_every(keep_every, "--keep-every") if keep_every is not None else None,
        parse_duration(keep_within, "--keep-within") if keep_within is not None else None,
        tuple(keep or ()),
        parse_size(max_size, "--max-size") if max_size is not None else None,
        demote_after,
        demote_to,
        metric,
        mode,
    )
    if undo or empty_trash:
        if rules != Policy() or (undo and (empty_trash or older_than)) or policy or archive or purge or metrics:
            raise UsageError("cannot be combined with other rules", where="--undo" if undo else "--empty-trash")
        if undo:
            return _undo(places, settings, dry_run=dry_run)
        return _empty(places, parse_duration(older_than, "--older-than") if older_than else 0, settings, dry_run=dry_run, yes=yes)
    if older_than is not None:
        raise UsageError("can only be used with --empty-trash", where="--older-than")
    check_archive(archive, folders)
    _require_quoted(folders, rules)
    rule_set = rules_for(folders, rules, policy)
    applied = rule_set.applied(folders)
    table = read_table(metrics, metric) if metrics is not None else None
    for place in places if not dry_run else ():
        require_trash(place)
    if not dry_run and (yes or _can_ask()) and has_trash(places):
        _settle(places)
    elif any(run.state == "begun" for place in places for run in find_runs(place)):
        print_warning(places[0], "another prune is running or was interrupted; a real run first puts back what that one moved")
    options = PruneOptions(rule_set, table, Computer(settings.device, settings.workers, fixed=settings.jobs is not None))
    with settings.watch("reading what stays") as bar:
        plan = plan_prune(folders, options, bar)
    for failure in plan.inventory.failures:
        print_error(failure)
    for glob in unmatched(plan, rules.keep):
        print_warning("--keep", f"{glob} matches no save")
    for glob in (glob for one in applied for glob in one.policies.unmatched([group.group for group in plan.groups])):
        print_warning("prune.groups", f"{glob} matches no group")
    beyond = excess(plan, rule_set)
    if beyond is not None:
        print_warning("max-size", f"the files that must stay take {size(beyond[0])}, more than {size(beyond[1])}; the plan says why each file stays")
    worst = max((failure.exit_code for failure in plan.inventory.failures), default=0)
    if not settings.json and not settings.quiet:
        with printing(worst):
            report.print_plan(plan, applied, verbose=settings.verbose, sort=sort)
            if not purge and not plan.empty:
                report.print_full_disks(_full_disks(places))
    cleared: Cleared | None = None
    if not dry_run and not plan.empty:
        _confirm(report.question(plan, purge=purge), yes=yes)
        orders = PruneOrders(archive, purge, options.computer)
        cleared = _carry_out(plan, folders, places, orders, settings)
        worst = max([worst, *(failure.exit_code for failure in cleared.failures)])
    with printing(worst):
        if settings.json:
            print_document("prune", worst, failures_json(plan, cleared), as_json(plan, applied, cleared))
        elif cleared is not None and not settings.quiet:
            report.print_cleared(cleared, places, purged=purge)
    return worst


def _full_disks(places: Sequence[str]) -> list[tuple[str, int]]:
    """The folders whose disks are nearly full, and how many bytes are free there: the trash lies on the same disk."""
    found = []
    for place in places:
        with suppress(OSError):
            space = disk_space(place)
            if space is not None and space[0] < min(space[1] // 50, _SCARCE):
                found.append((place, space[0]))
    return found


def _require_folders(folders: Sequence[str]) -> None:
    require_local(folders, "prune")
    for folder in folders:
        if not os.path.exists(folder):
            raise MissingError("there is no such file or folder", path=folder, hint="name a folder with checkpoints, like logs/alice")


def _require_quoted(paths: Sequence[str], rules: Policy) -> None:
    """Raise UsageError where the shell, it seems, made names of a glob that says what to keep: all but the first stand among the folders then."""
    folders = {os.path.realpath(path) for path in paths if os.path.isdir(path)}
    files = [path for path in paths if not os.path.isdir(path) and os.path.realpath(os.path.dirname(path) or ".") in folders]
    if rules.keep and files:
        why = "takes one glob, and this file is in a folder that is pruned anyway"
        raise UsageError(why, where="--keep", path=files[0], hint="put the glob in quotes: --keep '*-e10.ckpt'")


def _places(paths: Sequence[str]) -> list[str]:
    """The folders whose trash is concerned: those that were named and those of files that were, each once, and none inside another."""
    found: dict[str, str] = {}
    for path in paths:
        folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
        found.setdefault(os.path.realpath(folder), folder)
    return [folder for real, folder in found.items() if not any(real.startswith(other.rstrip(os.sep) + os.sep) for other in found)]


def _carry_out(plan: PrunePlan, folders: Sequence[str], places: Sequence[str], orders: PruneOrders, settings: Settings) -> Cleared:
    with alone(places):
        if any(run.state != "done" for place in places for run in find_runs(place)):
            why = "another prune was interrupted here while the plan was made"
            raise RefusedError(why, path=folders[0], hint="run the same command again")
        with settings.watch("moving" if orders.archive is None else "archiving") as bar:
            cleared = carry_out(plan, folders, orders, bar)
    for failure in cleared.failures:
        print_error(failure)
    return cleared


def _settle(folders: Sequence[str]) -> None:
    """Bring the trash into order after a run that was interrupted, before a plan is made. Raises RefusedError where a file cannot be brought back."""
    with alone(folders):
        undone = settle_interrupted(folders)
    for _, conflicts in undone:
        for conflict in conflicts:
            raise conflict


def _confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises RefusedError where nobody can be asked, and for anything but a yes."""
    if yes:
        return
    if not _can_ask():
        raise RefusedError("there is no terminal on which to confirm it", where="prune", hint="look at --dry-run, then use --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("not confirmed, so nothing was changed", where="prune")


def _can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _undo(folders: Sequence[str], settings: Settings, *, dry_run: bool) -> int:
    """Bring the last run back. Returns the exit code; raises MissingError where there is none."""
    failures: list[GsvError] = []
    if dry_run:
        runs = [run.filled for run in find_last(folders)]
    else:
        with alone(folders):
            runs, failures = undo_last(folders)
    if not runs:
        raise MissingError("there is nothing in its trash to bring back", path=folders[0])
    return _tell_trash(runs, failures, settings, "would be brought back" if dry_run else "brought back")


def _empty(folders: Sequence[str], seconds: int, settings: Settings, *, dry_run: bool, yes: bool) -> int:
    """Free the space of runs at least so many seconds ago. Returns the exit code; raises RefusedError where nobody confirms it."""

    def chosen() -> list[TrashRun]:
        found = [run for folder in folders for run in find_runs(folder) if time.time() - run.seconds >= seconds]
        return [run for run in found if run.state != "begun"]  # what an interrupted one took is not to go

    runs = [run.filled for run in chosen()]
    freed = sum(run.size for run in runs)
    failures: list[GsvError] = []
    if runs and not dry_run:
        _confirm(f"Delete {plural(sum(len(run.steps) for run in runs), 'file')} in the trash for good, {size(freed)}?", yes=yes)
    if not dry_run and (yes or _can_ask()) and has_trash(folders):
        _settle(folders)
        with alone(folders):
            for run in chosen():
                try:
                    run.empty()
                except GsvError as error:  # noqa: PERF203 - one file that cannot be removed must not stop the others
                    failures.append(error)
    return _tell_trash(runs, failures, settings, "would be deleted" if dry_run else "deleted", freed)


def _tell_trash(runs: Sequence[TrashRun], failures: Sequence[GsvError], settings: Settings, word: str, freed: int = 0) -> int:
    for failure in failures:
        print_error(failure)
    worst = max((failure.exit_code for failure in failures), default=0)
    files = sum(len(run.steps) for run in runs) - len(failures)
    with printing(worst):
        if settings.json:
            extra = {"runs": [run_json(run) for run in runs], "freed_bytes": freed, "groups": [], "ignored": []}
            print_document("prune", worst, [failure_json(failure) for failure in failures], extra)
        elif not settings.quiet:
            print_line(f"{plural(files, 'file')} {word}" + (f", {size(freed)}" if freed else ""))
    return worst
