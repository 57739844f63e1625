"""What `gsvckpt prune` does with its trash: bring the last run back, free the space, and put it in order after a kill."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from gsvckpt.cli.options import Settings
from gsvckpt.commands.inspect.result import failure_json
from gsvckpt.commands.prune.trash import TrashRun, alone, find_last, find_runs, has_trash, settle_interrupted, undo_last
from gsvckpt.errors import GsvError, MissingError, RefusedError
from gsvckpt.report import prune as report
from gsvckpt.report.console import print_error, print_line
from gsvckpt.report.json_document import print_document
from gsvckpt.report.output import printing
from gsvckpt.units import plural, size


def settle(folders: Sequence[str]) -> None:
    """Bring the trash into order after a run that was interrupted, before a plan is made. Raises RefusedError where a file cannot be brought back."""
    with alone(folders):
        undone = settle_interrupted(folders)
    for _, conflicts in undone:
        for conflict in conflicts:
            raise conflict


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises RefusedError where nobody can be asked, and for anything but a yes."""
    if yes:
        return
    if not can_ask():
        raise RefusedError("nobody is there to confirm it", where="prune", hint="look at --dry-run, then use --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("not confirmed, so nothing was changed", where="prune")


def can_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def undo(folders: Sequence[str], settings: Settings, *, dry_run: bool) -> int:
    """Bring the last run back. Returns the exit code; raises MissingError where there is none."""

    def work() -> tuple[list[TrashRun], list[GsvError]]:
        if dry_run:
            return [run.filled for run in find_last(folders)], []
        with alone(folders):
            return undo_last(folders)

    runs, failures = work()
    if not runs:
        raise MissingError("there is nothing in its trash to bring back", path=folders[0])
    return _tell(runs, failures, settings, "would be brought back" if dry_run else "brought back")


def empty(folders: Sequence[str], seconds: int, settings: Settings, *, dry_run: bool, yes: bool) -> int:
    """Free the space of runs at least so many seconds ago. Returns the exit code; raises RefusedError where nobody confirms it."""

    def chosen() -> list[TrashRun]:
        found = [run for folder in folders for run in find_runs(folder) if time.time() - run.seconds >= seconds]
        return [run for run in found if run.state != "begun"]  # what an interrupted one took is not to go

    runs = [run.filled for run in chosen()]
    freed = sum(run.size for run in runs)
    failures: list[GsvError] = []
    if runs and not dry_run:
        confirm(f"Delete {plural(sum(len(run.steps) for run in runs), 'file')} in the trash for good, {size(freed)}?", yes=yes)
    if not dry_run and (yes or can_ask()) and has_trash(folders):
        settle(folders)
        with alone(folders):
            for run in chosen():
                try:
                    run.empty()
                except GsvError as error:  # noqa: PERF203 - one file that cannot be removed must not stop the others
                    failures.append(error)
    return _tell(runs, failures, settings, "would be deleted" if dry_run else "deleted", freed)


def _tell(runs: Sequence[TrashRun], failures: Sequence[GsvError], settings: Settings, word: str, freed: int = 0) -> int:
    for failure in failures:
        print_error(failure)
    worst = max((failure.exit_code for failure in failures), default=0)
    files = sum(len(run.steps) for run in runs) - len(failures)
    with printing(worst):
        if settings.json:
            extra = {"runs": [report.run_json(run) for run in runs], "freed_bytes": freed, "groups": [], "ignored": []}
            print_document("prune", worst, [failure_json(failure) for failure in failures], extra)
        elif not settings.quiet:
            print_line(f"{plural(files, 'file')} {word}" + (f", {size(freed)}" if freed else ""))
    return worst
