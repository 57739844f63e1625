"""Make the small weights of a bundle from a training file, as `migrate --to-inference` makes them."""

from __future__ import annotations

from typing import NamedTuple

from gsvckpt.commands.bundle.contents import BundleOptions
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import plan_file, rehearse
from gsvckpt.commands.rewrite.file import write as write_file
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.engine.placement import Threads, engine_for
from gsvckpt.files.progress import Progress


class Extracted(NamedTuple):
    """Small weights that were made, or rehearsed; `warnings` are about the device."""

    done: Rewritten
    planned: Planned
    warnings: tuple[str, ...]


def extract(source: str, output: str, options: BundleOptions, progress: Progress, *, write: bool) -> Extracted:
    """Small weights from the training file `source`, written to `output`, or only rehearsed. Raises what `migrate --to-inference` raises."""
    recipe = Migrate(Steps(to_inference=True, config=options.config, step=options.step), inflate=False)
    destination = Destination("migrated", output if write else None, dry_run=not write)
    warnings: list[str] = []
    with plan_file(source, output, destination, recipe, jobs=options.jobs) as file_plan:
        threads = Threads(options.jobs, options.fixed)
        engine, _ = engine_for(file_plan.plan, options.device, threads, progress, warn=warnings.append)
        done = write_file(file_plan, engine) if write else rehearse(file_plan, engine)
        return Extracted(done, file_plan.planned, tuple(warnings))
