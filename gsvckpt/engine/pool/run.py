"""Decide where a job on many files runs: in this process, in several processes if that is faster, or on a cluster.

A process takes what an interpreter takes, and two buffers of 2 MiB for each of its threads; the processes of one run have as many threads together as
were asked for.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

from gsvckpt.engine.pool.processes import Job, PoolItem, run_in_processes
from gsvckpt.errors import UsageError
from gsvckpt.files.progress import Progress, Share
from gsvckpt.files.secrets import holds_secrets

START = 0.4  # seconds that starting processes takes
FEWEST = 4  # files for each process

T = TypeVar("T", bound=PoolItem)
R = TypeVar("R")


class Load(NamedTuple):
    """Cost model of a batch, in seconds per worker: for each file, and for all bytes that are read.

    `chunk` files go to a process at a time; `together` says whether several may be in work at once.
    """

    per_file: float
    reading: float = 0
    chunk: int = 1
    together: bool = True


def run_each(
    job: Job[T, R], items: Sequence[T], load: Load, jobs: int, progress: Progress, sizes: Sequence[int] | None = None, cluster: str | None = None
) -> Generator[R, None, None]:
    """Yield the result for each item, in order. `sizes` are the bytes that each counts for in the progress.

    On a `cluster` where one is named, in processes where that is faster, else one after the other with all threads. One bad file stops no other.
    """
    sizes = sizes or [0] * len(items)
    progress.expect_files(len(items))
    progress.expect(sum(sizes))
    shares = [Share(progress, size) for size in sizes]
    if cluster is not None and holds_secrets():
        raise UsageError(
            "a URL with a password or signature is not passed on to workers", where="--cluster", hint="give the workers credentials of theirs"
        )
    if cluster is not None:
        from gsvckpt.engine.pool.dask import run_on_cluster

        yield from run_on_cluster(cluster, job, items, shares, load.chunk)
    elif load.together and pays(len(items), load, jobs) and not holds_secrets():
        yield from run_in_processes(job, items, shares, load.chunk, jobs)
    else:
        for item, share in zip(items, shares, strict=True):
            result = job(item, jobs, share)
            share.end_file()
            yield result


def pays(count: int, load: Load, jobs: int) -> bool:
    """Whether several processes save more time than it takes to start them."""
    return jobs > 1 and count >= FEWEST * jobs and count * load.per_file + load.reading > 4 * START


def sizes_of(paths: Sequence[str]) -> list[int]:
    """The size of each file; 0 where there is none."""
    return [_size(path) for path in paths]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):  # a URL, or a NUL in it
        return 0
