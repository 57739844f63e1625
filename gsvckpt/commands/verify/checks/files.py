"""Check what can be checked of any file, also of one that could not be opened: manifest, checksum file, reading."""

from __future__ import annotations

from gsvckpt.commands.verify.checks import containers, of_list, of_manifest, officials, pickles
from gsvckpt.commands.verify.checks.answer import Answer, Answered, Skipped
from gsvckpt.commands.verify.findings import CHECKS, Finding, family
from gsvckpt.commands.verify.phases import Contents, Unreadable
from gsvckpt.commands.verify.result import Asked
from gsvckpt.errors import ChangedError
from gsvckpt.files.paths import name_of
from gsvckpt.formats import shards
from gsvckpt.hints import Hint
from gsvckpt.model import OpenSource

_MANIFEST = tuple(check for check in CHECKS if family(check) == "manifest")
_LIST = tuple(check for check in CHECKS if family(check) == "checksum")
_UNLISTED = Skipped("no line lists it")


def ask_unreadable(found: Unreadable, source: OpenSource, contents: Contents) -> list[Answered]:
    """Why it could not be opened, and what could be looked at all the same."""
    if shards.is_index(source.path):
        return [Answered((), [_fall_apart(found, source)])]
    sha256 = contents.digests.get("sha256")
    if found.compared:
        return [Answered(("official.digest",), officials.compare(source.path, sha256))]
    names = pickles.safety_of_unreadable(found.safety)
    answers = [
        Answered((), containers.failure(found.error, found.head, source.size, found.salvaged)),
        Answered(("pickle.safety",), names or Skipped("not all of its names could be read")),
    ]
    if found.known is not None and contents.crcs is not None:
        answers.append(Answered(("record.crc",), containers.checksums(None, contents.crcs)))
    return answers


def _fall_apart(found: Unreadable, source: OpenSource) -> Finding:
    """An index that does not make one checkpoint of its shards."""
    error = found.error
    shard = name_of(error.path) if error.path and error.path != source.path else ""
    return Finding(error.check, "error", ": ".join(part for part in (shard, error.where) if part) or "index", error.why, error.hint)


def missing_part(found: shards.MissingParts) -> Finding:
    """Shards that are not there, though the names of others say that they should be."""
    return Finding("container.truncated", "error", "file", found.why, Hint("get it again, into the same folder"))


def ask_reading(contents: Contents, asked: Asked) -> list[Answered]:
    """Whether its bytes could be read, as far as they were asked for."""
    error = contents.error
    if error is not None:
        finding = Finding(error.check, "error", error.where or "file", error.why, error.hint)
        return [Answered((), [finding]), Answered(("container.unreadable",), Skipped(f"not all bytes could be read: {error.why}"))]
    if contents.digests or contents.crcs is not None:
        return [Answered(("container.unreadable",), [])]
    why = "--quick reads no tensor bytes" if asked.options.quick else "no check that was selected reads all bytes"
    return [Answered(("container.unreadable",), Skipped(why))]


def ask_unchanged(source: OpenSource) -> Answered:
    """Whether it stayed as it was while it was read."""
    try:
        source.check_unchanged()
    except ChangedError as error:
        return Answered((), [Finding(error.check, "error", "file", error.why, error.hint)])
    return Answered(("container.changed",), [])


def ask_lists(source: OpenSource, contents: Contents, asked: Asked, *, compared: bool) -> list[Answered]:
    """Whether it is what a manifest recorded, and what a checksum file lists. `compared` says that it was looked at in no other way."""
    answers = _of_manifest(source, contents, asked)
    expected, line = asked.expected, asked.expected.listed
    if not expected.lists:
        return [*answers, Answered(_LIST, Skipped("--checksums was not given"))]
    match: Answer = of_list.confirm(line, contents.digests) if compared else Skipped("only for files that cannot be examined")
    found: Answer = of_list.compare(line, contents.digests) if not asked.options.quick else Skipped("--quick reads no bytes")
    answers = [
        Answered(("checksum.match",), _UNLISTED if line is None else match),
        *answers,
        Answered(("checksum.mismatch", "checksum.unlisted"), found),
        Answered(("checksum.missing",), _UNLISTED if line is None else []),
        Answered(("checksum.malformed",), Skipped("reported for the checksum file itself")),
    ]
    if line is None:
        answers.append(Answered(("checksum.mismatch",), _UNLISTED))
    elif not contents.digests.keys() & set(line.algorithms):
        answers.append(Answered(("checksum.mismatch",), Skipped("its bytes were not read")))
    return answers


def _of_manifest(source: OpenSource, contents: Contents, asked: Asked) -> list[Answered]:
    entry = asked.expected.entry
    if entry is None and all(family(check) == "manifest" for check in asked.options.checks):
        return [Answered(_MANIFEST, [of_manifest.nothing_recorded()])]
    if entry is None and asked.expected.recorded:
        return [Answered(_MANIFEST, Skipped("the manifest does not name it")), Answered(("manifest.new",), [of_manifest.new()])]
    if entry is None:
        return [Answered(_MANIFEST, Skipped("there is no manifest beside it"))]
    found = of_manifest.compare(entry, source.size, source.mtime_ns, contents.digests, contents.tensors)
    answers = [Answered(_MANIFEST, found)]
    if not of_manifest.comparable(entry, contents.digests):
        why = "--quick reads no bytes" if asked.options.quick else "the manifest has no digest of it to compare with"
        answers.append(Answered(("manifest.bit-rot",), Skipped(why)))
    return answers
