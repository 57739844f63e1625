"""Verify one file: open it, read it once, run every check. A plain function of plain values, so any executor can run it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from gsvckpt.commands.verify import checksum_files, manifest
from gsvckpt.commands.verify.checks import containers, layouts, officials, pickles, resume, tensors, versions, zip_bytes
from gsvckpt.commands.verify.findings import SEVERITIES, UNCHECKED, Finding, name_file, worst
from gsvckpt.commands.verify.result import Expected, Options, Verification, failed, judge
from gsvckpt.engine.examine import Examination, examine, known_of
from gsvckpt.engine.open import open_checkpoint, read
from gsvckpt.engine.salvage import find_salvaged
from gsvckpt.errors import FLAWS, ChangedError, DamagedError, GsvError, MissingError, NotCheckpointError, UnreachableError
from gsvckpt.files.local import open_source
from gsvckpt.files.paths import name_of
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.files.secrets import conceal
from gsvckpt.formats import pickle_search, shards
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle.safety import Safety, judge_all
from gsvckpt.formats.sniff import read_head
from gsvckpt.formats.torch_salvage import Salvaged
from gsvckpt.formats.zip import directory
from gsvckpt.model import Checkpoint, OpenSource, Tensor, format_path, walk
from gsvckpt.sovits import official
from gsvckpt.sovits.config import config_of

_GONE = (UnreachableError, ChangedError)  # a source that breaks off: what was learnt until then says nothing


def verify_file(
    path: str | os.PathLike[str],
    options: Options | None = None,
    expected: Expected | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Verification:
    """Verify one file. Nothing is raised for what is wrong with it: whatever it is, there is a result.

    Of an index, what it makes of its shards is verified: all there, each with its tensors, and what they are as one. Their bytes are verified by
    their own paths.
    """
    asked = options or Options()
    try:
        with open_source(path, structure_only=asked.quick) as source:
            return _Verifier(source, asked, expected or Expected(), jobs, progress or Silent()).result()
    except (MissingError, ChangedError) as error:
        return failed(conceal(os.fspath(path)), error)


def peek(path: str) -> resume.ResumeState | GsvError:
    """What resuming asks of a file, from its pickle alone."""
    try:
        with open_checkpoint(path) as checkpoint:
            return resume.summarise(examine(checkpoint))
    except GsvError as error:
        return error


def named_tensors(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors: the model's by their names in its state dict, so that they are the same in every container; all others by their paths."""
    known = {id(tensor) for tensor in state.values()}
    found = dict(state)
    for path, leaf in walk(checkpoint.root):
        if isinstance(leaf, Tensor) and id(leaf) not in known:
            found.setdefault(format_path(path), leaf)
    return found


