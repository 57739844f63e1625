"""Which files a plan moves, and into which trash: one on the same file system, because files are never copied there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from gsvckpt.commands.prune.decisions import GroupPlan
from gsvckpt.commands.prune.plan import PrunePlan
from gsvckpt.commands.prune.trash_run import Step
from gsvckpt.commands.verify import manifest
from gsvckpt.engine.saves import Save
from gsvckpt.errors import GsvError
from gsvckpt.files.paths import is_inside


class GroupSteps(NamedTuple):
    """A run of which something goes or shrinks, the folder whose trash is used, and the step for each file."""

    group: GroupPlan
    root: str
    steps: tuple[Step, ...]


class ManifestStep(NamedTuple):
    """A manifest that names files which go, and the folder whose trash keeps the old one."""

    root: str
    step: Step


def doomed(group: GroupPlan) -> list[Save]:
    """The saves of a run that go or shrink, newest first."""
    return [decision.save for decision in group.decisions if decision.fate != "keep"]


def plan_work(plan: PrunePlan, roots: Sequence[str]) -> list[GroupSteps]:
    """What there is to do, run by run. `roots` are the folders that the user named."""
    mounts = _mounts()
    found = []
    for group in plan.groups:
        if doomed(group):
            root = _trash_root(group.group.folder, roots, mounts)
            steps = [step for save in doomed(group) for step in _steps(save, root, plan)]
            found.append(GroupSteps(group, root, tuple(steps)))
    return found


def plan_manifests(work: Sequence[GroupSteps], roots: Sequence[str]) -> list[ManifestStep]:
    """The step for each manifest that names files which go: one for a folder, however many runs are in it."""
    going: dict[str, set[str]] = {}
    for one in work:
        files = (path for save in doomed(one.group) if not save.place for path in save.paths)
        going.setdefault(one.group.group.folder, set()).update(map(os.path.basename, files))
    mounts = _mounts()
    found = []
    for folder, names in going.items():
        path = os.path.join(folder, manifest.NAME)
        if os.path.isfile(path) and _recorded(path) & names:
            root, facts = _trash_root(folder, roots, mounts), os.stat(path)
            place = os.path.relpath(os.path.abspath(path), root)
            found.append(ManifestStep(root, Step(place, facts.st_size, facts.st_mtime_ns, place)))
    return found


def _steps(save: Save, root: str, plan: PrunePlan) -> list[Step]:
    def below(path: str) -> str:
        return os.path.relpath(os.path.abspath(path), root)

    places = {one.path: below(one.place) for one in plan.demoted.get(save, ())}
    return [Step(below(file.path), file.size, file.mtime_ns, places.get(file.path, "")) for file in save.files]


def _trash_root(folder: str, roots: Sequence[str], mounts: frozenset[str]) -> str:
    """The folder whose trash is in the same file system: as far up as what was named, else as that reaches."""
    top = next((root for root in roots if is_inside(folder, root)), folder)
    place = os.path.abspath(folder)
    device = os.stat(place).st_dev
    while place != os.path.abspath(top) and os.stat(os.path.dirname(place)).st_dev == device and place not in mounts:
        place = os.path.dirname(place)
    return place


def _mounts() -> frozenset[str]:
    """Where file systems are mounted, as far as the system tells. A folder that is mounted at a second place, as Docker does, keeps its device there,
    but nothing can be moved out of it.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            places = [line.split(" ")[4] for line in file]
    except (OSError, IndexError):  # no Linux
        return frozenset()
    return frozenset(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place) for place in places)


def _recorded(path: str) -> frozenset[str]:
    """The names of files in a manifest."""
    try:
        found = manifest.read_manifest(path)
    except GsvError:  # it is not ours to judge here; verify tells of it
        return frozenset()
    return frozenset(found.entries) if found is not None else frozenset()
