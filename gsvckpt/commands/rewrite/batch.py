"""Rewrite many files: one job each; jobs that could take each other's output name do not run at the same time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import plan_file, rehearse, write
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.engine.placement import Threads, engine_for, is_host
from gsvckpt.engine.pool.run import Load, pays, run_each, sizes_of
from gsvckpt.errors import GsvError, OutputError, as_error
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.formats.shards import is_index

_PER_FILE = 0.03  # seconds that a file takes besides its bytes
_RATE = 5e8  # bytes a second that are read, written, synced and read back


class Order(NamedTuple):
    """One source and where it goes. `taken` are files that must stay."""

    source: str
    output: str
    taken: Collection[str] = ()

    @property
    def path(self) -> str:
        return self.source


class Rewrite(NamedTuple):
    """The job of a writing command."""

    recipe: Recipe
    destination: Destination
    device: str = "cpu"
    fixed: bool = False  # the number of threads

    def __call__(self, item: Order, jobs: int, progress: Progress) -> Rewritten | GsvError:
        warnings: list[str] = []
        carry_out = write if self.destination.writes else rehearse
        try:
            with plan_file(item.source, item.output, self.destination, self.recipe, jobs=jobs, taken=item.taken) as file_plan:
                threads, on_overflow = Threads(jobs, self.fixed), self.recipe.on_overflow
                engine, computed = engine_for(file_plan.plan, self.device, threads, progress, warn=warnings.append, on_overflow=on_overflow)
                done = carry_out(file_plan, engine)
        except (GsvError, OSError) as caught:
            return as_error(caught, item.source, OutputError)
        return done._replace(warnings=(*done.warnings, *warnings), computed=computed)

    def fail(self, item: Order, error: GsvError) -> GsvError:
        error.path = error.path or item.source
        return error

    def name(self, item: Order) -> str:
        """The output's name, or the one that was assigned where nothing can be made of the source."""
        try:
            with plan_file(item.source, item.output, self.destination, self.recipe) as file_plan:
                return file_plan.output
        except (GsvError, OSError):
            return item.output


class _Naming(NamedTuple):
    """The job of finding out an output's name."""

    rewrite: Rewrite

    def __call__(self, item: Order, jobs: int, progress: Progress) -> str:  # noqa: ARG002 - as Job has it
        return self.rewrite.name(item)

    def fail(self, item: Order, error: GsvError) -> str:  # noqa: ARG002 - as Job has it
        return item.output


def rewrite_files(
    job: Rewrite, sources: Sequence[str], outputs: Sequence[str], jobs: int, progress: Progress, cluster: str | None = None
) -> Iterator[Rewritten | GsvError]:
    """Rewrite every source; results in their order. What one source became, another does not replace, whichever of them is done first."""
    sizes = sizes_of(sources)
    load = Load(_PER_FILE, sum(sizes) / _RATE, together=is_host(job.device) and not job.recipe.is_large)
    standing = set(sources)  # what must stay: the sources, and what others of them became
    if cluster is None and not (load.together and pays(len(sources), load, jobs)):
        orders = [Order(source, output, standing) for source, output in zip(sources, outputs, strict=True)]
        for result in run_each(job, orders, load, jobs, progress, sizes):
            _add(standing, result)
            yield result
        return
    with job.destination.folder(outputs):
        orders = [Order(source, output) for source, output in zip(sources, outputs, strict=True)]
        names = list(outputs)
        if job.recipe.renames or any(is_index(source) or os.path.isdir(source) for source in sources):
            names = list(run_each(_Naming(job), orders, load, jobs, Silent(), cluster=cluster))
        free = dict(_free(sources, names))
        orders = [order._replace(taken=free.get(n, standing)) for n, order in enumerate(orders)]
        with closing(run_each(job, [orders[n] for n in free], load, jobs, progress, [sizes[n] for n in free], cluster)) as running:
            for n, order in enumerate(orders):
                # One whose name another has waits until all before it are done, and is done here.
                result = next(running) if n in free else next(run_each(job, [order], load, jobs, progress, [sizes[n]]))
                _add(standing, result)
                yield result


def _add(standing: set[str], result: Rewritten | GsvError) -> None:
    if isinstance(result, Rewritten) and result.output is not None and not result.rehearsed:
        standing.add(result.output)


def _free(sources: Sequence[str], names: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The sources, by number, whose output's name none before them has, each with the source that stands at that name."""
    there = {found: source for source in sources if (found := _identify(source)) is not None}
    claimed: set[str] = set()
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        place = os.path.normcase(os.path.realpath(name))
        if place not in claimed:
            claimed.add(place)
            other = there.get(_identify(name) or (0, -1))
            yield number, (other,) if other is not None and other != source else ()


def _identify(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return facts.st_dev, facts.st_ino
