"""Files that went, until nobody wants them back: moved, never copied, with a journal that is on the disk before the first of them moves.

`FOLDER/.gsvckpt-trash/TIME/` holds one run: `files/` with the files under the paths that they had, and `journal.jsonl`. Its first lines are all
steps of the run; what becomes of them shows in where the files are, so a kill at any moment leaves a state that `restore` understands. On a full disk
there is no room for a journal, and none is needed to bring files back: then an empty file `state.done` says that a run came to its end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gsvckpt.engine.saves import SaveFile, freed_by
from gsvckpt.errors import DamagedError, GsvError, OutputError, RefusedError
from gsvckpt.files.lock import locked, sweep_lock
from gsvckpt.files.publish import TRASH, append_line, is_full, move, publish_bytes, sync_folders
from gsvckpt.files.temporary import is_temporary, remove_file, remove_folder

_LARGEST = 1 << 25  # characters of a journal, whose lines are about 300 for each file
_JOURNAL = "journal.jsonl"
_FILES, _NEW = "files", "new"
_STATE = "state."
_STAMP = "%Y%m%dT%H%M%S"


class Step(NamedTuple):
    """A file that goes, by its path below the trash's parent; with `place` another one takes a name there (its own, or another)."""

    path: str
    size: int
    mtime_ns: int
    place: str = ""


State = Literal["begun", "done", "purging"]


@dataclass(frozen=True, slots=True)
class TrashRun:
    """One run in the trash. `state` is the last word of its journal: `begun`, `done`, `purging`."""

    folder: str
    steps: tuple[Step, ...]
    made: dict[str, tuple[int, int]]
    state: State = "begun"
    journal: bool = True

    @property
    def root(self) -> str:
        """The folder that the paths of its steps are below."""
        return os.path.dirname(os.path.dirname(self.folder))

    @property
    def stamp(self) -> str:
        return os.path.basename(self.folder)

    @property
    def seconds(self) -> float:
        """When it was, in seconds since 1970."""
        return _seconds(self.stamp)

    @property
    def size(self) -> int:
        """The bytes that emptying it frees."""
        kept = [os.lstat(self.kept(step)) for step in self.steps if os.path.lexists(self.kept(step))]
        return freed_by(SaveFile("", facts.st_size, facts.st_mtime_ns, (facts.st_dev, facts.st_ino), facts.st_nlink) for facts in kept)

    @property
    def holds_files(self) -> bool:
        """Whether any file is in it."""
        return bool(self.filled.steps)

    @property
    def filled(self) -> TrashRun:
        """The run with the steps alone whose files are in it now: a save that failed, or that was undone already, is not."""
        return replace(self, steps=tuple(step for step in self.steps if os.path.lexists(self.kept(step))))

    def kept(self, step: Step) -> str:
        return os.path.join(self.folder, _FILES, step.path)

    def original(self, step: Step) -> str:
        return os.path.join(self.root, step.path)

    def take(self, step: Step) -> None:
        """Move a file into the trash. Raises OutputError."""
        move(self.original(step), self.kept(step))

    def put_back(self, step: Step) -> None:
        """Take back one step, and what took its place. Raises RefusedError where another file has its name now, and OutputError."""
        if step.place:
            self._take_away(step.place)
        if os.path.lexists(self.kept(step)):
            move(self.kept(step), self.original(step))

    def replace(self, step: Step, make: Callable[[str], None]) -> None:
        """Move a file into the trash, and what `make` writes to the path that it is given to `step.place`."""
        new, place = os.path.join(self.folder, _NEW, step.place), os.path.join(self.root, step.place)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        make(new)
        if not self.journal:
            raise OutputError("cannot be replaced: the disk is full, so that nothing could be written down about it", path=place)
        facts = os.stat(new)
        self.made[step.place] = (facts.st_size, facts.st_mtime_ns)
        self._say({"made": step.place, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns})
        self.take(step)
        move(new, place)

    def finish(self) -> None:
        """Say that all steps are done, once that is on the disk."""
        sync_folders(self._folders())
        self._say({"state": "done"})

    def _folders(self) -> Iterator[str]:
        """All folders that its steps take files from or put files in."""
        for step in self.steps:
            for path in (self.original(step), self.kept(step), *((os.path.join(self.root, step.place),) if step.place else ())):
                yield os.path.dirname(path)

    def empty(self) -> None:
        """Free the space for good. Raises OutputError where a file cannot be removed."""
        self._say({"state": "purging"})
        for step in self.steps:
            remove_file(self.kept(step))
        self.remove()

    def remove(self) -> None:
        """Remove what is left of the run, and the trash with the last one; also the locks that it held if it was killed."""
        remove_folder(self.folder)
        for folder in {os.path.dirname(self.original(step)) for step in self.steps if step.place}:
            sweep_lock(folder)
        with suppress(OSError):
            os.rmdir(os.path.dirname(self.folder))

    def _say(self, what: dict[str, object]) -> None:
        try:
            if self.journal:
                append_line(os.path.join(self.folder, _JOURNAL), json.dumps(what))
                return
        except OutputError as error:
            if "state" not in what or not is_full(error):
                raise
        try:
            with open(os.path.join(self.folder, f"{_STATE}{what['state']}"), "ab"):
                pass
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror}", path=self.folder) from error

    def restore(self) -> list[GsvError]:
        """Bring every file back to its place, and take away what took that place. Returns why some stay in the trash: others have their names now, or
        the system refuses.
        """
        conflicts: list[GsvError] = []
        for step in reversed(self.steps):
            if not os.path.lexists(self.kept(step)):
                continue
            try:
                self.put_back(step)
            except RefusedError:
                hint = f"move one of the two away, then try again; the old one is {self.kept(step)}"
                conflicts.append(RefusedError("another file has its name now", path=self.original(step), hint=hint))
            except OutputError as error:
                conflicts.append(OutputError(f"is still in the trash: {error.why}", path=self.original(step), hint="close what uses it, then --undo"))
        sync_folders(self._folders())  # before the journal goes
        if not conflicts:
            self.remove()
        return conflicts

    def _take_away(self, place: str) -> None:
        """Remove what a step put in a place, if it is still that."""
        path = os.path.join(self.root, place)
        with suppress(OSError):
            facts = os.stat(path)
            if self.made.get(place) == (facts.st_size, facts.st_mtime_ns):
                remove_file(path)


