"""What the writing commands have in common: their options together, and how their results are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from gsvckpt.cli.options import Settings, try_each
from gsvckpt.destinations import Destination
from gsvckpt.devices.choice import choose
from gsvckpt.engine import Engine, OnOverflow, Outcome
from gsvckpt.errors import OutputError
from gsvckpt.opening import open_checkpoint
from gsvckpt.report.console import print_document, print_warning, printing
from gsvckpt.report.documents import failure_json
from gsvckpt.report.writes import as_json, print_table
from gsvckpt.rewriting import Make, Open, Rewritten, rewrite
from gsvckpt.transforms.plan import Plan

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

    def work(source: str) -> Rewritten:
        with settings.watch(os.path.basename(source)) as progress:

            def engine_for(plan: Plan) -> Engine:
                return Engine(choose(settings.device) if plan.casts or plan.products else None, settings.workers, progress, on_overflow)

            return rewrite(source, outputs[source], destination, engine_for, make, accept, opened)

    results, worst = try_each(sources, work, blame=OutputError)
    done = [result for result in results if isinstance(result, Rewritten)]
    if destination.check and any(result.changed for result in done):
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
            print_table(done, details, verbose=settings.verbose)
    for result in done:
        for warning in result.warnings:
            print_warning(result.output or result.source, warning)
    return worst
