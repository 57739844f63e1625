"""Copy one voice into a new folder, ready for another machine. The experiment itself is never changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from gsvckpt.commands.bundle.contents import Bundle, BundleItem, BundleOptions, nothing_left, unfit
from gsvckpt.commands.bundle.experiment import find_experiment
from gsvckpt.commands.bundle.extract import extract
from gsvckpt.commands.bundle.plan import plan_bundle
from gsvckpt.commands.verify.after import RECORDED
from gsvckpt.commands.verify.backup import copy_file
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.manifest import ManifestEntry, record
from gsvckpt.commands.verify.result import Options
from gsvckpt.errors import ChangedError, GsvError, OutputError, RefusedError
from gsvckpt.files.obstacles import folder_obstacle
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import publish_bytes
from gsvckpt.files.publish_folder import publish_folder


def bundle(source: str, folder: str, options: BundleOptions, progress: Progress) -> Bundle:
    """Bundle an experiment's folder into `folder`, which appears at once, or only say what would be in it.

    Checkpoints that are damaged or unsafe are left out, which the exit code tells. Raises MissingError, DamagedError or RefusedError where none
    remains, RefusedError where `folder` holds something already, and OutputError; then nothing was written.
    """
    experiment = find_experiment(source)
    obstacle = _obstacle(source, folder)
    if obstacle is not None and not options.dry_run:
        raise obstacle
    planned = plan_bundle(experiment, folder, options, progress)
    if not any(item.entry for item in planned.items):
        raise nothing_left(planned)
    if obstacle is not None:
        planned = replace(planned, notes=(*planned.notes, f"{obstacle.why}, so a real run would stop here ({obstacle.hint})"))
    if options.dry_run:
        return planned
    _write(planned, options, progress)
    return replace(planned, rehearsed=False)


def _obstacle(source: str, folder: str) -> GsvError | None:
    """Why nothing can be written to `folder`, as far as that shows before any work is done."""
    place = os.path.realpath(folder)
    taken = folder_obstacle(folder)
    if taken is not None:
        return taken
    if os.path.normcase(f"{place}{os.sep}").startswith(os.path.normcase(f"{os.path.realpath(source)}{os.sep}")):
        return RefusedError("is inside the experiment, which must stay as it is", path=folder, hint="name a folder elsewhere")
    if not os.path.isdir(os.path.dirname(place)):
        return OutputError(f"there is no folder {os.path.dirname(folder.rstrip(os.sep))}", path=folder, hint="make it first")
    return None


def _write(planned: Bundle, options: BundleOptions, progress: Progress) -> None:
    """Make the folder. Every copy has the digest that was verified and is read back; what is extracted is verified as any other file."""

    def fill(temp: str) -> None:
        entries: dict[str, list[ManifestEntry]] = {}
        for item in planned.items:
            folder = os.path.join(temp, *item.path.split("/")[:-1])
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, item.path.rpartition("/")[2])
            if item.entry is not None:
                entries.setdefault(folder, []).append(_put(item, item.entry, path, options, progress))
            elif item.origin is not None:
                publish_bytes(path, item.text, overwrite=False)
        for folder, recorded in entries.items():
            record(folder, recorded)

    publish_folder(planned.output, planned.size, fill, settle=lambda: _check_unchanged(planned.items))


def _check_unchanged(items: Sequence[BundleItem]) -> None:
    """Raise ChangedError where training went on meanwhile: files of several moments make no voice."""
    for item in items:
        if item.entry is not None and item.origin is not None:
            now = os.stat(item.origin).st_mtime_ns if os.path.exists(item.origin) else None
            if now != item.entry.mtime_ns:
                raise ChangedError("changed while it was bundled", path=item.origin, hint="wait until training has finished saving, then try again")


def _put(item: BundleItem, entry: ManifestEntry, path: str, options: BundleOptions, progress: Progress) -> ManifestEntry:
    """Write one checkpoint. Returns what the manifest is to say of it."""
    origin = str(item.origin)
    if item.how == "copy":
        copy_file(origin, path, entry.digests["xxh3_128"], entry.mtime_ns, overwrite=False, progress=progress)
        return entry._replace(mtime_ns=os.stat(path).st_mtime_ns)
    extract(origin, path, options, progress, write=True)
    result = verify_file(path, Options(digests=RECORDED), progress=progress)
    bad = unfit(result)
    if bad is not None:
        raise OutputError(f"what was written {bad.why}", path=path, hint="the disk may be failing")
    return entry._replace(size=result.size, mtime_ns=result.mtime_ns, digests=dict(result.digests))
