"""The checks of verify by stable id, and the findings they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.errors import UsageError
from gsvckpt.files.paths import file_words
from gsvckpt.hints import NO_HINT, Hint, quote_word

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# Ids are a promise to scripts. Each with the question that it answers.
CHECKS: Mapping[str, str] = {
    "container.kind": "Is it a checkpoint, not a web page, pointer, archive or program?",
    "container.truncated": "Is the file complete?",
    "container.unreadable": "Can every byte be read?",
    "container.changed": "Did the file stay unchanged while it was read?",
    "container.unsupported": "Does it have a form that can be examined?",
    "container.torch": "Does the zip have what torch's reader requires besides the data?",
    "container.head": "Do the programs that read it accept its first two bytes?",
    "container.header": "Is the safetensors header valid?",
    "container.library": "Does the safetensors package read the same names, types and shapes?",
    "container.directory": "Is the zip's directory sound?",
    "container.headers": "Do the zip's local headers say what its directory says?",
    "container.duplicate": "Does every record appear in the zip only once?",
    "container.overlap": "Are all records separate, without overlap?",
    "container.range": "Do all records lie inside the file?",
    "container.compressed": "Are all records stored uncompressed?",
    "container.encrypted": "Are all records unencrypted?",
    "container.gap": "Does every byte belong to something?",
    "container.trailing": "Does the file end where the checkpoint ends?",
    "record.crc": "Does every record have its checksum?",
    "pickle.safety": "Is the file free of names that could run code?",
    "pickle.encoding": "Is every pickle spelled as known picklers spell it, so that all readers read the same?",
    "pickle.damaged": "Can the pickle be read to its end?",
    "pickle.bomb": "Does the pickle need no more memory than an honest one?",
    "tensor.bounds": "Does every tensor lie inside its storage, and need no more memory than the file justifies?",
    "tensor.finite": "Are all weights numbers, without NaN and infinity?",
    "tensor.range": "Would all float32 weights fit into float16?",
    "layout.missing": "Are all tensors of this version there?",
    "layout.extra": "Are there no other tensors?",
    "layout.shape": "Does every tensor have the right shape?",
    "layout.dtype": "Does every tensor have a type that GPT-SoVITS can load?",
    "layout.config": "Does the config have all fields that GPT-SoVITS reads?",
    "version.upstream": "Will GPT-SoVITS detect its version correctly?",
    "version.claims": "Do head, config and folder name the version that the tensors have?",
    "version.name": "Does the file's name say the epoch and step that it holds?",
    "readers.gpt-sovits": "Does GPT-SoVITS's inference take the file?",
    "readers.gsv-tts-lite": "Does GSV-TTS-Lite take the file?",
    "readers.genie-tts": "Does Genie-TTS convert the file?",
    "official.digest": "Is a file with an official name the official file?",
    "resume.file": "Is there a file to resume from, and which?",
    "resume.keys": "Does it have all entries that resuming needs?",
    "resume.optimizer": "Does its optimizer state fit the model?",
    "resume.pair": "Do G and D come from the same epoch?",
    "resume.stale": "Is the file from which GPT-SoVITS resumes the newest one?",
    "resume.lightning": "Will today's pytorch-lightning open it?",
    "resume.finished": "Are there epochs left to train?",
    "manifest.bit-rot": "Do files with the recorded size and time still have the recorded bytes?",
    "manifest.changed": "Are files still what was recorded?",
    "manifest.missing": "Are all recorded files there?",
    "manifest.new": "Are all files recorded?",
    "checksum.mismatch": "Do files have the digests that a checksum file lists?",
    "checksum.match": "Does a file that could not be examined have the digest that a checksum file lists?",
    "checksum.missing": "Are all listed files there?",
    "checksum.unlisted": "Are all files listed?",
    "checksum.malformed": "Can every line of the checksum file be read?",
    "against.missing": "Does the file have all tensors of the other one?",
    "against.extra": "Does it have no other tensors?",
    "against.shape": "Are all shapes the same?",
    "against.dtype": "Are all types the same?",
    "against.values": "Are all values the same, up to a change of type?",
}

# Findings of these say that the bytes are not what was saved; others may come from a file that is whole.
DAMAGE = ("container.*", "record.*", "pickle.damaged", "pickle.bomb", "tensor.bounds", "tensor.finite", "manifest.*", "checksum.*", "official.*")
UNCHECKED = frozenset({"container.changed", "container.unsupported", "container.compressed", "container.encrypted"})
LEFT_OUT = "--checks leaves it out"  # why a check was skipped


class Finding(NamedTuple):
    """One thing that a check found: `why` says it in a sentence, `found` and `expected` as short values where there are such."""

    check: str
    severity: Severity
    where: str
    why: str
    hint: Hint = NO_HINT
    found: str = ""
    expected: str = ""

    def as_json(self) -> dict[str, object]:
        """An object of `findings` in the JSON document."""
        return {**self._asdict(), "hint": self.hint.as_json()}


def name_file(finding: Finding, path: str) -> Finding:
    """The finding with the file's name in the command of its hint, so that it can be pasted."""
    return finding._replace(hint=finding.hint.fill(file_words(path)))


def name_copies(finding: Finding, folder: str) -> Finding:
    """The finding with a hint that says where copies are."""
    return finding._replace(hint=finding.hint.fill({"<BACKUP>": quote_word(folder)}))


def select_checks(text: str | None) -> frozenset[str]:
    """The ids that a list like `container,tensor.finite` or `*,-layout` means: ids, their first parts, or globs; a minus takes away.

    Raises UsageError for a word that means none.
    """
    chosen: set[str] = set()
    words = [word.strip() for word in ("*" if text is None else text).split(",") if word.strip()]
    if words and words[0].startswith("-"):
        chosen = set(CHECKS)
    for word in words:
        meant = matching_checks(word.removeprefix("-"))
        if not meant:
            raise UsageError(f"there is no check {word!r}", where="--checks", hint=f"checks: {', '.join(dict.fromkeys(map(family, CHECKS)))}, or ids")
        chosen = chosen - meant if word.startswith("-") else chosen | meant
    if not chosen:
        raise UsageError("leaves no check", where="--checks")
    return frozenset(chosen)


def matching_checks(word: str) -> set[str]:
    """The ids that one word means."""
    return {check for check in CHECKS if word in (check, family(check)) or fnmatchcase(check, word)}


def family(check: str) -> str:
    """The first part of an id."""
    return check.partition(".")[0]


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The highest severity; None where there is no finding."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)


def is_damage(check: str) -> bool:
    """Whether an error of this check means that bytes are lost or altered."""
    return any(fnmatchcase(check, glob) for glob in DAMAGE)


def is_unchecked(findings: Iterable[Finding]) -> bool:
    """Whether the file could not be examined, so that it is unknown whether it is sound."""
    return any(finding.check in UNCHECKED and finding.severity == "error" for finding in findings)
