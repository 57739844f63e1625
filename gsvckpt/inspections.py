"""Many files through inspect: for each a line of the inventory, or an object of the JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gsvckpt.dispatch import Load, run_each, sizes_of
from gsvckpt.errors import GsvError, MissingError, as_error
from gsvckpt.examination import examine, without_source
from gsvckpt.opening import open_checkpoint
from gsvckpt.pickles.safety import Safety
from gsvckpt.progress import Progress
from gsvckpt.report.inspection import View, document
from gsvckpt.report.inventory import Entry, make_entry

_PER_FILE = 0.02  # seconds that a file takes besides reading values
_RATE = 1e9  # bytes of values a second
_CHUNK = 16  # files that go to a process at a time


class Sought(NamedTuple):
    """A file to inspect."""

    path: str


class Inspected(NamedTuple):
    """What was asked for of one file: its line of the inventory, or its JSON object."""

    facts: Entry | dict[str, object]
    safety: Safety


class Inspect(NamedTuple):
    """The job of inspect: JSON objects with what `view` asks for; lines of the inventory where it is None."""

    view: View | None
    device: str = "cpu"

    def __call__(self, item: Sought, jobs: int, progress: Progress) -> Inspected | GsvError:
        try:
            with open_checkpoint(item.path) as checkpoint:
                examination = examine(checkpoint)
                if self.view is None:
                    return Inspected(make_entry(examination), examination.safety)
                measured = {}
                if self.view.stats:
                    from gsvckpt.devices.choice import choose
                    from gsvckpt.scan import measure_tensors

                    measured = measure_tensors(self.view.choose(examination.state), choose(self.device), jobs, progress)
                return Inspected(document(examination, self.view, measured), examination.safety)
        except (GsvError, OSError) as caught:
            return without_source(as_error(caught, item.path, MissingError))

    def recall(self, item: Sought) -> None:
        """Inspecting leaves nothing behind."""

    def fail(self, item: Sought, error: GsvError) -> GsvError:
        error.path = error.path or item.path
        return error


def inspect_files(
    paths: Sequence[str], view: View | None, device: str, jobs: int, progress: Progress, cluster: str | None = None
) -> Iterator[Inspected | GsvError]:
    """Inspect every file; results in their order. One bad file does not stop the others."""
    measures = view is not None and view.stats
    sizes = sizes_of(paths) if measures else [0] * len(paths)
    load = Load(_PER_FILE, sum(sizes) / _RATE, 1 if measures else _CHUNK, together=device == "cpu" or not measures)
    return run_each(Inspect(view, device), [Sought(path) for path in paths], load, jobs, progress, sizes, cluster)
