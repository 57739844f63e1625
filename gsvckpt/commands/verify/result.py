"""The options of verify, and its result for one file: plain values that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from gsvckpt.commands.verify.checks import containers, resume
from gsvckpt.commands.verify.checksum_files import Listed
from gsvckpt.commands.verify.findings import CHECKS, Finding, is_damage, worst
from gsvckpt.commands.verify.manifest import ManifestEntry
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.sovits.config import Plain

Status = Literal["sound", "damaged", "unsafe", "suspect", "unchecked"]


class Options(NamedTuple):
    """What to check. `digests` are wanted in any case; `tensors` asks for one of each tensor, `config` for the embedded config, `resume` for what
    resuming needs.
    """

    checks: frozenset[str] = frozenset(CHECKS)
    quick: bool = False
    layout: str = "auto"
    against: str | None = None
    digests: frozenset[str] = frozenset({"xxh3_128", "content"})
    tensors: bool = False
    config: bool = False
    resume: bool = False


class Expected(NamedTuple):
    """What is known of a file from elsewhere: its manifest's entry, whether that manifest is there at all, its line in a checksum file.

    `part` says that it is one shard of a checkpoint, whose names and shapes are looked at as those of the whole.
    """

    entry: ManifestEntry | None = None
    recorded: bool = False
    listed: Listed | None = None
    lists: bool = False
    part: bool = False


class Verification(NamedTuple):
    """The result for one file, or for something that should be one. `error` is why it could not be opened at all."""

    path: str
    status: Status
    findings: tuple[Finding, ...]
    size: int = 0
    mtime_ns: int = 0
    kind: str | None = None
    version: str | None = None
    epoch: int | None = None
    step: int | None = None
    safety: Safety = Safety("unknown")
    digests: Mapping[str, str] = {}
    tensors: Mapping[str, str] = {}
    config: Plain = None
    resume: resume.ResumeState | None = None
    error: Mapping[str, str] | None = None
    official: str | None = None

    @property
    def intact(self) -> bool:
        """Whether it was read completely and has no errors, so that it can be kept as a good copy."""
        return bool(self.digests) and self.status in ("sound", "suspect") and worst(self.findings) != "error"


def failed(path: str, error: GsvError, *findings: Finding) -> Verification:
    """The result for a file that is missing or cannot be read."""
    return Verification(path, "unchecked", findings, error=error.as_json())


def failure_of(result: Verification) -> GsvError | None:
    """Why the file could not be opened; None where it could."""
    error = result.error
    return MissingError(error["why"], where=error["where"], hint=error["hint"], path=result.path) if error is not None else None


def judge(findings: tuple[Finding, ...], safety: Safety) -> Status:
    """The status that findings come to. What could not be examined is never sound."""
    if safety.verdict == "unsafe":
        return "unsafe"
    if containers.is_unchecked(findings):
        return "unchecked"
    if any(finding.severity == "error" and is_damage(finding.check) for finding in findings):
        return "damaged"
    return "sound" if worst(findings) in (None, "info") else "suspect"
