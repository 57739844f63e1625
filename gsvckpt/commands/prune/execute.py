"""Carrying out a prune: each file is looked at again, archived where that was asked for, and moved to the trash under a journal."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from gsvckpt.commands.prune.classify import measure
from gsvckpt.commands.prune.decisions import GroupPlan
from gsvckpt.commands.prune.demote import Demoted, EngineFor, write_demotion
from gsvckpt.commands.prune.plan import PrunePlan
from gsvckpt.commands.prune.policy import DemoteTo
from gsvckpt.commands.prune.trash import Step, TrashRun, begin, find_runs, new_stamp
from gsvckpt.commands.verify import manifest
from gsvckpt.commands.verify.backup import Backup, place_for
from gsvckpt.commands.verify.manifest import ManifestEntry
from gsvckpt.engine.digest import digest_file
from gsvckpt.engine.discover import find_files
from gsvckpt.engine.saves import Group, Save, SaveFile, freed_by
from gsvckpt.errors import ChangedError, GsvError, OutputError, UsageError
from gsvckpt.files.local import open_source
from gsvckpt.files.lock import locked
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import is_full, publish_bytes
from gsvckpt.files.temporary import remove_file

_DIGEST = "xxh3_128"
_TRAINING = "training goes on there, or something else writes: run it again later"


class PruneOrders(NamedTuple):
    """How a plan is carried out: where files are copied first, whether they are gone at once, and what makes files smaller."""

    archive: str | None
    purge: bool
    demote_to: Callable[[Group], DemoteTo]
    engine_for: EngineFor
    jobs: int = 1


@dataclass(slots=True)
class Cleared:
    """What became of a plan: bytes freed (or that emptying the trash frees), saves that went or shrank, the trash's runs, and what failed."""

    freed: int = 0
    gone: list[Save] = field(default_factory=list)
    smaller: list[Save] = field(default_factory=list)
    runs: list[TrashRun] = field(default_factory=list)
    failures: list[GsvError] = field(default_factory=list)


def carry_out(plan: PrunePlan, paths: Sequence[str], orders: PruneOrders, progress: Progress) -> Cleared:
    """Do what the plan says; who calls holds the trash (see `trash.alone`). A group in which something changed meanwhile is left alone, and a file
    that fails stays, with all files of its save.

    Never raises for a file; what failed is in the result. Raises OutputError where the journal cannot be written: then nothing has changed.
    """
    done = Cleared()
    clear = _Clearing(plan, paths, orders, progress, done)
    work = [group for group in plan.groups if group.of("remove") or group.of("demote")]
    with_steps = [(group, root, steps) for group in work for root, steps in [clear.steps(group)]]
    manifests = clear.manifest_steps(work)
    steps_below: dict[str, list[Step]] = {}
    for root, steps in [*((root, steps) for _, root, steps in with_steps), *((root, [step]) for root, step in manifests)]:
        steps_below.setdefault(root, []).extend(steps)
    stamp = new_stamp(max((run.stamp for folder in {*clear.roots, *steps_below} for run in find_runs(folder)), default=""))
    runs: dict[str, TrashRun] = {}
    try:
        for root, steps in steps_below.items():
            try:
                runs[root] = begin(root, steps, stamp)
            except OutputError as error:  # noqa: PERF203 - there are few roots
                if not orders.purge or not is_full(error) or orders.archive is not None:
                    raise
                clear.make_room(next(group for group, place, _ in with_steps if place == root))
                runs[root] = begin(root, steps, stamp)
        for group, root, steps in with_steps:
            clear.clear(group, runs[root], steps)
        for root, step in manifests:
            clear.forget(runs[root], step)
    except BaseException:  # Ctrl-C, or a journal that cannot be written: all is taken back
        for run in runs.values():
            run.restore()
        raise
    went = [file for save in (*done.gone, *done.smaller) for file in save.files]
    done.freed = freed_by(went) - sum(one.size for save in done.smaller for one in plan.demoted[save])
    for run in runs.values():
        run.finish()
        if not run.holds_files:
            run.remove()
        elif orders.purge:
            try:
                run.empty()
            except GsvError as error:
                done.failures.append(error)
    clear.forget_later()
    done.runs = list(runs.values())
    return done