class _Verifier:
    """The verification of one open file."""

    def __init__(self, source: OpenSource, options: Options, expected: Expected, jobs: int, progress: Progress) -> None:
        self.source, self.options, self.expected, self.jobs, self.progress = source, options, expected, jobs, progress
        self.findings: list[Finding] = []
        self.blockers: list[Finding] = []  # why checks that were asked for could not be made: told whatever was asked for
        self.unexamined: Finding | None = None  # why nothing is known of the file but its digests, where these say nothing worse
        self.digests: dict[str, str] = {}
        self.tensors: dict[str, str] = {}
        self.official: str | None = None

    def asked(self, *globs: str) -> bool:
        """Whether any of these checks is wanted."""
        return any(fnmatchcase(check, glob) for check in self.options.checks for glob in globs)

    def result(self) -> Verification:
        examination: Examination | None = None
        try:
            with self._opened() as checkpoint:
                examination = examine(checkpoint)
                safety = examination.safety
                self.findings += pickles.safety(safety)
                self.blockers += pickles.doubts(safety)  # told whatever was asked for: nothing that was read is certain
                self._check(examination)
        except _GONE:
            raise
        except GsvError as error:
            safety = self._unreadable(error)
        self._compare_digests()
        try:
            self.source.check_unchanged()
        except ChangedError as error:
            self.blockers.append(Finding(error.check, "error", "file", error.why, error.hint))
        findings = [*self.blockers, *(found for found in self.findings if found.check in self.options.checks)]
        if self.unexamined is not None and worst(findings) != "error":
            findings.append(self.unexamined)
        findings = [name_file(found, self.source.path) for found in findings]
        findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        result = Verification(
            self.source.path, judge(tuple(findings), safety), tuple(findings), self.source.size, self.source.mtime_ns, safety=safety
        )
        result = result._replace(digests=self.digests, tensors=self.tensors, official=self.official)
        if examination is None:
            return result
        identity = examination.identity
        result = result._replace(kind=identity.kind, version=identity.version, epoch=identity.progress.epoch, step=identity.progress.step)
        if self.options.config:
            result = result._replace(config=config_of(examination.checkpoint))
        return result._replace(resume=resume.summarise(examination)) if self.options.resume else result

    @contextmanager
    def _opened(self) -> Iterator[Checkpoint]:
        if not shards.is_index(self.source.path):
            yield read(self.source)
            return
        with open_checkpoint(self.source.path) as checkpoint:
            yield checkpoint

    def _unreadable(self, error: GsvError) -> Safety:
        """What is to say of a file that could not be opened, or not to its end."""
        if shards.is_index(self.source.path):
            return self._fall_apart(error)
        known = known_of(error)
        head = read_head(self.source)
        found = pickle_search.search(self.source, everywhere=True)
        names = (*(known.globals if known else ()), *found.names)
        verdict = judge_all(dict.fromkeys(names), merge_calls(known.calls if known else (), found.calls))
        if verdict.verdict == "safe":
            verdict = Safety("unknown", verdict.globals)
        if self._is_compared(error):
            return verdict
        self.blockers += containers.failure(error, head, self.source.size, self._salvaged(error))
        self.findings += pickles.safety_of_unreadable(verdict)
        if known is not None and known.records and error.check != "record.crc":
            self._read(known, {})
        else:
            self._read_file(frozenset({"xxh3_128"}))
        return verdict

    def _fall_apart(self, error: GsvError) -> Safety:
        """An index that does not make one checkpoint of its shards. It is text itself, which runs nothing."""
        shard = name_of(error.path) if error.path and error.path != self.source.path else ""
        where = ": ".join(part for part in (shard, error.where) if part) or "index"
        self.blockers.append(Finding(error.check, "error", where, error.why, error.hint))
        self._read_file(frozenset())
        return Safety("safe")

    def _is_compared(self, error: GsvError) -> bool:
        """Whether a file that is no checkpoint (a model for ONNX, a config) has a digest to be compared with, in place of being examined.

        Only gsvckpt's own list of official files vouches for one. A name, or the list of a user, which may come from where the file does, can tell
        that it is another, but never that it is sound.
        """
        named, listed = official.named(self.source.path), self.expected.listed
        if not (named or listed) or not isinstance(error, NotCheckpointError) or self.options.quick or not self.source.size:
            return False
        self._read_file(frozenset({"sha256"} if named else ()))
        if named and "sha256" in self.digests:
            self.official, finding = officials.compare(self.source.path, self.digests["sha256"])
            self.findings.append(finding)
        if self.official is None:
            self.unexamined = Finding("container.unsupported", "error", error.where or "file", f"{error.why}, so it was not examined")
            self.findings += checksum_files.confirm(listed, self.digests)
        return True

    def _salvaged(self, error: GsvError) -> Salvaged | None:
        if not isinstance(error, DamagedError):  # of what is no checkpoint, or of another form, nothing is salvaged
            return None
        with suppress(*FLAWS):
            return find_salvaged(self.source)
        return None

    def _check(self, examination: Examination) -> None:
        checkpoint = examination.checkpoint
        if checkpoint.container.shards:
            self._check_shards(examination)
            return
        self.findings += [*containers.head(examination), *containers.trailing(checkpoint), *containers.byteorder(checkpoint)]
        if checkpoint.records and self.asked("container.*"):
            tail = directory.find_tail(self.source)
            self.findings += zip_bytes.audit(self.source, checkpoint.records, tail) if tail is not None else []
        named = named_tensors(checkpoint, examination.state)
        bombs = tensors.overclaiming(named, self.source.size)
        self.findings += tensors.bounds(bombs)
        self._check_names(examination)
        self._read(checkpoint, {name: tensor for name, tensor in named.items() if name not in bombs}, examination, all_tensors=not bombs)
        self._official(examination)
        self._compare_with(examination)

    def _check_shards(self, examination: Examination) -> None:
        """What shows only where all shards are together."""
        self._check_names(examination)
        self._read_file(frozenset())
        self._compare_with(examination)

    def _check_names(self, examination: Examination) -> None:
        if self.expected.part:  # of a whole, with which its names are looked at
            return
        if self.asked("layout.*"):
            self.findings += [*layouts.compare(examination, self.options.layout), *layouts.config(examination)]
        self.findings += [*versions.detection(examination), *versions.claims(examination), *versions.name(examination)]

    def _compare_with(self, examination: Examination) -> None:
        if self.options.against is None or self.expected.part:
            return
        from gsvckpt.commands.verify.checks.against import compare_with  # NumPy is not needed for anything else

        found = compare_with(examination, self.options.against, self.jobs, self.progress)
        self.blockers += [finding for finding in found if finding.check in UNCHECKED]
        self.findings += [finding for finding in found if finding.check not in UNCHECKED]

    def _read(
        self, checkpoint: Checkpoint, known: Mapping[str, Tensor], examination: Examination | None = None, *, all_tensors: bool = False
    ) -> None:
        """Read the bytes, for everything that needs them. `known` are the tensors to look into, `all_tensors` says that there are no others."""
        if self.options.quick:
            return
        checksums = self.asked("record.crc")
        readable = checkpoint.container.byteorder == "little"
        numbers = examination is not None and readable and self.asked("tensor.finite", "tensor.range")
        wanted = self._wanted_digests()
        if not all_tensors:
            wanted -= {"content"}
        if not (checksums or numbers or wanted):
            return
        from gsvckpt.devices.choice import HostOnDemand
        from gsvckpt.engine.digest import read_contents

        try:  # on the host, which looks for NaN at 50 GB/s a core: bringing the bytes to a device takes longer, and opening one takes seconds
            device = HostOnDemand() if numbers else None
            found = read_contents(checkpoint, known, device, wanted, checksums=checksums, jobs=self.jobs, progress=self.progress)
        except _GONE:
            raise
        except GsvError as error:
            self.blockers.append(Finding(error.check, "error", error.where or "file", error.why, error.hint))
            return
        self.digests |= found.file
        self.tensors = dict(found.digests) if self.options.tensors or (self.expected.entry and self.expected.entry.tensors) else {}
        self.findings += containers.checksums(checkpoint, found.crcs)
        if examination is not None and numbers:
            kept = [name for name in known if examination.roles.get(name.partition("/")[0]) == "optimizer"]
            ours = examination.identity.family in ("gpt", "sovits-generator", "sovits-discriminator")
            self.findings += tensors.finite(examination.weights, found.extremes, frozenset(kept), ours=ours)
            self.findings += tensors.ranges(examination.weights, found.extremes)

    def _wanted_digests(self) -> frozenset[str]:
        wanted = set(self.options.digests)
        if self.expected.entry is not None and self.asked("manifest.*"):
            wanted.add("xxh3_128")
        if self.expected.listed is not None and self.asked("checksum.*"):
            wanted |= set(self.expected.listed.algorithms)
        if official.named(self.source.path) and self.asked("official.*"):
            wanted.add("sha256")
        return frozenset(wanted)

    def _read_file(self, names: frozenset[str]) -> None:
        """Digests of the bytes as they are, for what is no checkpoint."""
        if self.options.quick:
            return
        from gsvckpt.engine.digest import digest_file

        wanted = (names | self._wanted_digests()) - {"content"} - set(self.digests)
        try:
            self.digests |= digest_file(self.source, frozenset(wanted), self.jobs, self.progress)
        except _GONE:
            raise
        except GsvError as error:
            self.blockers.append(Finding(error.check, "error", error.where or "file", error.why, error.hint))

    def _official(self, examination: Examination) -> None:
        if examination.official is not None:
            self.official = examination.official.file.name
        if official.named(self.source.path) and "sha256" in self.digests:
            name, finding = officials.identify(self.source.path, self.digests["sha256"])
            self.official = name or self.official
            self.findings.append(finding)

    def _compare_digests(self) -> None:
        entry = self.expected.entry
        if entry is not None:
            self.findings += manifest.compare(entry, self.source.size, self.source.mtime_ns, self.digests, self.tensors)
        elif all(check.startswith("manifest.") for check in self.options.checks):
            self.blockers.append(Finding("container.unsupported", "error", "file", "is in no manifest, so there is nothing to compare it with"))
        elif self.expected.recorded:
            self.findings.append(Finding("manifest.new", "info", "file", "is not in the manifest", "gsvckpt verify FILE --record adds it"))
        if self.expected.lists and not self.options.quick:
            self.findings += checksum_files.compare(self.expected.listed, self.digests)
