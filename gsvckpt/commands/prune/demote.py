"""Making saves smaller instead of removing them: without optimizer state, or as the small weights that inference needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from gsvckpt.commands.prune.policy import DemoteTo
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import Planned, Rewritten, rewrite
from gsvckpt.commands.rewrite.migrate import Migration, Steps
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.saves import Save
from gsvckpt.engine.write import Engine
from gsvckpt.errors import RefusedError
from gsvckpt.sovits.training_state import training_state
from gsvckpt.transforms.plan import Plan
from gsvckpt.transforms.strip import strip

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
        done = _rewrite(path, path, to, engine_for, jobs, rehearsal)
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
    strips = _strips(save, to)
    _rewrite(demoted.path, output, "stripped" if strips else to, engine_for, jobs, Destination("weights", output))
    os.utime(output, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _strips(save: Save, to: DemoteTo) -> bool:
    return to == "stripped" or save.group.kind not in _SMALL


def _files(save: Save, to: DemoteTo) -> tuple[str, ...]:
    return save.paths if _strips(save, to) else save.paths[:1]  # of G and D, weights come of G


def _rewrite(path: str, output: str, to: DemoteTo, engine_for: EngineFor, jobs: int, destination: Destination) -> Rewritten:
    make = _strip if to == "stripped" else partial(_extract, jobs)
    return rewrite(path, output, destination, engine_for, make)


def _strip(examination: Examination, plan: Plan) -> Planned:
    kind, known = examination.identity.kind, examination.roles
    return Planned(strip(plan, training_state(plan.root, kind, known=known)), examination.identity)


def _extract(jobs: int, examination: Examination, plan: Plan) -> Planned:
    with ExitStack() as stack:  # small weights take bytes from no other file
        done = Migration(Steps(to_inference=True), stack, jobs).plan(examination, plan)
    return Planned(done.plan, done.identity, done.name, done.warnings, done.whole, done.kept, done.consulted)
