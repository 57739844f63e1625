"""The trash of a folder: its runs, repairing interrupted ones, undoing the last one, and locking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from gsvckpt.commands.prune.trash_run import FILES, JOURNAL, STATE, State, Step, TrashRun
from gsvckpt.errors import DamagedError, GsvError, OutputError, RefusedError
from gsvckpt.files.local import is_link
from gsvckpt.files.lock import LockHeldError, locked
from gsvckpt.files.publish import TRASH, is_full
from gsvckpt.files.temporary import is_temporary, remove_folder

_LARGEST = 1 << 25  # characters of a journal, whose lines are about 300 for each file


def find_runs(folder: str) -> list[TrashRun]:
    """The runs in all trash folders at or below `folder`, oldest first. Raises DamagedError for a journal that cannot be understood."""
    found = []
    for place, names, _ in os.walk(folder):
        if TRASH in names:
            names.remove(TRASH)
            trash = os.path.join(place, TRASH)
            found += [_read(os.path.join(trash, name)) for name in os.listdir(trash) if os.path.isdir(os.path.join(trash, name))]
    return sorted((run for run in found if run is not None), key=lambda run: run.stamp)


def has_trash(folders: Sequence[str]) -> bool:
    """Whether there is a trash at or below the folders, be it an empty one of a run that was killed."""
    return any(TRASH in names for folder in folders for _, names, _ in os.walk(folder))


def _read(folder: str) -> TrashRun | None:
    """A run; None for a folder that was made by one that got no further."""
    path = os.path.join(folder, JOURNAL)
    if not os.path.isfile(path):
        return _read_without_journal(folder)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} characters")
        lines = [line for line in text.split("\n") if line]
        head = json.loads(lines[0])
        steps = tuple(Step.of_line(line) for line in lines[1 : head["steps"] + 1])
        if len(steps) != head["steps"]:
            raise ValueError("it ends early")
        made: dict[str, tuple[int, int]] = {}
        state: State = "begun"
        for line in lines[head["steps"] + 1 :]:
            try:
                told = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                break
            if "made" in told:
                made[told["made"].replace("/", os.sep)] = (told["size"], told["mtime_ns"])
            state = told.get("state", state)
        run = TrashRun(folder, steps, made, _marked(folder) or state)
        _require_sane(run)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"cannot be understood: {error}", path=path, hint="the files are beside it, under files/: move them back by hand"
        ) from error
    return run


def _read_without_journal(folder: str) -> TrashRun | None:
    """A run that began on a full disk: its files are its steps. None where there are none."""
    top = os.path.join(folder, FILES)
    steps = []
    for place, _, names in os.walk(top):
        for path in (os.path.join(place, name) for name in names):
            facts = os.lstat(path)
            steps.append(Step(os.path.relpath(path, top), facts.st_size, max(facts.st_mtime_ns, 0)))
    run = TrashRun(folder, tuple(sorted(steps)), {}, _marked(folder) or "begun", journal=False)
    try:
        _require_sane(run)
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot be understood: {error}", path=folder, hint="no run of gsvckpt made it; look into it, and remove it") from error
    return run if steps else None


def _marked(folder: str) -> State | None:
    """What the empty files beside a run's files say of it."""
    states: tuple[State, ...] = ("purging", "done")
    return next((state for state in states if os.path.lexists(os.path.join(folder, f"{STATE}{state}"))), None)


def _require_sane(run: TrashRun) -> None:
    """Raise ValueError or TypeError for a journal that no run of this program wrote: a folder may come from strangers."""
    if run.seconds < 0 or run.state not in ("begun", "done", "purging"):
        raise ValueError(f"no run is called {run.stamp}, or is {run.state}")
    within = {run.root: os.path.realpath(run.root), run.folder: os.path.realpath(run.folder)}
    if within[run.folder] != os.path.join(within[run.root], TRASH, run.stamp):
        raise ValueError("its folder is a link")
    for step in run.steps:
        if step.size < 0 or step.mtime_ns < 0:
            raise ValueError("a size below zero")
        paths = (run.original(step), run.kept(step), *((os.path.join(run.root, step.place),) if step.place else ()))
        for path, top in zip(paths, (run.root, run.folder, run.root), strict=False):
            folder = os.path.realpath(os.path.dirname(path))
            if os.path.isabs(step.path) or os.path.basename(path) in {"", ".", ".."} or os.path.commonpath([folder, within[top]]) != within[top]:
                raise ValueError("a path that leads out of the folder")