class _Clearing:
    """The state of one run."""

    def __init__(self, plan: PrunePlan, paths: Sequence[str], orders: PruneOrders, progress: Progress, done: Cleared) -> None:
        self.plan, self.orders, self.progress, self.done = plan, orders, progress, done
        self.roots = [path for path in paths if os.path.isdir(path)]
        self.archive = Backup(orders.archive) if orders.archive is not None else None
        self.mounts = _mounts()
        self.later: list[str] = []  # folders whose manifests wait for room
        self.known: dict[str, dict[str, SaveFile]] = {}
        for save in plan.inventory.saves:
            for file in save.files:
                self.known.setdefault(os.path.dirname(file.path), {})[file.path] = file
        self.expected = {os.path.normpath(left.path) for left in plan.inventory.ignored}

    def root_of(self, folder: str) -> str:
        """The folder whose trash is in the same file system: as far up as what was named, else as that reaches."""
        top = next((root for root in self.roots if _is_below(folder, root)), folder)
        place = os.path.abspath(folder)
        device = os.stat(place).st_dev
        while place != os.path.abspath(top) and os.stat(os.path.dirname(place)).st_dev == device and place not in self.mounts:
            place = os.path.dirname(place)
        return place

    def steps(self, group: GroupPlan) -> tuple[str, list[Step]]:
        """The trash's parent for a group, and all steps in it."""
        root = self.root_of(group.group.folder)

        def below(path: str) -> str:
            return os.path.relpath(os.path.abspath(path), root)

        found = []
        for save in _doomed(group):
            places = {one.path: below(one.place) for one in self.plan.demoted.get(save, ())}
            found += [Step(below(file.path), file.size, file.mtime_ns, places.get(file.path, "")) for file in save.files]
        return root, found

    def manifest_steps(self, groups: Sequence[GroupPlan]) -> list[tuple[str, Step]]:
        """The trash's parent and the step for each manifest that names files which go: one for a folder, however many groups are in it."""
        going: dict[str, set[str]] = {}
        for group in groups:
            files = (path for save in _doomed(group) if not save.place for path in save.paths)
            going.setdefault(group.group.folder, set()).update(map(os.path.basename, files))
        found = []
        for folder, names in going.items():
            path = os.path.join(folder, manifest.NAME)
            if os.path.isfile(path) and _recorded(path) & names:
                root, facts = self.root_of(folder), os.stat(path)
                place = os.path.relpath(os.path.abspath(path), root)
                found.append((root, Step(place, facts.st_size, facts.st_mtime_ns, place)))
        return found

    def clear(self, group: GroupPlan, run: TrashRun, steps: Sequence[Step]) -> None:
        """Carry out one group, oldest saves first."""
        by_path = {run.original(step): step for step in steps}
        try:
            self._require_same(group)
        except GsvError as error:
            self.done.failures.append(error)
            return
        for save in reversed([save for save in _doomed(group) if save not in self.done.gone]):
            try:
                self._clear_save(save, run, by_path)
            except (GsvError, OSError) as caught:  # noqa: PERF203 - one save that fails must not stop the others
                self.done.failures.append(_named(caught, save.paths[0]))

    def make_room(self, group: GroupPlan) -> None:
        """Delete the oldest save that is to go at once, on a disk that has no room for a folder. Raises GsvError; then it may be gone in part."""
        self._require_same(group)
        oldest = [decision.save for decision in group.of("remove")][-1:]
        for file in (file for save in oldest for file in save.files):
            _require_unchanged(file.path, file)
            remove_file(file.path)
        for save in oldest:
            remove_empty(save.place or os.devnull)
            self.expected |= set(save.paths)
            self.done.gone.append(save)

    def _require_same(self, group: GroupPlan) -> None:
        """Raise ChangedError where the folder is not what the plan was made for."""
        folder = group.group.folder
        now = {os.path.normpath(path) for path in find_files([folder or "."], recursive=False).checkpoints} - self.expected
        then = self.known.get(folder, {})
        come = sorted(now - set(then))
        if come and any(_is_below(folder, root) for root in self.roots):  # of files that were named, others are nobody's concern
            raise ChangedError("came while the plan was made, so its folder is left alone", path=come[0], hint=_TRAINING)
        for path, file in then.items():
            if path not in self.expected:
                _require_unchanged(path, file)

    def _clear_save(self, save: Save, run: TrashRun, steps: Mapping[str, Step]) -> None:
        if save.place:
            _require_same_folder(save)
        for file in save.files:
            _require_unchanged(file.path, file)
            if self.archive is not None:
                self._store(self.archive, file)
        demoted = {one.path: one for one in self.plan.demoted.get(save, ())}
        taken: list[Step] = []
        try:
            for file in save.files:
                taken.append(steps[os.path.abspath(file.path)])
                if file.path in demoted:
                    run.replace(taken[-1], partial(self._shrink, save, demoted[file.path]))
                else:
                    run.take(taken[-1])
        except BaseException:  # half a save is of no use to anybody
            self.done.failures += _put_back(run, taken)
            raise
        if save.place:
            remove_empty(save.place)
        self.expected |= {*save.paths, *(os.path.normpath(one.place) for one in demoted.values())}
        (self.done.smaller if demoted else self.done.gone).append(save)
        self.progress.advance(save.size)

    def _shrink(self, save: Save, demoted: Demoted, output: str) -> None:
        write_demotion(save, demoted, output, self.orders.demote_to(save.group), self.orders.engine_for, self.orders.jobs)

    def _store(self, archive: Backup, file: SaveFile) -> None:
        with open_source(file.path) as source:
            digests = digest_file(source, frozenset({_DIGEST}), self.orders.jobs, self.progress)
        entry = ManifestEntry(os.path.basename(file.path), file.size, file.mtime_ns, digests=digests)
        root = next((root for root in self.roots if _is_below(file.path, root)), None)
        archive.store(file.path, place_for(file.path, root), entry, None, self.progress, reread=True)

    def forget(self, run: TrashRun, step: Step) -> None:
        """Take the entries of files that went out of the folder's manifest, where they would count as lost."""
        original = run.original(step)
        folder = os.path.dirname(original)
        gone = self.gone_from(folder)

        def make(path: str) -> None:
            with open(original, "rb") as file:
                publish_bytes(path, file.read(), overwrite=False)
            manifest.record(os.path.dirname(path), [], forget=lambda name: name in gone)

        try:
            if gone:
                with locked(folder):
                    run.replace(step, make)
        except (GsvError, OSError) as caught:
            if self.orders.purge and is_full(caught):
                self.later.append(folder)
            else:
                self.done.failures.append(_named(caught, original))

    def forget_later(self) -> None:
        """The same without a way back, where the disk had no room for another manifest before it was purged."""
        for folder in self.later:
            gone = self.gone_from(folder)
            try:
                manifest.record(folder, [], forget=gone.__contains__)
            except GsvError as error:
                self.done.failures.append(error)

    def gone_from(self, folder: str) -> set[str]:
        """The names of files of a folder that went or were made smaller."""
        paths = (os.path.abspath(path) for save in (*self.done.gone, *self.done.smaller) for path in save.paths)
        return {os.path.basename(path) for path in paths if os.path.dirname(path) == folder}


