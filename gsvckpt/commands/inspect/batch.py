"""Inspect many files: each becomes a line of the inventory or an object of the JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.commands.inspect.breakdown import Account, account
from gsvckpt.commands.inspect.known_structure import Known
from gsvckpt.commands.inspect.result import InventoryRow, View, document, make_entry
from gsvckpt.commands.inspect.structure_cache import StructureCache
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.pool.run import Load, run_each, sizes_of
from gsvckpt.errors import GsvError, MissingError, as_error
from gsvckpt.files.local import LocalSource
from gsvckpt.files.paths import is_url
from gsvckpt.files.progress import Progress
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.model import Tensor

if TYPE_CHECKING:
    from gsvckpt.engine.statistics import Stats

_PER_FILE = 0.02  # seconds that a file takes besides reading values
_RATE = 1e9  # bytes of values a second
_CHUNK = 16  # files that go to a process at a time


_structures = StructureCache()  # of this process, for as long as it runs


def _find_known(path: str) -> Known | None:
    """What a file is that is like one before it. None also for a file that cannot be read, which its reader tells better."""
    if is_url(path):  # of whose bytes as few as possible are fetched
        return None
    with suppress(GsvError), closing(LocalSource(path)) as source:
        return _structures.get(source)
    return None


class Sought(NamedTuple):
    """A file to inspect."""

    path: str


class Inspected(NamedTuple):
    """The result for one file: its line of the inventory or its JSON object, and a message about the device."""

    facts: InventoryRow | dict[str, object]
    safety: Safety
    warnings: tuple[str, ...] = ()
    device: tuple[str, str, int] | None = None  # where something was computed: on what, why there, and of how many bytes


class Inspect(NamedTuple):
    """The job of inspect: JSON objects with what `view` asks for; lines of the inventory where it is None."""

    view: View | None
    device: str = "cpu"
    fixed: bool = False  # the number of threads

    def __call__(self, item: Sought, jobs: int, progress: Progress) -> Inspected | GsvError:
        try:
            if self.view is None or not (self.view.asks_for_parts or self.view.stats):
                known = _find_known(item.path)
                if known is not None:
                    return self._sum_up(*known)
            with open_checkpoint(item.path) as checkpoint:
                examination = examine(checkpoint)
                counted = account(examination)
                _structures.add(examination, counted)
                if self.view is None or not self.view.stats:
                    return self._sum_up(examination, counted)
                return self._measure(examination, counted, self.view.choose(examination.state), jobs, progress)
        except (GsvError, OSError) as caught:
            return as_error(caught, item.path, MissingError)

    def _sum_up(self, examination: Examination, counted: Account, measured: Mapping[str, Stats | None] = MappingProxyType({})) -> Inspected:
        facts = make_entry(examination, counted) if self.view is None else document(examination, self.view, measured, counted)
        return Inspected(facts, examination.safety)

    def _measure(self, examination: Examination, counted: Account, tensors: Mapping[str, Tensor], jobs: int, progress: Progress) -> Inspected:
        from gsvckpt.devices.choice import Work
        from gsvckpt.engine.placement import Threads, bytes_of, open_device
        from gsvckpt.engine.statistics import measure_tensors

        warnings: list[str] = []
        nbytes = bytes_of(tensors)
        device, threads, why = open_device(self.device, Work("stats", nbytes), Threads(jobs, self.fixed), warn=warnings.append)
        found = self._sum_up(examination, counted, measure_tensors(tensors, device, threads, progress))
        return found._replace(warnings=tuple(warnings), device=(device.name, why, nbytes))

    def fail(self, item: Sought, error: GsvError) -> GsvError:
        error.path = error.path or item.path
        return error


def inspect_files(job: Inspect, paths: Sequence[str], jobs: int, progress: Progress, cluster: str | None = None) -> Iterator[Inspected | GsvError]:
    """Inspect every file; results in their order. One bad file does not stop the others."""
    measures = job.view is not None and job.view.stats
    sizes = sizes_of(paths) if measures else [0] * len(paths)
    load = Load(_PER_FILE, sum(sizes) / _RATE, 1 if measures else _CHUNK, together=not measures or _may_share(job.device))
    return run_each(job, [Sought(path) for path in paths], load, jobs, progress, sizes, cluster)


def _may_share(device: str) -> bool:
    from gsvckpt.engine.placement import is_host  # only numbers need it

    return is_host(device)