def begin(root: str, steps: Sequence[Step], stamp: str) -> TrashRun:
    """Begin a run in the trash of `root`: its journal is on the disk when this returns, unless that is full. Raises OutputError."""
    folder = os.path.join(root, TRASH, stamp)
    try:
        os.makedirs(folder)
    except OSError as error:
        hint = "--purge deletes at once, and needs no room" if is_full(error) else ""
        raise OutputError(f"cannot be made: {error.strerror}", path=folder, hint=hint) from error
    run = TrashRun(folder, tuple(steps), {})
    lines = [json.dumps({"schema": "gsvckpt.commands.prune.trash/1", "steps": len(steps)}), *(json.dumps(step._asdict()) for step in steps)]
    try:
        publish_bytes(os.path.join(folder, _JOURNAL), "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"), overwrite=False)
    except BaseException as error:
        if is_full(error):
            return replace(run, journal=False)
        run.remove()
        raise
    return run


def _seconds(stamp: str) -> int:
    import calendar

    return calendar.timegm(time.strptime(stamp[:15], _STAMP))


def new_stamp(before: str = "") -> str:
    """The name of a run that begins now; later ones sort behind it, and it behind the one of `before`, though the clock was put back since."""
    now = time.time_ns()
    if before:
        now = max(now, _seconds(before) * 10**9 + int(before[16:25].ljust(9, "0")) + 1)
    return f"{time.strftime(_STAMP, time.gmtime(now // 10**9))}.{now % 10**9:09d}"


def find_runs(folder: str) -> list[TrashRun]:
    """The runs in all trash folders at or below `folder`, oldest first. Raises DamagedError for a journal that makes no sense."""
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
    path = os.path.join(folder, _JOURNAL)
    if not os.path.isfile(path):
        return _read_without_journal(folder)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} characters")
        lines = [line for line in text.split("\n") if line]
        head = json.loads(lines[0])
        steps = tuple(Step(**json.loads(line)) for line in lines[1 : head["steps"] + 1])
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
                made[told["made"]] = (told["size"], told["mtime_ns"])
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
    top = os.path.join(folder, _FILES)
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
    return next((state for state in states if os.path.lexists(os.path.join(folder, f"{_STATE}{state}"))), None)


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
                raise ValueError("a path that leads elsewhere")


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
                if run.is_dir(follow_symlinks=False) and all(is_temporary(name) for name in os.listdir(run.path)):
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
    """Hold what keeps two runs apart: the trash of each folder, of those below, and of those above. Raises RefusedError where another run has it."""
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
                raise OutputError(f"cannot be made: {error.strerror}", path=place, hint="gsvckpt needs to write in the folder") from error
            stack.callback(_leave, place)
            try:
                stack.enter_context(locked(place, patience=0))
            except OutputError as error:
                if "another process" not in error.why:
                    raise
                raise RefusedError("another prune is at work here", path=os.path.dirname(place), hint="wait for it, then try again") from error
        yield


def require_trash(folder: str) -> None:
    """Raise RefusedError where the name of a folder's trash is taken by something else; a link could lead anywhere."""
    place = os.path.join(folder, TRASH)
    if os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place)):
        raise RefusedError("is no folder, so it cannot be the trash", path=place, hint="move it away")


def _leave(place: str) -> None:
    with suppress(OSError):
        os.rmdir(place)  # where nothing is in it
