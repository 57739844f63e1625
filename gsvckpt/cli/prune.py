"""gsvckpt prune, and its trash: undo the last run, delete the trash for good, repair it after a kill."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal

import typer

from gsvckpt.cli.options import Settings, shared_options
from gsvckpt.commands.prune.result import as_json, failures_json
from gsvckpt.commands.prune.run import PruneFiles, PruneRules, clear, make_plan, places_of, prepare, require_folders, settle
from gsvckpt.commands.prune.undo import Trash, empty, find_old
from gsvckpt.commands.prune.undo import undo as bring_back
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.errors import RefusedError
from gsvckpt.files.publish import disk_space
from gsvckpt.report import prune as report
from gsvckpt.report.console import print_error, print_line, print_warning
from gsvckpt.report.json_document import print_document
from gsvckpt.report.output import printing
from gsvckpt.units import plural, size

EXAMPLES = """
**Examples**

`gsvckpt prune logs/alice --keep-last 2 --dry-run  # what would go, and why`

`gsvckpt prune logs/alice --keep-last 2 --keep-best 1  # these three stay`

`gsvckpt prune logs --keep-every 5 --keep-last 1 --yes  # asks nothing`

`gsvckpt prune logs/alice --demote-after 1  # older ones lose optimizer state`

`gsvckpt prune SoVITS_weights_v2 --max-size 2GB --archive /mnt/old  # moves old`

`gsvckpt prune logs/alice --undo  # brings back what went`

`gsvckpt prune logs/alice --empty-trash  # frees the space`
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
    written = PruneRules(keep_last, keep_best, metric, mode, keep_every, keep_within, tuple(keep or ()), max_size, demote_after, demote_to)
    files = PruneFiles(policy, metrics, archive)
    require_folders(folders)
    rules = written.policy()
    old = Trash(undo, empty_trash, older_than)
    if old.asked(rules, files, purge=purge):
        return _tell_trash(old, places_of(folders), settings, dry_run=dry_run, yes=yes)
    prepared = prepare(folders, rules, files, settings.resources, purge=purge, dry_run=dry_run)
    for where, why in settle(prepared.places, allowed=not dry_run and (yes or _can_ask())):
        print_warning(where, why)
    with settings.watch("reading what stays") as bar:
        found = make_plan(prepared, bar)
    for failure in found.errors:
        print_error(failure)
    for where, why in found.warnings:
        print_warning(where, why)
    plan = found.plan
    if not settings.json and not settings.quiet:
        with printing(found.exit_code):
            report.print_plan(plan, found.applied, verbose=settings.verbose, sort=sort)
            if not purge and not plan.empty:
                report.print_full_disks(_full_disks(prepared.places))
    if not dry_run and not plan.empty:
        _confirm(report.question(plan, purge=purge), yes=yes)
        cleared = clear(plan, prepared, settings.watch)
        found = replace(found, cleared=cleared)
        for failure in cleared.failures:
            print_error(failure)
    with printing(found.exit_code):
        if settings.json:
            print_document("prune", found.exit_code, failures_json(plan, found.cleared), as_json(plan, found.applied, found.cleared))
        elif found.cleared is not None and not settings.quiet:
            report.print_cleared(found.cleared, prepared.places, purged=purge)
    return found.exit_code


def _full_disks(places: Sequence[str]) -> list[tuple[str, int]]:
    """The folders whose disks are nearly full, and how many bytes are free there: the trash lies on the same disk."""
    found = []
    for place in places:
        with suppress(OSError):
            space = disk_space(place)
            if space is not None and space[0] < min(space[1] // 50, _SCARCE):
                found.append((place, space[0]))
    return found


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


def _tell_trash(old: Trash, places: Sequence[str], settings: Settings, *, dry_run: bool, yes: bool) -> int:
    """Bring the last run back, or delete what is in the trash. Returns the exit code; raises RefusedError where nobody confirms it."""
    if old.undo:
        done, word = bring_back(places, dry_run=dry_run), "would be brought back" if dry_run else "brought back"
    else:
        done, word = find_old(places, old.seconds), "would be deleted" if dry_run else "deleted"
        if done.runs and not dry_run:
            _confirm(f"Delete {plural(done.files, 'file')} in the trash for good, {size(done.freed)}?", yes=yes)
        if not dry_run and (yes or _can_ask()):
            done = replace(done, errors=empty(places, old.seconds))
    for failure in done.errors:
        print_error(failure)
    with printing(done.exit_code):
        if settings.json:
            print_document("prune", done.exit_code, map(failure_json, done.errors), done.behind)
        elif not settings.quiet:
            print_line(f"{plural(done.files, 'file')} {word}" + (f", {size(done.freed)}" if done.freed else ""))
    return done.exit_code
