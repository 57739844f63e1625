"""What verify does with its results: bring damaged files back, copy sound ones, and record what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from gsvckpt.commands.verify import checksum_files
from gsvckpt.commands.verify.backup import Backup, Copied, Restored, place_for, restore
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.keep_options import RECORDED
from gsvckpt.commands.verify.manifest import Entry, record
from gsvckpt.commands.verify.result import Options, Verification
from gsvckpt.errors import GsvError, OutputError, RefusedError, UsageError
from gsvckpt.files.progress import Progress


def entry_of(result: Verification, *, tensors: bool) -> Entry:
    """A result as a manifest keeps it."""
    return Entry(
        os.path.basename(result.path),
        result.size,
        result.mtime_ns,
        result.kind,
        result.version,
        result.epoch,
        result.step,
        dict(result.digests),
        dict(result.tensors) if tensors else {},
    )


def record_results(results: Sequence[Verification], *, tensors: bool, forget: bool) -> tuple[dict[str, str], list[GsvError]]:
    """Record all files against which nothing speaks. Returns the manifest of each, by path, and why some could not be written."""
    written: dict[str, str] = {}
    failures: list[GsvError] = []
    folders: dict[str, list[Verification]] = {}
    for result in results:
        folders.setdefault(os.path.dirname(result.path), []).append(result)
    for folder, members in folders.items():
        sound = [result for result in members if result.intact and _recordable(result, failures)]
        if not sound and not forget:
            continue
        try:
            path = record(
                folder,
                [entry_of(result, tensors=tensors) for result in sound],
                forget=(lambda name, folder=folder: not os.path.isfile(os.path.join(folder, name))) if forget else (lambda _: False),  # type: ignore[misc]
            )
        except GsvError as error:
            failures.append(error)
            continue
        written |= {result.path: path for result in sound}
    return written, failures


def record_file(path: str | os.PathLike[str], *, tensors: bool = False) -> Verification:
    """Verify one file and, where nothing speaks against it, record it in the `gsvckpt.toml` beside it: for a training script, after each save.

    Returns the result, whose `intact` says whether it was recorded. Raises OutputError or DamagedError where the manifest cannot be written.
    """
    result = verify_file(path, Options(digests=RECORDED, tensors=tensors), jobs=os.cpu_count() or 1)
    _, failures = record_results([result], tensors=tensors, forget=False)
    for failure in failures:
        raise failure
    return result


def back_up(results: Sequence[Verification], folder: str, roots: Mapping[str, str], progress: Progress) -> tuple[dict[str, Copied], list[GsvError]]:
    """Copy all files against which nothing speaks. Returns what became of each, by path, and the failures; one does not stop the others."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError("is no folder", where="--backup", path=folder)
    backup = Backup(folder)
    copied: dict[str, Copied] = {}
    failures: list[GsvError] = []
    for result in results:
        if not result.intact or not _recordable(result, failures):
            continue
        place = place_for(result.path, roots.get(result.path))
        try:
            copied[result.path] = backup.store(result.path, place, entry_of(result, tensors=False), result.config, progress)
        except (GsvError, OSError) as caught:
            failures.append(_named(caught, result.path))
    return copied, failures


def restore_damaged(damaged: Mapping[str, Entry | None], folder: str, progress: Progress) -> tuple[dict[str, Restored], list[GsvError]]:
    """Bring files back. Returns what became of each, by path, and the failures."""
    if not os.path.isdir(folder):
        raise UsageError("is no folder", where="--restore-from", path=folder)
    restored: dict[str, Restored] = {}
    failures: list[GsvError] = []
    for path, entry in damaged.items():
        if entry is None or "xxh3_128" not in entry.digests:
            hint = "--manifest names the manifest of another folder, as that of the backup"
            failures.append(OutputError("is in no manifest, so its good bytes are not known", path=path, hint=hint))
            continue
        try:
            restored[path] = restore(path, entry, folder, progress)
        except (GsvError, OSError) as caught:
            failures.append(_named(caught, path))
    return restored, failures


def _recordable(result: Verification, failures: list[GsvError]) -> bool:
    """Whether a manifest can hold the file's name; TOML is UTF-8."""
    try:
        os.path.basename(result.path).encode("utf-8")
    except UnicodeEncodeError:
        failures.append(OutputError("its name is no Unicode, which a manifest cannot hold", path=result.path, hint="rename the file"))
        return False
    return True


def write_list(path: str, results: Sequence[Verification], *, force: bool) -> None:
    """Write the checksum file of all files against which nothing speaks. Raises RefusedError where that would be one of the files."""
    if any(os.path.exists(path) and os.path.exists(result.path) and os.path.samefile(path, result.path) for result in results):
        raise RefusedError("is one of the files that were verified", path=path, hint="name the list that is to be written")
    name = checksum_files.format_for(path)
    listed = [(result.path, result.digests[name]) for result in results if result.intact and name in result.digests]
    checksum_files.write_checksums(path, listed, overwrite=force)


def _named(caught: GsvError | OSError, path: str) -> GsvError:
    error = caught if isinstance(caught, GsvError) else OutputError(f"cannot be written: {caught.strerror}", path=str(caught.filename or path))
    error.path = error.path or path
    return error
