"""Make saves smaller instead of removing them: without optimizer state, or as small weights for inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from gsvckpt.files.paths import is_inside
from gsvckpt.files.progress import Silent
from gsvckpt.sovits.runs import lasting_folder
from gsvckpt.transforms.plan import Plan

_SMALL = ("sovits-training", "sovits-lora-training", "gpt-training")  # kinds of which GPT-SoVITS saves small weights


class Computer(NamedTuple):
    """The device and the number of threads that make files smaller; `fixed` if the user chose the number."""

    device: str = "cpu"
    jobs: int = 1
    fixed: bool = False

    def engine(self, plan: Plan) -> Engine:
        """The engine for a plan."""
        from gsvckpt.engine.placement import Threads, engine_for  # few plans shrink anything

        return engine_for(plan, self.device, Threads(self.jobs, self.fixed), Silent(), warn=_say_nothing)[0]


def _say_nothing(_: str) -> None:
    """Of `auto` that means the host: that has been told, or does not matter for a few files."""


class Demoted(NamedTuple):
    """A file that becomes a smaller one: where that is to be, under a name that GPT-SoVITS gives such a file, and its size."""

    path: str
    place: str
    size: int
    to: DemoteTo = "stripped"


def plan_demotion(save: Save, to: DemoteTo, folders: Sequence[str], computer: Computer) -> tuple[Demoted, ...]:
    """What becomes of the save's files; those that are not in the result have no place in small weights, and go. Raises GsvError where it cannot be,
    as small weights take no place outside the `folders` that are pruned.

    Sizes are exact: they are laid out as they will be written.
    """
    if any(file.links > 1 for file in save.files):
        raise RefusedError("has another name (a hard link), so shrinking it would free nothing")
    files = _files(save, to)
    found = []
    for path in files:
        rehearsal = Destination("weights", path if _strips(save, to) else None, dry_run=True)  # refuses what the real run would
        with plan_file(path, path, rehearsal, _recipe(to), jobs=computer.jobs) as file_plan:
            done = rehearse(file_plan, computer.engine(file_plan.plan))
        place = path if _strips(save, to) else _lasting_place(path, os.path.basename(done.output or path), folders)
        if place != path and os.path.lexists(place):
            raise RefusedError(f"{os.path.basename(place)} exists already")
        if done.bytes_after >= os.path.getsize(path):
            raise RefusedError("has no optimizer state to remove")
        found.append(Demoted(path, place, done.bytes_after, to))
    return tuple(found)


def _lasting_place(path: str, name: str, folders: Sequence[str]) -> str:
    """Where small weights go: beside the file, or one folder up where GPT-SoVITS removes what is beside it. Raises RefusedError where the trash would
    not reach there, as it is in what is pruned and in the same file system.
    """
    folder = os.path.dirname(path)
    lasting = lasting_folder(folder)
    if lasting != folder:
        root = next((root for root in folders if is_inside(folder, root)), folder)
        if not is_inside(lasting, root) or os.stat(lasting or os.curdir).st_dev != os.stat(folder or os.curdir).st_dev:
            raise RefusedError("GPT-SoVITS removes what is beside it, and one folder up is not what is pruned; name the experiment's folder")
    return os.path.join(lasting, name)


def write_demotion(save: Save, demoted: Demoted, output: str, computer: Computer) -> None:
    """Write the smaller file to `output`, as old as the other. Raises GsvError or OSError; then nothing is there."""
    facts = os.stat(demoted.path)
    recipe = _recipe("stripped" if _strips(save, demoted.to) else demoted.to)
    with plan_file(demoted.path, output, Destination("weights", output), recipe, jobs=computer.jobs) as file_plan:
        write(file_plan, computer.engine(file_plan.plan))
    os.utime(output, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _strips(save: Save, to: DemoteTo) -> bool:
    return to == "stripped" or save.group.kind not in _SMALL


def _files(save: Save, to: DemoteTo) -> tuple[str, ...]:
    return save.paths if _strips(save, to) else save.paths[:1]  # of G and D, weights come of G


def _recipe(to: DemoteTo) -> Recipe:
    return StripOptimizer() if to == "stripped" else Migrate(Steps(to_inference=True), inflate=False)