def _put_back(run: TrashRun, steps: Sequence[Step]) -> list[GsvError]:
    """Take back what was moved of a save, and go on behind what cannot be. Returns what stays in the trash, and why."""
    failures: list[GsvError] = []
    for step in reversed(steps):
        try:
            run.put_back(step)
        except GsvError as error:  # noqa: PERF203 - one file that stays must not keep the others
            failures.append(OutputError(f"is still in the trash: {error.why}", path=run.original(step), hint="close what uses it, then --undo"))
    return failures


def _require_same_folder(save: Save) -> None:
    """Raise ChangedError where a folder that is a save holds other files than when it was looked at."""
    there = {os.path.normpath(os.path.join(place, name)) for place, _, names in os.walk(save.place) for name in names}
    come = sorted(there - {os.path.normpath(path) for path in save.paths})
    if come:
        raise ChangedError("came while the plan was made, so its folder is left alone", path=come[0], hint=_TRAINING)


def remove_empty(folder: str) -> None:
    """Remove a folder and those in it, where nothing else is left in them."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


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


def _doomed(group: GroupPlan) -> list[Save]:
    return [decision.save for decision in group.decisions if decision.fate != "keep"]


def _require_unchanged(path: str, file: SaveFile) -> None:
    """Raise ChangedError unless a file is what it was when it was looked at."""
    try:
        now = measure(path)
    except OSError:
        raise ChangedError("went away while the plan was made", path=path, hint=_TRAINING) from None
    if (now.size, now.mtime_ns, now.inode) != (file.size, file.mtime_ns, file.inode):
        raise ChangedError("changed while the plan was made", path=path, hint=_TRAINING)


def _is_below(path: str, root: str) -> bool:
    place, top = os.path.abspath(path), os.path.abspath(root)
    return place == top or place.startswith(top.rstrip(os.sep) + os.sep)


def _named(caught: GsvError | OSError, path: str) -> GsvError:
    error = caught if isinstance(caught, GsvError) else OutputError(f"cannot be moved: {caught.strerror}", path=str(caught.filename or path))
    error.path = error.path or path
    return error


def check_archive(archive: str | None, roots: Sequence[str]) -> None:
    """Raise UsageError for an archive that is no folder, or inside what is pruned; RefusedError for a device or a pipe."""
    if archive is not None and os.path.exists(archive) and not os.path.isdir(archive):
        raise file_obstacle(archive) or UsageError("is no folder", where="--archive", path=archive)
    if archive is not None and any(_is_below(os.path.realpath(archive), os.path.realpath(root)) for root in roots):
        raise UsageError("lies inside what is pruned", where="--archive", path=archive, hint="name a folder elsewhere")
