"""What verify does after checking: restore damaged files, copy sound ones, and record them in a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.commands.verify import checksum_files
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.findings import CHECKS, family, is_damage
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, record
from gsvckpt.commands.verify.result import Options, Verification, failure_of
from gsvckpt.engine.open import index_of
from gsvckpt.errors import GsvError, OutputError, RefusedError, UsageError, as_error
from gsvckpt.files.obstacles import file_obstacle
from gsvckpt.files.paths import require_local
from gsvckpt.files.progress import Progress
from gsvckpt.sovits.runs import lasting_folder

if TYPE_CHECKING:
    from gsvckpt.commands.verify.backup import Copied, Restored


def entry_of(result: Verification, *, tensors: bool) -> ManifestEntry:
    """A result as a manifest keeps it."""
    return ManifestEntry(
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
    """Record all files without errors. Returns the manifest of each, by path, and why some could not be written."""
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


def tell_passing(manifests: Iterable[str]) -> list[tuple[str, str]]:
    """The manifests that will not last where they are, and why."""
    why = "GPT-SoVITS removes it and all files beside it when it saves next (`save only latest`); the copies of --backup DIR have manifests, too"
    return [(path, why) for path in dict.fromkeys(manifests) if lasting_folder(folder := os.path.dirname(path)) != folder]


def record_file(path: str | os.PathLike[str], *, tensors: bool = False) -> Verification:
    """Verify one file and, if it has no errors, record it in the `gsvckpt.toml` beside it: for a training script, after each save.

    Returns the result, whose `intact` says whether it was recorded. Raises MissingError where there is no such file, and OutputError or DamagedError
    where the manifest cannot be written.
    """
    result = verify_file(path, Options(digests=RECORDED, tensors=tensors), jobs=os.cpu_count() or 1)
    unopened = failure_of(result)
    if unopened is not None:
        raise unopened
    _, failures = record_results([result], tensors=tensors, forget=False)
    for failure in failures:
        raise failure
    return result


def back_up(results: Sequence[Verification], folder: str, roots: Mapping[str, str], progress: Progress) -> tuple[dict[str, Copied], list[GsvError]]:
    """Copy all files without errors. Returns what became of each, by path, and the failures; one does not stop the others."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError("is not a folder", where="--backup", path=folder)
    from gsvckpt.commands.verify.backup import Backup, place_for  # most runs copy nothing

    backup = Backup(folder)
    copied: dict[str, Copied] = {}
    failures: list[GsvError] = []
    for result in results:
        if not result.intact or _is_copy(result.path, folder, roots) or not _recordable(result, failures):
            continue
        place = place_for(result.path, roots.get(result.path))
        try:
            copied[result.path] = backup.store(result.path, place, entry_of(result, tensors=False), result.config, progress)
        except (GsvError, OSError) as caught:
            failures.append(as_error(caught, result.path, OutputError))
    return copied, failures


def _is_copy(path: str, folder: str, roots: Mapping[str, str]) -> bool:
    """Whether a file lies in the folder of copies, which lies in the folder that was verified: copies are not copied again."""
    backup, root = (os.path.join(os.path.realpath(place), "") for place in (folder, roots.get(path) or os.path.dirname(path)))
    return backup != root and backup.startswith(root) and os.path.realpath(path).startswith(backup)


def restore_damaged(damaged: Mapping[str, ManifestEntry | None], folder: str, progress: Progress) -> tuple[dict[str, Restored], list[GsvError]]:
    """Bring files back. Returns what became of each, by path, and the failures."""
    if not os.path.isdir(folder):
        raise UsageError("is not a folder", where="--restore-from", path=folder)
    from gsvckpt.commands.verify.backup import restore

    restored: dict[str, Restored] = {}
    failures: list[GsvError] = []
    for path, entry in damaged.items():
        if entry is None or "xxh3_128" not in entry.digests:
            hint = "--manifest names the manifest of another folder, as that of the backup"
            failures.append(OutputError("is in no manifest, so its correct digest is not known", path=path, hint=hint))
            continue
        try:
            restored[path] = restore(path, entry, folder, progress)
        except (GsvError, OSError) as caught:
            failures.append(as_error(caught, path, OutputError))
    return restored, failures


def _recordable(result: Verification, failures: list[GsvError]) -> bool:
    """Whether a manifest can hold the file's name; TOML is UTF-8."""
    try:
        os.path.basename(result.path).encode("utf-8")
    except UnicodeEncodeError:
        failures.append(OutputError("its name is not valid Unicode, so a manifest cannot hold it", path=result.path, hint="rename the file"))
        return False
    return True


