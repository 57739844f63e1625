"""Run a writing command on all of its sources: the result of each, and of all together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from gsvckpt.commands.rewrite.batch import Rewrite, rewrite_files
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.result import Rewritten, as_json
from gsvckpt.engine.document import document
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.resources import Resources
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.hints import Hint, quote_word


class Outcome(NamedTuple):
    """The outcome for one source. `output` is the name that was assigned to it, which a result may have changed."""

    source: str
    output: str
    result: Rewritten | GsvError

    def exit_code(self, *, check: bool) -> int:
        """The error's code; 1 if something is lost or, with `--check`, if something would change."""
        if isinstance(self.result, GsvError):
            return self.result.exit_code
        return int((check and self.result.changed) or not self.result.keeps_all)

    def as_json(self) -> dict[str, object]:
        """One file of the JSON document."""
        if isinstance(self.result, GsvError):
            return {**failure_json(self.result), "source": self.source, "output": self.output, "written": False}
        return as_json(self.result)


class RewriteRun(NamedTuple):
    """The task of a writing command: each source with the output that was assigned to it."""

    command: str
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    job: Rewrite
    resources: Resources

    def outcomes(self, progress: Progress) -> Iterator[Outcome]:
        """Carry it out, source by source; one that fails does not stop the others."""
        results = rewrite_files(self.job, self.sources, self.outputs, self.resources.workers, progress, self.resources.cluster)
        for source, output, result in zip(self.sources, self.outputs, results, strict=True):
            if isinstance(result, MissingError) and os.path.isdir(source) and result.path == source:
                result.hint = result.hint or _name_files(self.command, source)
            yield Outcome(source, output, result)


def assign(command: str, sources: Sequence[str], destination: Destination, recipe: Recipe, resources: Resources) -> RewriteRun:
    """Assign an output to each source; a source named twice counts once. Raises UsageError if that is impossible."""
    located = tuple(dict.fromkeys(map(resources.locate, sources)))
    if destination.output is not None:
        destination = replace(destination, output=resources.locate(destination.output))
    job = Rewrite(recipe, destination, resources.device, fixed=resources.jobs is not None)
    return RewriteRun(command, located, tuple(destination.assign(located)), job, resources)


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """The outcome of a writing command. `check` says that it was only asked whether anything would change."""

    command: str
    outcomes: tuple[Outcome, ...]
    check: bool = False

    @property
    def files(self) -> tuple[Rewritten, ...]:
        """The sources that were done, in order."""
        return tuple(outcome.result for outcome in self.outcomes if isinstance(outcome.result, Rewritten))

    @property
    def errors(self) -> tuple[GsvError, ...]:
        """The errors of the other sources."""
        return tuple(outcome.result for outcome in self.outcomes if isinstance(outcome.result, GsvError))

    @property
    def exit_code(self) -> int:
        """The exit code that the command would have."""
        return max((outcome.exit_code(check=self.check) for outcome in self.outcomes), default=0)

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        return document(self.command, [outcome.as_json() for outcome in self.outcomes], self.exit_code)


def rewrite(run: RewriteRun) -> RewriteResult:
    """Carry it out and print nothing. Raises the first error if nothing could be done."""
    result = RewriteResult(run.command, tuple(run.outcomes(Silent())), run.job.destination.check)
    if not result.files:
        raise result.errors[0]
    return result


def _name_files(command: str, folder: str) -> Hint:
    """What to run instead of a command for files on a folder."""
    from gsvckpt.engine.discover import find_files
    from gsvckpt.engine.listing import EXTENSIONS
    from gsvckpt.sovits.runs import find_runs  # only this mistake needs them

    inside = os.path.join(quote_word(os.path.normpath(folder)), "") if os.path.normpath(folder) != os.curdir else ""
    endings = dict.fromkeys(os.path.splitext(path)[1] for path in find_files([folder], recursive=False).checkpoints)
    globs = [f"{inside}*{ending}" for ending in endings if ending.lower() in EXTENSIONS]
    if globs:
        return Hint("names the files", f"gsvckpt {command} {' '.join(globs)}")
    with suppress(MissingError):
        if command == "migrate" and find_runs(folder):
            return Hint("copies all of this voice into a folder, ready for another machine", f"gsvckpt migrate {quote_word(folder)} --bundle <DIR>")
    return Hint("lists the files below, to name them", f"gsvckpt inspect {quote_word(folder)} -r")
