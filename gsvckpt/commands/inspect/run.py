"""Run inspect on everything that was named: the JSON objects of its files, and the errors of the others. Nothing is printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.commands.inspect.batch import Inspect, Inspected, inspect_files
from gsvckpt.commands.inspect.result import View, diff_json, document
from gsvckpt.devices.choice import Work
from gsvckpt.engine.difference import Difference, differences
from gsvckpt.engine.discover import FoundFiles, find_files
from gsvckpt.engine.document import document as whole_document
from gsvckpt.engine.examine import examine
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import blame, open_checkpoint
from gsvckpt.engine.placement import Computed, bytes_of, open_device
from gsvckpt.engine.resources import Resources
from gsvckpt.errors import GsvError, MissingError, as_error
from gsvckpt.files.paths import is_folder
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.formats.shards import is_index


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What inspect found. `objects` are in the order of the document: one for each file, of which an error is one that could not be read;
    `found` is what the folders held; `difference` what was asked for with `diff`.
    """

    objects: tuple[Mapping[str, object] | GsvError, ...]
    found: FoundFiles
    difference: Difference | None = None
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Mapping[str, object], ...]:
        """The JSON objects of the files that could be read."""
        return tuple(one for one in self.objects if not isinstance(one, GsvError))

    @property
    def errors(self) -> tuple[GsvError, ...]:
        """The errors of the other files."""
        return tuple(one for one in self.objects if isinstance(one, GsvError))

    @property
    def exit_code(self) -> int:
        """The exit code that the command would have."""
        differs = int(self.difference is not None and not self.difference.equal)
        return max((error.exit_code for error in self.errors), default=differs)

    def as_json(self) -> dict[str, object]:
        """The document of `--json`."""
        files = [failure_json(one) if isinstance(one, GsvError) else one for one in self.objects]
        after = {"diff": diff_json(self.difference)} if self.difference is not None else {}
        return whole_document("inspect", files, self.exit_code, self.found.as_json(), after)


def inspect_all(paths: Sequence[str], view: View, resources: Resources, *, recursive: bool) -> InspectResult:
    """Inspect files, and the checkpoints in folders. Raises the first error if nothing could be read."""
    folders = [path for path in paths if is_folder(path)]
    found = find_files(folders, recursive=recursive, wanted="checkpoints")
    files = [*(path for path in paths if path not in folders), *found.checkpoints]
    if len(paths) == len(files) == 1 and (not folders or (is_index(files[0]) and not recursive)):  # a folder may be one checkpoint
        return _inspect_one(files[0], view, resources)
    job = Inspect(view, resources.device, fixed=resources.jobs is not None)
    return _collect(inspect_files(job, list(map(resources.locate, files)), resources.workers, Silent(), resources.cluster), found)


def _inspect_one(path: str, view: View, resources: Resources) -> InspectResult:
    if view.include:
        with open_checkpoint(path) as checkpoint:
            view.require_match(examine(checkpoint).state)
    job = Inspect(view, resources.device, fixed=resources.jobs is not None)
    return _collect(inspect_files(job, [resources.locate(path)], resources.workers, Silent(), resources.cluster), FoundFiles())


def _collect(results: Iterable[Inspected | GsvError], found: FoundFiles) -> InspectResult:
    """The result of all files. Raises the first error if no file has a result."""
    objects: list[Mapping[str, object] | GsvError] = [*found.errors]
    warnings: list[str] = []
    for result in results:
        if isinstance(result, GsvError):
            objects.append(result)
        elif isinstance(result.facts, dict):
            objects.append(result.facts)
            warnings += result.warnings
    whole = InspectResult(tuple(objects), found, None, tuple(warnings))
    if whole.errors and not whole.files:
        raise whole.errors[0]
    return whole


class Compared(NamedTuple):
    """Two files beside each other: their JSON objects and what is known of their safety, in this order, and where numbers were computed."""

    documents: tuple[Mapping[str, object], ...]
    safety: tuple[Safety, ...]
    difference: Difference
    computed: Computed
    warnings: tuple[str, ...]


def compare(path: str, other: str, view: View, resources: Resources, progress: Progress) -> Compared:
    """Compare the tensors of two files. Raises GsvError where one of them cannot be read."""
    warnings: list[str] = []
    try:
        with blame(path), open_checkpoint(path) as first, open_checkpoint(other) as second:
            sides = (examine(first), examine(second))
            view.require_match(*(side.state for side in sides))
            one, two = (view.choose(side.state) for side in sides)
            work = Work("difference", bytes_of(one) + bytes_of(two))
            device, threads, why = open_device(resources.device, work, resources.threads, warn=warnings.append)
            found = differences(one, two, device, threads, progress)
            documents = tuple(document(side, view, {}) for side in sides)
    except OSError as caught:
        raise as_error(caught, path, MissingError) from caught
    return Compared(documents, tuple(side.safety for side in sides), found, Computed(device.name, why, work.nbytes), tuple(warnings))


def compare_silently(path: str, other: str, view: View, resources: Resources) -> InspectResult:
    """The same as a result. Raises GsvError where one of them cannot be read."""
    found = compare(path, other, view, resources, Silent())
    return InspectResult(found.documents, FoundFiles(), found.difference, found.warnings)
