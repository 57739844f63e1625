"""Making saves smaller instead of removing them: without optimizer state, or as the small weights that inference needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from gsvckpt.commands.prune.policy import DemoteTo
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import plan_file, rehearse, write
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.strip_optimizer import StripOptimizer
from gsvckpt.engine.saves import Save
from gsvckpt.engine.write import Engine
from gsvckpt.errors import RefusedError
from gsvckpt.transforms.plan import Plan

EngineFor = Callable[[Plan], Engine]
_SMALL = ("sovits-training", "sovits-lora-training", "gpt-training")  # kinds of which GPT-SoVITS saves small weights


class Demoted(NamedTuple):
    """A file that becomes a smaller one: where that is to be, under a name that GPT-SoVITS gives such a file, and its size."""

    path: str
    place: str
    size: int


def plan_demotion(save: Save, to: DemoteTo, engine_for: EngineFor, jobs: int) -> tuple[Demoted, ...]:
    """What becomes of the save's files; those that are not in the result have no place in small weights, and go. Raises GsvError where it cannot be.

    Sizes are exact: they are laid out as they will be written.
    """
    if any(file.links > 1 for file in save.files):
        raise RefusedError("has another name (a hard link), so that shrinking it would free nothing")
    files = _files(save, to)
    found = []
    for path in files:
        rehearsal = Destination("weights", path if _strips(save, to) else None, dry_run=True)  # refuses what the real run would
        with plan_file(path, path, rehearsal, _recipe(to), jobs=jobs) as file_plan:
            done = rehearse(file_plan, engine_for(file_plan.plan))
        place = path if _strips(save, to) else os.path.join(os.path.dirname(path), os.path.basename(done.output or path))
        if place != path and os.path.lexists(place):
            raise RefusedError(f"{os.path.basename(place)} is there already")
        if done.bytes_after >= os.path.getsize(path):
            raise RefusedError("holds nothing that could go")
        found.append(Demoted(path, place, done.bytes_after))
    return tuple(found)


def write_demotion(save: Save, demoted: Demoted, output: str, to: DemoteTo, engine_for: EngineFor, jobs: int) -> None:
    """Write the smaller file to `output`, as old as the other. Raises GsvError or OSError; then nothing is there."""
    facts = os.stat(demoted.path)
    recipe = _recipe("stripped" if _strips(save, to) else to)
    with plan_file(demoted.path, output, Destination("weights", output), recipe, jobs=jobs) as file_plan:
        write(file_plan, engine_for(file_plan.plan))
    os.utime(output, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _strips(save: Save, to: DemoteTo) -> bool:
    return to == "stripped" or save.group.kind not in _SMALL


def _files(save: Save, to: DemoteTo) -> tuple[str, ...]:
    return save.paths if _strips(save, to) else save.paths[:1]  # of G and D, weights come of G


def _recipe(to: DemoteTo) -> Recipe:
    return StripOptimizer() if to == "stripped" else Migrate(Steps(to_inference=True), inflate=False)
