"""What the writing commands share: their common options, and the display of their results."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gsvckpt.cli.options import Settings, tell_device, try_each
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.commands.rewrite.run import assign
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.errors import OutputError, UsageError
from gsvckpt.files.paths import name_of
from gsvckpt.report.console import print_error, print_warning
from gsvckpt.report.json_document import add_file, begin_document, print_document
from gsvckpt.report.output import printing
from gsvckpt.report.rewrite import print_rewritten
from gsvckpt.units import size


def rewrite_each(command: str, sources: Sequence[str], destination: Destination, recipe: Recipe, settings: Settings) -> int:
    """Rewrite every source and show what became of it. Returns the exit code."""
    run = assign(command, sources, destination, recipe, settings.resources)
    alone = len(run.sources) == 1
    worst = 0
    done: list[Rewritten] = []  # without --json, for the table
    if settings.json:
        begin_document(command)
    with settings.watch(name_of(run.sources[0]) if alone else command) as progress:
        for outcome in run.outcomes(progress):
            source, result = outcome.source, outcome.result
            worst = max(worst, outcome.exit_code(check=destination.check))
            if isinstance(result, Rewritten):
                if settings.verbose and result.computed is not None:
                    name, why, count = result.computed
                    tell_device(name, f"{why} ({size(count)})" if alone else f"{why} ({size(count)} of {name_of(source)})")
                done.append(result if not settings.json else result._replace(details={}))
            else:
                print_error(result)
            if settings.json:
                add_file(outcome.as_json())
    with printing(worst):
        if settings.json:
            print_document(command, worst, [])
        elif done and not settings.quiet:
            print_rewritten(done, verbose=settings.verbose)
    for result in done:
        for warning in result.warnings:
            print_warning(result.output or result.source, warning)
    return worst


def bundle_one(sources: Sequence[str], folder: str, config: str | None, step: int | None, settings: Settings, *, dry_run: bool) -> int:
    """Bundle one experiment and show what the bundle holds. Returns the exit code."""
    from gsvckpt.commands.bundle.bundle import bundle
    from gsvckpt.commands.bundle.contents import Bundle, BundleOptions
    from gsvckpt.commands.bundle.result import as_json as bundle_json
    from gsvckpt.report.bundle import print_bundle

    if len(sources) != 1:
        raise UsageError("bundles one experiment, so give one SOURCE", where="--bundle")
    options = BundleOptions(config, step, dry_run, settings.workers, fixed=settings.jobs is not None, device=settings.device)

    def work(source: str) -> Bundle:
        with settings.watch(os.path.basename(os.path.abspath(source))) as progress:
            return bundle(source, folder, options, progress)

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
