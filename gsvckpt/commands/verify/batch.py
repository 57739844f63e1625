"""Verify many files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.result import Expected, Options, Verification, failed
from gsvckpt.engine.pool.run import Load, run_each, sizes_of
from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Progress

_PER_FILE = 0.02  # seconds that a file takes besides reading: opening it is Python, which one process does for one file at a time
_RATE = 3e9  # bytes read a second
_QUICK = 16  # files that go to a process at a time where next to nothing is read of them


class Candidate(NamedTuple):
    """A file to verify."""

    path: str
    expected: Expected = Expected()


class Verify(NamedTuple):
    """The job of verify."""

    options: Options

    def __call__(self, item: Candidate, jobs: int, progress: Progress) -> Verification:
        return verify_file(item.path, self.options, item.expected, jobs=jobs, progress=progress)

    def fail(self, item: Candidate, error: GsvError) -> Verification:
        return failed(item.path, error)


def verify_files(files: Mapping[str, Expected], options: Options, jobs: int, progress: Progress, cluster: str | None = None) -> list[Verification]:
    """Verify all files; results in their order. One bad file does not stop the others."""
    items = [Candidate(path, expected) for path, expected in files.items()]
    sizes = [0] * len(items) if options.quick else sizes_of(list(files))
    return list(run_each(Verify(options), items, Load(_PER_FILE, sum(sizes) / _RATE, _QUICK if options.quick else 1), jobs, progress, sizes, cluster))
