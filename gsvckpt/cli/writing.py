"""What the writing commands have in common: their options together, and how their results are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from gsvckpt.cli.options import Settings, try_each
from gsvckpt.destinations import Destination
from gsvckpt.engine import OnOverflow, Outcome
from gsvckpt.errors import GsvError
from gsvckpt.examination import Examination
from gsvckpt.report.console import print_document, print_warning
from gsvckpt.report.writes import as_json, print_table
from gsvckpt.rewriting import Means, Rewritten, rewrite
from gsvckpt.transforms.plan import Plan

Details = Callable[[Rewritten], dict[str, object]]


def rewrite_each(
    command: str,
    sources: Sequence[str],
    destination: Destination,
    settings: Settings,
    make: Callable[[Examination, Plan], Plan],
    details: Details,
    *,
    accept: Callable[[Outcome], None] = lambda _: None,
    on_overflow: OnOverflow = "keep",
) -> int:
    """Rewrite every source and show what became of it. `details` gives the keys that only this command's JSON has. Returns the exit code."""
    sources = list(dict.fromkeys(sources))  # a file named twice is one file
    outputs = dict(zip(sources, destination.assign(sources), strict=True))

    def work(source: str) -> Rewritten:
        with settings.watch(os.path.basename(source)) as progress:
            means = Means(settings.device, settings.workers, progress, on_overflow)
            return rewrite(source, outputs[source], destination, means, make, accept)

    results, worst = try_each(sources, work)
    done = [result for result in results if isinstance(result, Rewritten)]
    if destination.check and any(result.changed for result in done):
        worst = max(worst, 1)
    if settings.json:
        files = [
            as_json(result, details) if isinstance(result, Rewritten) else failure_json(source, outputs[source], result)
            for source, result in zip(sources, results, strict=True)
        ]
        print_document(command, worst, files)
    elif done and not settings.quiet:
        print_table(done, details, verbose=settings.verbose)
    for result in done:
        for warning in result.warnings:
            print_warning(result.output or result.source, warning)
    return worst


def failure_json(source: str, output: str, error: GsvError) -> dict[str, object]:
    """A file that failed, as JSON. `path` is the one at fault, which may be the output."""
    return {"path": error.path, "source": source, "output": output, "written": False, "error": error.as_json()}
