"""One run in the trash: files are moved, never copied, and the journal is on the disk before the first file moves.

`FOLDER/.gsvckpt-trash/TIME/` holds one run: `files/` with the files under the paths that they had, and `journal.jsonl`. Its first lines are all
steps of the run; what becomes of them shows in where the files are, so a kill at any moment leaves a state that `restore` understands. On a full disk
there is no room for a journal, and none is needed to bring files back: then an empty file `state.done` says that a run came to its end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gsvckpt.engine.saves import SaveFile, freed_by
from gsvckpt.errors import GsvError, OutputError, RefusedError
from gsvckpt.files.lock import sweep_lock
from gsvckpt.files.publish import TRASH, append_line, is_full, move, publish_bytes, sync_folders
from gsvckpt.files.temporary import remove_file, remove_folder

JOURNAL = "journal.jsonl"
FILES, _NEW = "files", "new"
STATE = "state."
_STAMP = "%Y%m%dT%H%M%S"


class Step(NamedTuple):
    """A file that goes, by its path below the trash's parent; with `place` another one takes a name there (its own, or another)."""

    path: str
    size: int
    mtime_ns: int
    place: str = ""

    def as_line(self) -> str:
        """Its line in the journal, which any system can read: folders are divided by `/`."""
        return json.dumps({**self._asdict(), "path": self.path.replace(os.sep, "/"), "place": self.place.replace(os.sep, "/")})

    @classmethod
    def of_line(cls, line: str) -> Step:
        """What `as_line` wrote. Raises ValueError and TypeError for anything else."""
        step = cls(**json.loads(line))
        return step._replace(path=step.path.replace("/", os.sep), place=step.place.replace("/", os.sep))


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
        """The time of the run, in seconds since 1970."""
        return seconds_of(self.stamp)

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
        return os.path.join(self.folder, FILES, step.path)

    def original(self, step: Step) -> str:
        return os.path.join(self.root, step.path)

    def take(self, step: Step) -> None:
        """Move a file into the trash. Raises OutputError."""
        move(self.original(step), self.kept(step))

    def put_back(self, step: Step) -> None:
        """Undo one step, and remove what took its place. Raises RefusedError where another file now has its name, and OutputError."""
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
            raise OutputError("cannot be replaced: the disk is full, so the step cannot be recorded", path=place)
        facts = os.stat(new)
        self.made[step.place] = (facts.st_size, facts.st_mtime_ns)
        self._say({"made": step.place.replace(os.sep, "/"), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns})
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
                append_line(os.path.join(self.folder, JOURNAL), json.dumps(what))
                return
        except OutputError as error:
            if "state" not in what or not is_full(error):
                raise
        try:
            with open(os.path.join(self.folder, f"{STATE}{what['state']}"), "ab"):
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
                conflicts.append(RefusedError("another file now has its name", path=self.original(step), hint=hint))
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
    lines = [json.dumps({"schema": "gsvckpt.trash/1", "steps": len(steps)}), *(step.as_line() for step in steps)]
    try:
        publish_bytes(os.path.join(folder, JOURNAL), "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"), overwrite=False)
    except BaseException as error:
        if is_full(error):
            return replace(run, journal=False)
        run.remove()
        raise
    return run


def seconds_of(stamp: str) -> int:
    """When a run of this name was, in seconds since 1970. Raises ValueError for no such name."""
    import calendar

    return calendar.timegm(time.strptime(stamp[:15], _STAMP))


def new_stamp(before: str = "") -> str:
    """The name of a run that begins now; later ones sort behind it, and it behind the one of `before`, though the clock was put back since."""
    now = time.time_ns()
    if before:
        now = max(now, seconds_of(before) * 10**9 + int(before[16:25].ljust(9, "0")) + 1)
    return f"{time.strftime(_STAMP, time.gmtime(now // 10**9))}.{now % 10**9:09d}"
