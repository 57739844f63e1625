"""Carry out a prune plan: check each file again, archive it if asked, and move it to the trash with a journal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from gsvckpt.commands.prune.classify import measure
from gsvckpt.commands.prune.decisions import GroupPlan
from gsvckpt.commands.prune.demote import Computer, write_demotion
from gsvckpt.commands.prune.plan import PrunePlan
from gsvckpt.commands.prune.steps import GroupSteps, ManifestStep, doomed, plan_manifests, plan_work
from gsvckpt.commands.prune.trash import find_runs
from gsvckpt.commands.prune.trash_run import Step, TrashRun, begin, new_stamp
from gsvckpt.commands.verify import manifest
from gsvckpt.commands.verify.backup import Backup, place_for
from gsvckpt.commands.verify.manifest import ManifestEntry
from gsvckpt.engine.digest import digest_file
from gsvckpt.engine.discover import find_files
from gsvckpt.engine.saves import Save, SaveFile, freed_by
from gsvckpt.errors import ChangedError, GsvError, OutputError, UsageError
from gsvckpt.files.local import open_source
from gsvckpt.files.lock import locked
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.paths import is_inside
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import is_full, publish_bytes
from gsvckpt.files.temporary import remove_file

_DIGEST = "xxh3_128"
_TRAINING = "training goes on there, or something else writes: run it again later"


class PruneOrders(NamedTuple):
    """How a plan is carried out: where files are copied first, whether they are gone at once, and what makes files smaller."""

    archive: str | None = None
    purge: bool = False
    computer: Computer = Computer()


class Done(NamedTuple):
    """What became of some saves: those that went, those that are smaller now, and what failed."""

    gone: tuple[Save, ...] = ()
    smaller: tuple[Save, ...] = ()
    failures: tuple[GsvError, ...] = ()

    def and_then(self, more: Done) -> Done:
        return Done(self.gone + more.gone, self.smaller + more.smaller, self.failures + more.failures)


class Cleared(NamedTuple):
    """What became of a plan: bytes freed (or that emptying the trash frees), saves that went or shrank, the trash's runs, and what failed."""

    freed: int
    gone: tuple[Save, ...]
    smaller: tuple[Save, ...]
    runs: tuple[TrashRun, ...]
    failures: tuple[GsvError, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A plan that is carried out, in the folders that the user named. `known` are the files that the inventory saw, by folder."""

    plan: PrunePlan
    roots: tuple[str, ...]
    orders: PruneOrders
    progress: Progress
    archive: Backup | None
    known: Mapping[str, Mapping[str, SaveFile]]
    ignored: frozenset[str]


def carry_out(plan: PrunePlan, paths: Sequence[str], orders: PruneOrders, progress: Progress) -> Cleared:
    """Do what the plan says; who calls holds the trash (see `trash.alone`). A run in which something changed meanwhile is left alone, and a file
    that fails stays, with all files of its save.

    Never raises for a file; what failed is in the result. Raises OutputError where the journal cannot be written: then nothing has changed.
    """
    task = _make_task(plan, paths, orders, progress)
    work = plan_work(plan, task.roots)
    manifests = plan_manifests(work, task.roots)
    runs: dict[str, TrashRun] = {}
    done, later = Done(), list[str]()
    try:
        room = done = _begin_runs(task, work, manifests, runs)
        for one in work:
            done = done.and_then(_clear(task, one, runs[one.root], done, room.gone))
        for one_manifest in manifests:
            failures, folder = _forget(task, runs[one_manifest.root], one_manifest.step, done)
            done = done.and_then(Done(failures=failures))
            later += [folder] if folder else []
    except BaseException:  # Ctrl-C, or a journal that cannot be written: all is taken back
        for run in runs.values():
            run.restore()
        raise
    went = [file for save in (*done.gone, *done.smaller) for file in save.files]
    freed = freed_by(went) - sum(one.size for save in done.smaller for one in plan.demoted[save])
    failures = (*done.failures, *_end_runs(runs.values(), purge=orders.purge), *_forget_later(later, done))
    return Cleared(freed, done.gone, done.smaller, tuple(runs.values()), failures)


def _make_task(plan: PrunePlan, paths: Sequence[str], orders: PruneOrders, progress: Progress) -> _Task:
    known: dict[str, dict[str, SaveFile]] = {}
    for save in plan.inventory.saves:
        for file in save.files:
            known.setdefault(os.path.dirname(file.path), {})[file.path] = file
    archive = Backup(orders.archive) if orders.archive is not None else None
    ignored = frozenset(os.path.normpath(left.path) for left in plan.inventory.ignored)
    return _Task(plan, tuple(path for path in paths if os.path.isdir(path)), orders, progress, archive, known, ignored)


def _begin_runs(task: _Task, work: Sequence[GroupSteps], manifests: Sequence[ManifestStep], runs: dict[str, TrashRun]) -> Done:
    """Begin a run in each trash, and put it into `runs`, so that whatever stops this can take back what has begun. Returns what was deleted to make
    room for the first.
    """
    steps: dict[str, list[Step]] = {}
    for root, own in [*((one.root, one.steps) for one in work), *((one.root, (one.step,)) for one in manifests)]:
        steps.setdefault(root, []).extend(own)
    stamp = new_stamp(max((run.stamp for folder in {*task.roots, *steps} for run in find_runs(folder)), default=""))
    done = Done()
    for root, own_steps in steps.items():
        try:
            runs[root] = begin(root, own_steps, stamp)
        except OutputError as error:  # noqa: PERF203 - there are few roots
            if not task.orders.purge or not is_full(error) or task.archive is not None:
                raise
            done = done.and_then(_make_room(task, next(one.group for one in work if one.root == root), done))
            runs[root] = begin(root, own_steps, stamp)
    return done


def _end_runs(runs: Iterable[TrashRun], *, purge: bool) -> list[GsvError]:
    """Say that each run is done, and empty it for good where that was asked for. Returns what failed."""
    failures = []
    for run in runs:
        run.finish()
        if not run.holds_files:
            run.remove()
        elif purge:
            try:
                run.empty()
            except GsvError as error:
                failures.append(error)
    return failures


def _clear(task: _Task, work: GroupSteps, run: TrashRun, before: Done, deleted: Sequence[Save]) -> Done:
    """Carry out one run, oldest saves first. `before` is what was done already, and `deleted` what of it made room for the trash."""
    steps = {run.original(step): step for step in work.steps}
    try:
        _require_same(task, work.group, before)
    except GsvError as error:
        return Done(failures=(error,))
    done = Done()
    for save in reversed(doomed(work.group)):
        if save not in deleted:
            try:
                done = done.and_then(_clear_save(task, save, run, steps))
            except (GsvError, OSError) as caught:  # one save that fails must not stop the others
                done = done.and_then(Done(failures=(_named(caught, save.paths[0]),)))
    return done


def _clear_save(task: _Task, save: Save, run: TrashRun, steps: Mapping[str, Step]) -> Done:
    """Move the files of a save. Raises GsvError or OSError where it was not begun; what fails behind that is in the result."""
    if save.place:
        _require_same_folder(save)
    for file in save.files:
        _require_unchanged(file.path, file)
        if task.archive is not None:
            _store(task, task.archive, file)
    demoted = {one.path: one for one in task.plan.demoted.get(save, ())}
    taken: list[Step] = []
    try:
        for file in save.files:
            taken.append(steps[os.path.abspath(file.path)])
            if file.path in demoted:
                run.replace(taken[-1], partial(write_demotion, save, demoted[file.path], computer=task.orders.computer))
            else:
                run.take(taken[-1])
    except (GsvError, OSError) as caught:  # half a save is of no use to anybody
        return Done(failures=(*_put_back(run, taken), _named(caught, save.paths[0])))
    if save.place:
        remove_empty(save.place)
    task.progress.advance(save.size)
    return Done(smaller=(save,)) if demoted else Done(gone=(save,))


def _make_room(task: _Task, group: GroupPlan, before: Done) -> Done:
    """Delete the oldest save that is to go at once, on a disk that has no room for a folder. Raises GsvError; then it may be gone in part."""
    _require_same(task, group, before)
    oldest = [decision.save for decision in group.of("remove")][-1:]
    for save in oldest:
        for file in save.files:
            _require_unchanged(file.path, file)
            remove_file(file.path)
        remove_empty(save.place or os.devnull)
    return Done(gone=tuple(oldest))


def _require_same(task: _Task, group: GroupPlan, before: Done) -> None:
    """Raise ChangedError where the folder is not what the plan was made for."""
    folder = group.group.folder
    moved = {path for save in (*before.gone, *before.smaller) for path in save.paths}
    places = {os.path.normpath(one.place) for save in before.smaller for one in task.plan.demoted[save]}
    expected = moved | places | task.ignored
    now = {os.path.normpath(path) for path in find_files([folder or "."], recursive=False).checkpoints} - expected
    then = task.known.get(folder, {})
    come = sorted(now - set(then))
    if come and any(is_inside(folder, root) for root in task.roots):  # of files that were named, others are nobody's concern
        raise ChangedError("appeared while the plan was made, so its folder is left alone", path=come[0], hint=_TRAINING)
    for path, file in then.items():
        if path not in expected:
            _require_unchanged(path, file)


def _store(task: _Task, archive: Backup, file: SaveFile) -> None:
    """Copy a file to the archive, and read the copy back."""
    with open_source(file.path) as source:
        digests = digest_file(source, frozenset({_DIGEST}), task.orders.computer.jobs, task.progress)
    entry = ManifestEntry(os.path.basename(file.path), file.size, file.mtime_ns, digests=digests)
    root = next((root for root in task.roots if is_inside(file.path, root)), None)
    archive.store(file.path, place_for(file.path, root), entry, None, task.progress, reread=True)


def _forget(task: _Task, run: TrashRun, step: Step, done: Done) -> tuple[tuple[GsvError, ...], str]:
    """Take the entries of files that went out of the folder's manifest, where they would count as lost. Returns what failed, and the folder if there
    will be room for another manifest once the trash is purged.
    """
    original = run.original(step)
    folder = os.path.dirname(original)
    gone = _gone_from(folder, done)

    def make(path: str) -> None:
        with open(original, "rb") as file:
            publish_bytes(path, file.read(), overwrite=False)
        manifest.record(os.path.dirname(path), [], forget=gone.__contains__)

    try:
        if gone:
            with locked(folder):
                run.replace(step, make)
    except (GsvError, OSError) as caught:
        if task.orders.purge and is_full(caught):
            return (), folder
        return (_named(caught, original),), ""
    return (), ""


def _forget_later(folders: Sequence[str], done: Done) -> list[GsvError]:
    """The same without a way back, where the disk had no room before it was purged."""
    failures = []
    for folder in folders:
        try:
            manifest.record(folder, [], forget=_gone_from(folder, done).__contains__)
        except GsvError as error:  # noqa: PERF203 - there are few folders
            failures.append(error)
    return failures


def _gone_from(folder: str, done: Done) -> frozenset[str]:
    """The names of files of a folder that went or were made smaller."""
    paths = (os.path.abspath(path) for save in (*done.gone, *done.smaller) for path in save.paths)
    return frozenset(os.path.basename(path) for path in paths if os.path.dirname(path) == folder)


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
        raise ChangedError("appeared while the plan was made, so its folder is left alone", path=come[0], hint=_TRAINING)


def remove_empty(folder: str) -> None:
    """Remove a folder and those in it, where nothing else is left in them."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def _require_unchanged(path: str, file: SaveFile) -> None:
    """Raise ChangedError unless a file is what it was when it was looked at."""
    try:
        now = measure(path)
    except OSError:
        raise ChangedError("disappeared while the plan was made", path=path, hint=_TRAINING) from None
    if (now.size, now.mtime_ns, now.inode) != (file.size, file.mtime_ns, file.inode):
        raise ChangedError("changed while the plan was made", path=path, hint=_TRAINING)


def _named(caught: GsvError | OSError, path: str) -> GsvError:
    error = caught if isinstance(caught, GsvError) else OutputError(f"cannot be moved: {caught.strerror}", path=str(caught.filename or path))
    error.path = error.path or path
    return error


def check_archive(archive: str | None, roots: Sequence[str]) -> None:
    """Raise UsageError for an archive that is no folder, or inside what is pruned; RefusedError for a device or a pipe."""
    if archive is not None and os.path.exists(archive) and not os.path.isdir(archive):
        raise file_obstacle(archive) or UsageError("is not a folder", where="--archive", path=archive)
    if archive is not None and any(is_inside(os.path.realpath(archive), os.path.realpath(root)) for root in roots):
        raise UsageError("is inside a folder that is pruned", where="--archive", path=archive, hint="name a folder elsewhere")
