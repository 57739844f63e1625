"""What the writing commands have in common: their options together, and how their results are shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from gsvckpt.cli.computing import make_engine
from gsvckpt.cli.options import Settings, try_each
from gsvckpt.destinations import Destination
from gsvckpt.engine import OnOverflow, Outcome
from gsvckpt.errors import MissingError, OutputError, UsageError
from gsvckpt.opening import open_checkpoint
from gsvckpt.report.console import print_document, print_warning, printing
from gsvckpt.report.documents import failure_json
from gsvckpt.report.writes import as_json, print_written
from gsvckpt.rewriting import Make, Open, Rewritten, rewrite

Details = Callable[[Rewritten], dict[str, object]]


def rewrite_each(
    command: str,
    sources: Sequence[str],
    destination: Destination,
    settings: Settings,
    make: Make,
    details: Details,
    *,
    opened: Open = open_checkpoint,
    accept: Callable[[Outcome], None] = lambda _: None,
    on_overflow: OnOverflow = "keep",
) -> int:
    """Rewrite every source and show what became of it. `details` gives the keys that only this command's JSON has. Returns the exit code."""
    sources = list(dict.fromkeys(sources))  # a file named twice is one file
    outputs = dict(zip(sources, destination.assign(sources), strict=True))

    published: list[str] = []  # what one source became, another must not replace

    def work(source: str) -> Rewritten:
        with settings.watch(os.path.basename(source)) as progress:
            taken = {*sources, *published} - {source}
            try:
                done = rewrite(
                    source, outputs[source], destination, partial(make_engine, settings, progress, on_overflow), make, accept, opened, taken
                )
            except MissingError as error:
                if os.path.isdir(source) and error.path == source:
                    error.hint = error.hint or _name_files(command, source)
                raise
            published.extend([done.output] if done.output is not None and not done.rehearsed else [])
            return done

    results, worst = try_each(sources, work, blame=OutputError)
    done = [result for result in results if isinstance(result, Rewritten)]
    if destination.check and any(result.changed for result in done):
        worst = max(worst, 1)
    if not all(result.whole for result in done):
        worst = max(worst, 1)
    with printing(worst):
        if settings.json:
            files = [
                as_json(result, details)
                if isinstance(result, Rewritten)
                else {**failure_json(result), "source": source, "output": outputs[source], "written": False}
                for source, result in zip(sources, results, strict=True)
            ]
            print_document(command, worst, files)
        elif done and not settings.quiet:
            print_written(done, details, verbose=settings.verbose)
    for result in done:
        for warning in result.warnings:
            print_warning(result.output or result.source, warning)
    return worst


def _name_files(command: str, folder: str) -> str:
    """What to run instead of a command for files on a folder."""
    from gsvckpt.runs import find_runs  # only this mistake needs them
    from gsvckpt.survey import EXTENSIONS, find_files

    inside = os.path.join(shlex.quote(os.path.normpath(folder)), "") if os.path.normpath(folder) != os.curdir else ""
    endings = dict.fromkeys(os.path.splitext(path)[1] for path in find_files([folder], recursive=False).checkpoints)
    globs = [f"{inside}*{ending}" for ending in endings if ending.lower() in EXTENSIONS]
    if globs:
        return f"name the files: gsvckpt {command} {' '.join(globs)}"
    with suppress(MissingError):
        if command == "migrate" and find_runs(folder):
            return f"gsvckpt migrate {shlex.quote(folder)} --bundle DIR copies all of this voice into DIR, ready for another machine"
    return f"name the files; gsvckpt inspect {shlex.quote(folder)} -r lists those below"


def bundle_one(sources: Sequence[str], folder: str, config: str | None, step: int | None, settings: Settings, *, dry_run: bool) -> int:
    """Bundle one experiment and show what the bundle holds. Returns the exit code."""
    from gsvckpt.bundles import Bundle, Wishes
    from gsvckpt.bundling import bundle
    from gsvckpt.report.bundles import as_json as bundle_json
    from gsvckpt.report.bundles import print_bundle

    if len(sources) != 1:
        raise UsageError("bundles one experiment, so give one SOURCE", where="--bundle")
    wishes = Wishes(config, step, dry_run, settings.workers)

    def work(source: str) -> Bundle:
        with settings.watch(os.path.basename(os.path.abspath(source))) as progress:
            return bundle(source, folder, wishes, partial(make_engine, settings, progress, "keep"), progress)

    (result,), worst = try_each(sources, work, blame=OutputError)
    worst = max(worst, result.exit_code)
    with printing(worst):
        if settings.json and isinstance(result, Bundle):
            print_document("migrate", worst, [bundle_json(result)])
        elif settings.json and not isinstance(result, Bundle):
            print_document("migrate", worst, [{**failure_json(result), "source": sources[0], "output": folder, "written": False}])
        elif isinstance(result, Bundle) and not settings.quiet:
            print_bundle(result)
    for warning in result.warnings if isinstance(result, Bundle) else ():
        print_warning(sources[0], warning)
    return worst
