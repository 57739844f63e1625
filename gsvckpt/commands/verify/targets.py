"""Find what to verify: files named or found in folders, what is known of each, and files that are missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gsvckpt.commands.verify.checks import of_list, of_manifest, resume
from gsvckpt.commands.verify.checks.files import missing_part
from gsvckpt.commands.verify.checksum_files import ChecksumFile, Listed, read_checksums
from gsvckpt.commands.verify.damaged_names import is_kept_aside
from gsvckpt.commands.verify.file import peek
from gsvckpt.commands.verify.findings import family, name_file
from gsvckpt.commands.verify.manifest import NAME, Manifest, ManifestEntry, read_manifest
from gsvckpt.commands.verify.result import Expected, Options, Verification, judge, only
from gsvckpt.engine.discover import find_files
from gsvckpt.errors import DamagedError, GsvError, MissingError, UsageError
from gsvckpt.files.paths import folder_of, is_folder, is_url, name_of, require_local
from gsvckpt.formats import shards
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.formats.torch_distributed import is_metadata
from gsvckpt.formats.torch_unpacked import is_unpacked
from gsvckpt.hints import Hint, quote_word
from gsvckpt.sovits.runs import TrainingRun, find_runs


class Targets:
    """`files` with what is expected of each, in order; `roots`, the folder through which a file was found; `recorded` and `listed`, what is missing
    (`named`, those that were named themselves); `incomplete`, shards whose others are missing; `parts`, the files that are shards of another target;
    `failures` of folders; `runs` and the files `asked` about, where it was resuming; `skipped`, folders that
    were not looked into, and why; `others`, how many files of the folders are no checkpoints.
    """

    def __init__(self, checksums: ChecksumFile | None) -> None:
        self.files: dict[str, Expected] = {}
        self.roots: dict[str, str] = {}
        self.recorded: dict[str, ManifestEntry] = {}
        self.listed: list[Listed] = []
        self.failures: list[GsvError] = []
        self.runs: list[TrainingRun] = []
        self.asked: list[str] = []
        self.named: set[str] = set()
        self.parts: set[str] = set()
        self.incomplete: list[shards.MissingParts] = []
        self.skipped: list[tuple[str, str]] = []
        self.others = 0
        self.checksums = checksums
        self.folders: list[str] = []


def gather(paths: Sequence[str], *, recursive: bool, resuming: bool, recorded: str | None, listed: str | None) -> Targets:
    """Find all targets. Raises MissingError and DamagedError for a manifest or checksum file that was named and cannot be read."""
    targets = Targets(read_checksums(listed) if listed is not None else None)
    known = _Manifests(recorded, paths)
    for path in paths:
        if resuming:
            require_local([path], "--resume")
        if resuming and os.path.isdir(path):
            _add_runs(targets, path)
        elif is_folder(path):
            _add_folder(targets, path, known, recursive=recursive)
        else:
            _add_file(targets, path, known)
            if resuming:
                targets.asked.append(path)
                _add_runs(targets, path)
    targets.files = _without_repeats(targets.files)
    if targets.checksums is not None:
        _add_listed(targets, targets.checksums)
    for path in targets.files:
        targets.files[path] = _expected(path, known, targets.checksums)._replace(part=path in targets.parts)
    targets.failures += known.failures
    return targets


def _without_repeats(files: Mapping[str, Expected]) -> dict[str, Expected]:
    """One file is one file, however it is spelt and through whatever link: the first name counts."""
    first: dict[str, str] = {}
    for path in files:
        first.setdefault(path if is_url(path) else os.path.normcase(os.path.realpath(path)), path)
    return {path: files[path] for path in first.values()}


class _Manifests:
    """The manifests beside files, read once each; or the one that was named, for the one folder that was named with it."""

    def __init__(self, path: str | None, targets: Sequence[str]) -> None:
        self.failures: list[GsvError] = []
        self._by_folder: dict[str, Manifest | None] = {}
        self._named = path is not None
        if path is None:
            return
        folders = {_absolute(target if is_folder(target) else folder_of(target)) for target in targets}
        if len(folders) != 1:
            raise UsageError("is for the files of one folder, so name files of one folder only", where="--manifest")
        manifest = read_manifest(path)
        if manifest is None:
            folder = targets[0] if is_folder(targets[0]) else folder_of(targets[0]) or os.curdir
            hint = Hint("records one", f"gsvckpt verify {quote_word(folder)} --record")
            raise MissingError("there is no such manifest", path=path, hint=hint)
        self._by_folder[folders.pop()] = manifest

    def of(self, folder: str) -> Manifest | None:
        """The manifest for the files in a folder; one that cannot be read is a failure of its own, and the files are verified without it."""
        place = _absolute(folder)
        if place not in self._by_folder and not self._named and not is_url(folder):
            try:
                self._by_folder[place] = read_manifest(os.path.join(folder, NAME))
            except GsvError as error:
                self.failures.append(error)
                self._by_folder[place] = None
        return self._by_folder.get(place)

    def entry(self, path: str) -> ManifestEntry | None:
        found = self.of(folder_of(path))
        return found.entries.get(name_of(path)) if found is not None else None


def _absolute(folder: str) -> str:
    return os.path.normcase(os.path.abspath(folder or "."))


def _expected(path: str, known: _Manifests, checksums: ChecksumFile | None) -> Expected:
    line = checksums.listed.get(os.path.normcase(os.path.abspath(path))) if checksums is not None else None
    return Expected(known.entry(path), known.of(folder_of(path)) is not None, line, checksums is not None)


def _add_file(targets: Targets, path: str, known: _Manifests) -> None:
    entry = known.entry(path)
    if entry is not None and not is_url(path) and not os.path.isfile(path):
        targets.recorded[path] = entry
        targets.named.add(path)
    else:
        targets.files.setdefault(path, Expected())
        _add_parts(targets, path)


def _add_parts(targets: Targets, path: str, root: str | None = None) -> None:
    """The shards that an index names, behind it; those that are not there it misses itself."""
    if not shards.is_index(path) or is_unpacked(path) or is_metadata(path):  # whose files are no checkpoints by themselves
        return
    with suppress(GsvError):
        found = [shard for shard in shards.members(path) if is_url(shard) or os.path.isfile(shard)]
        targets.files |= dict.fromkeys(found, Expected())
        targets.roots |= dict.fromkeys(found, root) if root is not None else {}
        targets.parts.update(found)


def _add_folder(targets: Targets, folder: str, known: _Manifests, *, recursive: bool) -> None:
    found = find_files([folder], recursive=recursive, thorough=True)
    targets.folders.append(folder)
    targets.incomplete += found.incomplete
    targets.skipped += found.skipped
    checkpoints = [path for path in found.checkpoints if not is_kept_aside(path)]
    targets.others += found.others + len(found.checkpoints) - len(checkpoints)
    for path in checkpoints:
        targets.files[path] = Expected()
        targets.roots[path] = folder
        _add_parts(targets, path, folder)
    before = len(targets.recorded)
    for place in dict.fromkeys([folder, *map(os.path.dirname, found.checkpoints), *_manifest_folders(folder, recursive=recursive)]):
        recorded = known.of(place)
        for entry in recorded.entries.values() if recorded is not None else ():
            path = os.path.join(place, entry.name)
            if not os.path.isfile(path):
                targets.recorded[path] = entry
                targets.roots[path] = folder
    is_empty = len(targets.recorded) == before  # a folder of which all that was recorded is gone is no folder without checkpoints
    told = (folder, *targets.recorded) if not is_empty else tuple(targets.recorded)  # what was recorded is told as missing already
    targets.failures += [error for error in found.failures if error.path not in told]


def _manifest_folders(folder: str, *, recursive: bool) -> list[str]:
    """Folders with a manifest, as all that was recorded in one may be gone."""
    if not recursive:
        return []
    return [place for place, _, names in os.walk(folder) if NAME in names]


def _add_runs(targets: Targets, path: str) -> None:
    try:
        runs = find_runs(path)
    except MissingError as error:
        if os.path.isdir(path):  # a file may be asked about wherever it lies
            targets.failures.append(error)
        return
    for run in runs:
        if run.folder not in {known.folder for known in targets.runs}:
            targets.runs.append(run)
            targets.files |= {chosen: Expected() for chosen in run.chosen if not any(os.path.normpath(known) == chosen for known in targets.files)}


def _add_listed(targets: Targets, checksums: ChecksumFile) -> None:
    """Lines of files that are not there, and listed files that are no checkpoints: all, or those below the folders where only folders were named."""
    below = [os.path.normcase(os.path.abspath(folder)) + os.sep for folder in targets.folders]
    there = {os.path.normcase(os.path.abspath(path)) for path in targets.files}
    for path, line in checksums.listed.items():
        inside = next((folder for folder in below if path.startswith(folder)), None)
        if path in there or (below and inside is None):
            continue
        if not os.path.isfile(line.path):
            targets.listed.append(line)
        elif inside is not None:
            targets.files[line.path] = Expected()
            targets.others -= 1


def absent(targets: Targets, options: Options) -> list[Verification]:
    """Results for missing files, and for lines of the checksum file that cannot be read."""
    found = [_missing(path, entry, named=path in targets.named) for path, entry in targets.recorded.items()]
    gone = only("checksum.missing", "the file is missing")
    parts = [one for one in targets.incomplete if one.missing[0] not in targets.recorded]
    without = only("container.truncated", "the file is missing")
    found += [Verification(one.missing[0], "damaged", (missing_part(one),), skipped=without) for one in parts]
    found += [Verification(line.path, "damaged", (of_list.missing(line),), skipped=gone) for line in targets.listed]
    if targets.checksums is not None and targets.checksums.malformed:
        skipped = only("checksum.malformed", "this is a checksum file")
        found.append(Verification(targets.checksums.path, "suspect", tuple(of_list.malformed(targets.checksums)), skipped=skipped))
    return [result for result in found if result.error is not None or result.findings[0].check in options.checks]


def _missing(path: str, entry: ManifestEntry, *, named: bool) -> Verification:
    """A recorded file that is gone: damage to a folder, and a missing input where the file itself was named."""
    error = MissingError("there is no such file", path=path).as_json() if named else None
    finding = name_file(of_manifest.missing(entry), path)
    return Verification(path, "unchecked" if named else "damaged", (finding,), error=error, skipped=only("manifest.missing", "the file is missing"))


def is_forgotten(result: Verification) -> bool:
    """Whether a file is missing and its entry was just removed."""
    return any(finding.check == "manifest.missing" for finding in result.findings) and not os.path.isfile(result.path)


def with_verdicts(targets: Targets, results: Sequence[Verification]) -> list[Verification]:
    """The results, those of files that were asked about with a verdict: could training go on from this one?"""
    runs = {run.place(name): run for run in targets.runs for name in run.names}
    done = []
    for result in results:
        state = result.resume
        if result.path in targets.asked and state is not None:
            found = resume.assess_file(os.path.basename(result.path), state, runs.get(os.path.normpath(result.path)))
            findings = (*result.findings, *(name_file(finding, result.path) for finding in found))
            skipped = {check: why for check, why in result.skipped.items() if family(check) != "resume"} | resume.skipped_of_file(state)
            done.append(result._replace(findings=findings, status=judge(findings, result.safety), skipped=skipped))
        else:
            done.append(result)
    return done


def assess_runs(targets: Targets, results: Sequence[Verification]) -> list[Verification]:
    """A verdict on each run: would training resume there? Files that GPT-SoVITS would not use are opened only for their epoch."""
    states: dict[str, resume.ResumeState | GsvError] = {os.path.normpath(result.path): _state_of(result) for result in results}
    found = []
    for run in targets.runs:
        states |= {path: peek(path) for path in run.rivals if path not in states}
        assessed = resume.assess(run, states)
        findings = tuple(name_file(finding, run.place(finding.where)) for finding in assessed)
        skipped = only("resume.", "this is the folder of a training run") | resume.skipped_of_run(run, states, assessed)
        found.append(Verification(run.folder, judge(findings, Safety("safe")), findings, skipped=skipped))
    return found


def _state_of(result: Verification) -> resume.ResumeState | GsvError:
    if result.resume is not None:
        return result.resume
    why = next((finding.why for finding in result.findings if finding.severity == "error"), "it cannot be read")
    return DamagedError(why if result.error is None else result.error["why"], path=result.path)
