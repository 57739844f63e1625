"""Many files through verify, and through the look that retention takes at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.prune.classify import Facts, Memory, look_through
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.result import Expected, Options, Verification, failed
from gsvckpt.engine.pool.run import Load, run_each, sizes_of
from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Progress, Silent

_PER_FILE = 0.02  # seconds that a file takes besides reading: opening it is Python, which one process does for one file at a time
_RATE = 3e9  # bytes read a second
_PER_LOOK = 0.0004  # seconds that it takes to see what a file is
_QUICK = 16  # files that go to a process at a time where next to nothing is read of them
_CHUNK = 256  # files that a process looks at in one go


class Candidate(NamedTuple):
    """A file to verify."""

    path: str
    expected: Expected = Expected()


class Verify(NamedTuple):
    """The job of verify."""

    options: Options

    def __call__(self, item: Candidate, jobs: int, progress: Progress) -> Verification:
        return verify_file(item.path, self.options, item.expected, jobs=jobs, progress=progress)

    def recall(self, item: Candidate) -> None:
        """Verifying leaves nothing behind."""

    def fail(self, item: Candidate, error: GsvError) -> Verification:
        return failed(item.path, error)


def verify_files(files: Mapping[str, Expected], options: Options, jobs: int, progress: Progress, cluster: str | None = None) -> list[Verification]:
    """Verify all files; results in their order. One bad file does not stop the others."""
    items = [Candidate(path, expected) for path, expected in files.items()]
    sizes = [0] * len(items) if options.quick else sizes_of(list(files))
    return list(run_each(Verify(options), items, Load(_PER_FILE, sum(sizes) / _RATE, _QUICK if options.quick else 1), jobs, progress, sizes, cluster))


class Chunk(NamedTuple):
    """Files that one process looks at, as those of a run are alike."""

    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.paths[0]


class Look:
    """The job of retention. It remembers files from one chunk to the next, each process for itself."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __reduce__(self) -> tuple[Callable[[], Look], tuple[()]]:
        return _look_on, ()

    def __call__(self, item: Chunk, jobs: int, progress: Progress) -> list[Facts | None]:  # noqa: ARG002 - as Job has it
        return look_through(item.paths, self._memory)

    def recall(self, item: Chunk) -> None:
        """Looking leaves nothing behind."""

    def fail(self, item: Chunk, error: GsvError) -> list[Facts | None]:  # noqa: ARG002 - as Job has it
        raise error


_remembered = Memory()  # of a process that looks at many chunks


def _look_on() -> Look:
    return Look(_remembered)


def look_files(paths: Sequence[str], jobs: int) -> list[Facts | None]:
    """What each file is, for retention, in the order of the paths; in processes where there are many, as that is Python and little reading."""
    chunks = [Chunk(tuple(paths[begin : begin + _CHUNK])) for begin in range(0, len(paths), _CHUNK)]
    load = Load(_PER_LOOK * _CHUNK)
    return [facts for found in run_each(Look(Memory()), chunks, load, jobs, Silent()) for facts in found]