def settle_interrupted(folders: Sequence[str]) -> list[tuple[TrashRun, list[GsvError]]]:
    """Undo runs that were interrupted, and finish purges. Returns the runs that were undone, with what could not be. Nobody else may be at work."""
    undone = []
    for folder in folders:
        _sweep(folder)
        for run in find_runs(folder):
            if run.state == "purging":
                run.empty()
            elif run.state == "begun":
                undone.append((run, run.restore()))
    return undone


def _sweep(folder: str) -> None:
    """Remove what runs left that were killed before their journal was there: folders with nothing in them but a temporary file."""
    for place, names, _ in os.walk(folder):
        if TRASH in names:
            names.remove(TRASH)
            for run in os.scandir(os.path.join(place, TRASH)):
                if run.is_dir(follow_symlinks=False) and not is_link(run.path) and all(is_temporary(name) for name in os.listdir(run.path)):
                    remove_folder(run.path)


def undo_last(folders: Sequence[str]) -> tuple[list[TrashRun], list[GsvError]]:
    """Undo the last run that is in the trash below the folders. Returns it as it was (in each trash that it used), and what could not be undone."""
    for folder in folders:
        _sweep(folder)
    chosen = find_last(folders)
    before = [run.filled for run in chosen]
    return before, [conflict for run in chosen for conflict in run.restore()]


def find_last(folders: Sequence[str]) -> list[TrashRun]:
    """The last run below the folders, in each trash that it used; empty where there is none to undo."""
    runs = [run for folder in folders for run in find_runs(folder) if run.state != "purging"]
    last = max((run.stamp for run in runs), default=None)
    return [run for run in runs if run.stamp == last]


@contextmanager
def alone(folders: Sequence[str]) -> Iterator[None]:
    """Hold the locks that keep two runs apart, in the trash of each folder, below and above it. Raises RefusedError if another run holds it."""
    places: dict[str, None] = {}
    for folder in folders:
        places[os.path.join(folder, TRASH)] = None
        places |= dict.fromkeys(os.path.join(place, TRASH) for place, names, _ in os.walk(folder) if TRASH in names)
        above = os.path.dirname(os.path.abspath(folder))
        while above != os.path.dirname(above):
            if os.path.isdir(os.path.join(above, TRASH)):
                places[os.path.join(above, TRASH)] = None
            above = os.path.dirname(above)
    with ExitStack() as stack:
        for place in places:
            require_trash(os.path.dirname(place))
            try:
                os.makedirs(place, exist_ok=True)
            except OSError as error:
                if is_full(error):  # there is no trash yet that another run could be at work in
                    continue
                raise OutputError(f"cannot be made: {error.strerror}", path=place, hint="let gsvckpt write in the folder") from error
            stack.callback(_leave, place)
            try:
                stack.enter_context(locked(place, patience=0))
            except LockHeldError as error:
                raise RefusedError("another prune is running here", path=os.path.dirname(place), hint="wait for it, then try again") from error
        yield


def require_trash(folder: str) -> None:
    """Raise RefusedError where the name of a folder's trash is taken by something else; a link could lead anywhere."""
    place = os.path.join(folder, TRASH)
    if os.path.lexists(place) and (is_link(place) or not os.path.isdir(place)):
        raise RefusedError("is not a folder, so it cannot be the trash", path=place, hint="move it away")


def _leave(place: str) -> None:
    with suppress(OSError):
        os.rmdir(place)  # where nothing is in it
