"""Use prune's trash alone: bring the last run back, or delete its files for good."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.commands.prune.policy import Policy
from gsvckpt.commands.prune.result import run_json
from gsvckpt.commands.prune.run import PruneFiles, settle
from gsvckpt.commands.prune.trash import alone, find_last, find_runs, has_trash, undo_last
from gsvckpt.commands.prune.trash_run import TrashRun
from gsvckpt.engine.document import document
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.errors import GsvError, MissingError, UsageError
from gsvckpt.units import parse_duration


@dataclass(frozen=True, slots=True)
class TrashResult:
    """The runs that were (or would be) restored or deleted, and the bytes that this frees."""

    runs: tuple[TrashRun, ...]
    errors: tuple[GsvError, ...] = ()
    freed: int = 0

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(len(run.steps) for run in self.runs) - len(self.errors)

    @property
    def exit_code(self) -> int:
        """The exit code that the command would have."""
        return max((error.exit_code for error in self.errors), default=0)

    @property
    def behind(self) -> Mapping[str, object]:
        """The document's keys after `files`."""
        return {"runs": [run_json(run) for run in self.runs], "freed_bytes": self.freed, "groups": [], "ignored": []}

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        return document("prune", map(failure_json, self.errors), self.exit_code, after=self.behind)


class Trash(NamedTuple):
    """The options that only concern the trash, as they were written."""

    undo: bool
    empty_trash: bool
    older_than: str | None

    @property
    def seconds(self) -> int:
        """The age from which the files of a run are deleted for good."""
        return parse_duration(self.older_than, "--older-than") if self.older_than else 0

    def asked(self, rules: Policy, files: PruneFiles, *, purge: bool) -> bool:
        """Whether only the trash is concerned. Raises UsageError for options that contradict each other."""
        if not (self.undo or self.empty_trash):
            if self.older_than is not None:
                raise UsageError("can only be used with --empty-trash", where="--older-than")
            return False
        if rules != Policy() or (self.undo and (self.empty_trash or self.older_than)) or any(files) or purge:
            raise UsageError("cannot be combined with other rules", where="--undo" if self.undo else "--empty-trash")
        return True


def undo(places: Sequence[str], *, dry_run: bool) -> TrashResult:
    """Bring the last run back. Raises MissingError where there is none."""
    failures: list[GsvError] = []
    if dry_run:
        runs = [run.filled for run in find_last(places)]
    else:
        with alone(places):
            runs, failures = undo_last(places)
    if not runs:
        raise MissingError("there is nothing in its trash to bring back", path=places[0])
    return TrashResult(tuple(runs), tuple(failures))


def find_old(places: Sequence[str], seconds: int) -> TrashResult:
    """What emptying the trash of runs at least this many seconds old would free."""
    runs = tuple(run.filled for run in _old_runs(places, seconds))
    return TrashResult(runs, freed=sum(run.size for run in runs))


def empty(places: Sequence[str], seconds: int) -> tuple[GsvError, ...]:
    """Delete the files of these runs for good. Returns the errors of those that remain."""
    failures: list[GsvError] = []
    if has_trash(places):
        settle(places, allowed=True)
        with alone(places):
            for run in _old_runs(places, seconds):
                try:
                    run.empty()
                except GsvError as error:  # noqa: PERF203 - one file that cannot be removed must not stop the others
                    failures.append(error)
    return tuple(failures)


def _old_runs(places: Sequence[str], seconds: int) -> list[TrashRun]:
    found = [run for place in places for run in find_runs(place) if time.time() - run.seconds >= seconds]
    return [run for run in found if run.state != "begun"]  # what an interrupted one took is not to go