def write_list(path: str, results: Sequence[Verification], *, force: bool) -> None:
    """Write the checksum file of all files without errors. Raises RefusedError where that would be one of the files."""
    if any(os.path.exists(path) and os.path.exists(result.path) and os.path.samefile(path, result.path) for result in results):
        raise RefusedError("is one of the files that were verified", path=path, hint="name the list that is to be written")
    name = checksum_files.format_for(path)
    listed = [(result.path, result.digests[name]) for result in results if result.intact and name in result.digests]
    checksum_files.write_checksums(path, listed, overwrite=force)


RECORDED = frozenset({"xxh3_128", "content", "sha256", "md5"})  # digests that a manifest keeps


class AfterVerify(NamedTuple):
    """What the options ask for after verifying."""

    record: bool
    per_tensor: bool
    forget: bool
    backup: str | None
    restore_from: str | None
    listing: str | None
    force: bool

    @property
    def asked(self) -> list[str]:
        """The options that act on files for being sound or damaged."""
        options = {"--record": self.record, "--backup": self.backup, "--restore-from": self.restore_from, "--write-checksums": self.listing}
        return [option for option, value in options.items() if value]

    def require_room(self, files: Iterable[str], roots: Mapping[str, str]) -> None:
        """Raise RefusedError where something that is not a regular file stands in the place of a file to write, before anything is read."""
        files = list(files)
        places = [self.listing] if self.listing is not None else []
        if self.record:
            places += [os.path.join(folder, NAME) for folder in dict.fromkeys(map(os.path.dirname, files))]
        if self.backup is not None:
            if os.path.exists(self.backup) and not os.path.isdir(self.backup):
                raise file_obstacle(self.backup) or UsageError("is not a folder", where="--backup", path=self.backup)
            from gsvckpt.commands.verify.backup import place_for  # most runs copy nothing

            files = [path for path in files if not _is_copy(path, self.backup, roots)]
            copies = [os.path.join(self.backup, place_for(path, roots.get(path))) for path in files]
            backup = os.path.realpath(self.backup)
            own = next(
                (path for path in files if backup in map(os.path.realpath, (os.path.dirname(path), roots.get(path, os.path.dirname(path))))), None
            )
            if own is not None:
                why = f"{self.backup} is the folder of {own} itself, where a copy would be lost with it"
                raise UsageError(why, where="--backup", hint="name another folder, best on another disk")
            places += [*copies, *(os.path.join(folder, NAME) for folder in dict.fromkeys(map(os.path.dirname, copies)))]
        for place in places:
            obstacle = file_obstacle(place)
            if obstacle is not None:
                raise obstacle

    @property
    def digests(self) -> frozenset[str]:
        """The digests that these options need."""
        wanted = set(RECORDED) if self.record else {"xxh3_128"} if self.backup is not None else set()
        return frozenset(wanted | ({checksum_files.format_for(self.listing)} if self.listing is not None else set()))

    def refuse_contradictions(self, options: Options, *, manifest: str | None, checksums: str | None, paths: Sequence[str]) -> None:
        """Raise UsageError for options that contradict each other, or that would report a damaged file as sound."""
        if self.asked:
            require_local([*paths, *filter(None, (self.backup, self.restore_from, self.listing))], self.asked[0])
        needs_bytes = [option for option in self.asked if option != "--restore-from"]
        needs_bytes += ["--against"] if options.against is not None else []
        needs_bytes += ["--checksums"] if checksums is not None else []
        if options.quick and needs_bytes:
            raise UsageError("needs tensor bytes, which --quick does not read", where=needs_bytes[0])
        answered = {"against": options.against is not None, "checksum": checksums is not None, "resume": options.resume}
        if not any(answered.get(family(check), True) for check in options.checks):
            needed = {"against": "--against OTHER", "checksum": "--checksums FILE", "resume": "--resume"}
            raise UsageError("leaves nothing to check", where="--checks", hint=f"add {needed[family(min(options.checks))]}")
        for option, family_of, asked in (
            ("--against", "against", options.against is not None),
            ("--checksums", "checksum", checksums is not None),
            ("--resume", "resume", options.resume),
        ):
            if asked and not any(family(check) == family_of for check in options.checks):
                raise UsageError(f"asks for {family_of}.* checks, which --checks leaves out", where=option)
        if self.asked and any(is_damage(check) and check not in options.checks for check in CHECKS):
            raise UsageError("needs to know whether a file is damaged, so --checks must include every check for that", where=self.asked[0])
        for option, given in (("--per-tensor", self.per_tensor), ("--forget", self.forget)):
            if given and not self.record:
                raise UsageError("can only be used with --record", where=option)
        if self.record and manifest is not None:
            raise UsageError("writes gsvckpt.toml beside the files, so it cannot be combined with --manifest", where="--record")
        if options.against is not None and (len(paths) != 1 or (os.path.isdir(paths[0]) and index_of(paths[0]) is None)):
            raise UsageError("compares one file with another, so give one PATH", where="--against")
