"""Find what to verify: files named or found in folders, what is known of each, and files that are missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

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
from gsvckpt.sovits.runs import Resumable, TrainingRun, find_resumable, names_file


@dataclass(frozen=True, slots=True)
class Targets:
    """`files` with what is expected of each, in order; `roots`, the folder through which a file was found; `recorded` and `listed`, what is missing
    (`named`, those that were named themselves); `incomplete`, shards whose others are missing; `failures` of folders; `runs` and the files `asked`
    about, where it was resuming, and `unseen`, those failures that may hide a run; `skipped`, folders that were not looked into, and why; `others`,
    how many files of the folders are no checkpoints.
    """

    files: Mapping[str, Expected]
    roots: Mapping[str, str]
    recorded: Mapping[str, ManifestEntry]
    named: frozenset[str]
    listed: tuple[Listed, ...]
    incomplete: tuple[shards.MissingParts, ...]
    failures: tuple[GsvError, ...]
    runs: tuple[TrainingRun, ...]
    unseen: tuple[GsvError, ...]
    asked: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    others: int
    folders: tuple[str, ...]
    checksums: ChecksumFile | None


class _Named(NamedTuple):
    """What one named path leads to. `files` are in order, `parts` those of them that are shards of others; `places` are the folders whose manifests
    may name more.
    """

    path: str
    is_folder: bool = False
    files: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    others: int = 0
    failures: tuple[GsvError, ...] = ()
    incomplete: tuple[shards.MissingParts, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    runs: tuple[TrainingRun, ...] = ()
    unseen: tuple[GsvError, ...] = ()


def gather(paths: Sequence[str], *, recursive: bool, resuming: bool, recorded: str | None, listed: str | None) -> Targets:
    """Find all targets. Raises MissingError and DamagedError for a manifest or checksum file that was named and cannot be read."""
    checksums = read_checksums(listed) if listed is not None else None
    if resuming:
        require_local(paths, "--resume")
    named = [_look(path, recursive=recursive, resuming=resuming) for path in paths]
    manifests = _read_manifests(recorded, paths, [place for one in named for place in one.places])
    missing, direct = _missing_entries(named, manifests)
    found = _without_repeats([path for one in named for path in one.files if path not in direct])
    runs = list({run.folder: run for one in named for run in one.runs}.values())
    known = {os.path.normpath(path) for path in found}
    found += [path for path in dict.fromkeys(chosen for run in runs for chosen in run.chosen) if path not in known]
    folders = tuple(one.path for one in named if one.is_folder)
    gone, more = _match_listed(checksums, found, folders) if checksums is not None else ((), ())
    found = _without_repeats([*found, *more])
    parts = frozenset(part for one in named for part in one.parts)
    told = {*missing, *(one.path for one in named if one.is_folder and any(_is_below(path, one) for path in missing))}
    failures = [error for one in named for error in one.failures if not one.is_folder or error.path not in told]
    return Targets(
        files={path: _expected(path, manifests, checksums)._replace(part=path in parts) for path in found},
        roots={path: one.path for one in named if one.is_folder for path in (*one.files, *(path for path in missing if _is_below(path, one)))},
        recorded=missing,
        named=direct,
        listed=gone,
        incomplete=tuple(one for each in named for one in each.incomplete),
        failures=(*failures, *manifests.failures),
        runs=tuple(runs),
        unseen=tuple(error for one in named for error in one.unseen),
        asked=tuple(one.path for one in named if resuming and not one.is_folder and one.files),
        skipped=tuple(skipped for one in named for skipped in one.skipped),
        others=sum(one.others for one in named) - len(more),
        folders=folders,
        checksums=checksums,
    )


def _look(path: str, *, recursive: bool, resuming: bool) -> _Named:
    """What a named path leads to: of a folder, its checkpoints, or the files from which training would resume there."""
    found = find_resumable(path) if resuming else Resumable()
    if resuming and not names_file(path):
        return _Named(path, failures=found.failures, runs=found.runs, unseen=found.failures)  # of a file none: it may be asked about wherever it lies
    if is_folder(path):
        return _look_into(path, recursive=recursive)
    parts = _parts(path)
    return _Named(path, files=(path, *parts), parts=parts, places=(folder_of(path),), runs=found.runs)


def _look_into(folder: str, *, recursive: bool) -> _Named:
    found = find_files([folder], recursive=recursive, thorough=True)
    checkpoints = [path for path in found.checkpoints if not is_kept_aside(path)]
    parts = {path: _parts(path) for path in checkpoints}
    places = [folder, *map(os.path.dirname, found.checkpoints)]
    if recursive:  # all that was recorded in a folder may be gone
        places += [place for place, _, names in os.walk(folder) if NAME in names]
    return _Named(
        folder,
        is_folder=True,
        files=tuple(file for path in checkpoints for file in (path, *parts[path])),
        parts=tuple(part for each in parts.values() for part in each),
        places=tuple(dict.fromkeys(places)),
        others=found.others + len(found.checkpoints) - len(checkpoints),
        failures=found.failures,
        incomplete=found.incomplete,
        skipped=found.skipped,
    )


def _parts(path: str) -> tuple[str, ...]:
    """The shards that an index names; those that are not there it misses itself."""
    if not shards.is_index(path) or is_unpacked(path) or is_metadata(path):  # whose files are no checkpoints by themselves
        return ()
    with suppress(GsvError):
        return tuple(shard for shard in shards.members(path) if is_url(shard) or os.path.isfile(shard))
    return ()


def _without_repeats(files: Iterable[str]) -> list[str]:
    """One file is one file, however it is spelt and through whatever link: the first name counts."""
    first: dict[str, str] = {}
    for path in files:
        first.setdefault(path if is_url(path) else os.path.normcase(os.path.realpath(path)), path)
    return list(first.values())


class _Manifests(NamedTuple):
    """The manifests beside files, by absolute folder; a manifest that cannot be read is a failure of its own, and files are verified without it."""

    by_folder: Mapping[str, Manifest]
    failures: tuple[GsvError, ...] = ()

    def of(self, folder: str) -> Manifest | None:
        return self.by_folder.get(_absolute(folder))

    def entry(self, path: str) -> ManifestEntry | None:
        """What is recorded of a file."""
        found = self.of(folder_of(path))
        return found.entries.get(name_of(path)) if found is not None else None


def _read_manifests(path: str | None, targets: Sequence[str], places: Sequence[str]) -> _Manifests:
    """The manifests of all places; or the one that was named, for the one folder that was named with it."""
    if path is not None:
        folders = {_absolute(target if is_folder(target) else folder_of(target)) for target in targets}
        if len(folders) != 1:
            raise UsageError("is for the files of one folder, so name files of one folder only", where="--manifest")
        manifest = read_manifest(path)
        if manifest is None:
            folder = targets[0] if is_folder(targets[0]) else folder_of(targets[0]) or os.curdir
            hint = Hint("records one", f"gsvckpt verify {quote_word(folder)} --record")
            raise MissingError("there is no such manifest", path=path, hint=hint)
        return _Manifests({folders.pop(): manifest})
    found: dict[str, Manifest] = {}
    failures: list[GsvError] = []
    for place, folder in {_absolute(folder): folder for folder in reversed(places) if not is_url(folder)}.items():
        read = _read(folder)
        if isinstance(read, GsvError):
            failures.insert(0, read)
        elif read is not None:
            found[place] = read
    return _Manifests(found, tuple(failures))


def _read(folder: str) -> Manifest | GsvError | None:
    try:
        return read_manifest(os.path.join(folder, NAME))
    except GsvError as error:
        return error


def _absolute(folder: str) -> str:
    return os.path.normcase(os.path.abspath(folder or "."))


def _missing_entries(named: Sequence[_Named], manifests: _Manifests) -> tuple[dict[str, ManifestEntry], frozenset[str]]:
    """Recorded files that are not there: named ones, and those of the folders; and which of them were named."""
    missing: dict[str, ManifestEntry] = {}
    direct: list[str] = []
    for one in named:
        if not one.is_folder:
            entry = manifests.entry(one.path) if one.files else None
            if entry is not None and not is_url(one.path) and not os.path.isfile(one.path):
                missing[one.path] = entry
                direct.append(one.path)
            continue
        for place in one.places:
            recorded = manifests.of(place)
            for entry in recorded.entries.values() if recorded is not None else ():
                path = os.path.join(place, entry.name)
                if not os.path.isfile(path):
                    missing[path] = entry
    return missing, frozenset(direct)


def _is_below(path: str, named: _Named) -> bool:
    """Whether a missing file was looked for through a named folder."""
    return os.path.dirname(path) in named.places


def _expected(path: str, manifests: _Manifests, checksums: ChecksumFile | None) -> Expected:
    line = checksums.listed.get(os.path.normcase(os.path.abspath(path))) if checksums is not None else None
    return Expected(manifests.entry(path), manifests.of(folder_of(path)) is not None, line, checksums is not None)


def _match_listed(checksums: ChecksumFile, files: Sequence[str], folders: Sequence[str]) -> tuple[tuple[Listed, ...], tuple[str, ...]]:
    """Lines of files that are not there, and listed files that are no checkpoints: all, or those below the folders where only folders were named."""
    below = [os.path.normcase(os.path.abspath(folder)) + os.sep for folder in folders]
    there = {os.path.normcase(os.path.abspath(path)) for path in files}
    gone: list[Listed] = []
    more: list[str] = []
    for path, line in checksums.listed.items():
        inside = any(path.startswith(folder) for folder in below)
        if path in there or (below and not inside):
            continue
        if not os.path.isfile(line.path):
            gone.append(line)
        elif inside:
            more.append(line.path)
    return tuple(gone), tuple(more)


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
        answer = resume.answer(run, states, assessed)
        found.append(Verification(run.folder, judge(findings, Safety("safe")), findings, skipped=skipped, resumption=answer))
    return found


def _state_of(result: Verification) -> resume.ResumeState | GsvError:
    if result.resume is not None:
        return result.resume
    why = next((finding.why for finding in result.findings if finding.severity == "error"), "it cannot be read")
    return DamagedError(why if result.error is None else result.error["why"], path=result.path)
