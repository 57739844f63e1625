"""The options of verify, and its result for one file: plain values that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from gsvckpt.commands.verify.checks.resume import ResumeState, Resumption
from gsvckpt.commands.verify.checksum_files import Listed
from gsvckpt.commands.verify.findings import CHECKS, SEVERITIES, Finding, Severity, is_damage, is_unchecked, worst
from gsvckpt.commands.verify.manifest import ManifestEntry
from gsvckpt.errors import ErrorJson, GsvError, MissingError
from gsvckpt.files.progress import Progress
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.hints import Hint
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


class Asked(NamedTuple):
    """What is asked of one file, and with how many threads it may be read."""

    options: Options
    expected: Expected
    jobs: int
    progress: Progress

    def wants(self, *globs: str) -> bool:
        """Whether any check of these was selected."""
        return any(fnmatchcase(check, glob) for check in self.options.checks for glob in globs)


class Checks(NamedTuple):
    """What became of every check: each id stands in one of the three, of the skipped ones with the reason."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    skipped: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """The `checks` object of one file in the JSON document, and in SARIF."""
        return {"passed": list(self.passed), "failed": list(self.failed), "skipped": dict(self.skipped)}


class Verification(NamedTuple):
    """The result for one file, or for something that should be one. `error` is why it could not be opened at all; `skipped` are the checks that were
    not made, each with the reason.
    """

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
    resume: ResumeState | None = None
    resumption: Resumption | None = None
    error: ErrorJson | None = None
    official: str | None = None
    skipped: Mapping[str, str] = {}

    @property
    def intact(self) -> bool:
        """Whether it was read completely and has no errors, so that it can be kept as a good copy."""
        return bool(self.digests) and self.status in ("sound", "suspect") and worst(self.findings) != "error"

    def checks(self, fail_on: Severity = "error") -> Checks:
        """What became of every check. One with a finding of at least this severity failed."""
        limit = SEVERITIES.index(fail_on)
        failed = {finding.check for finding in self.findings if SEVERITIES.index(finding.severity) <= limit}
        passed = tuple(check for check in CHECKS if check not in failed and check not in self.skipped)
        skipped = {check: self.skipped[check] for check in CHECKS if check in self.skipped and check not in failed}
        return Checks(passed, tuple(check for check in CHECKS if check in failed), skipped)


def failed(path: str, error: GsvError, *findings: Finding) -> Verification:
    """The result for a file that is missing or cannot be read."""
    return Verification(
        path, "unchecked", findings, error=error.as_json(), skipped=dict.fromkeys(CHECKS, f"the file could not be opened: {error.why}")
    )


def only(made: str, why: str) -> dict[str, str]:
    """All checks but those whose id begins with `made` as skipped, for the reason `why`."""
    return {check: why for check in CHECKS if not check.startswith(made)}


def failure_of(result: Verification) -> GsvError | None:
    """Why the file could not be opened; None where it could."""
    error = result.error
    return MissingError(error["why"], where=error["where"], hint=Hint(**error["hint"]), path=result.path) if error is not None else None


def judge(findings: tuple[Finding, ...], safety: Safety) -> Status:
    """The status that findings come to. What could not be examined is never sound."""
    if safety.verdict == "unsafe":
        return "unsafe"
    if is_unchecked(findings):
        return "unchecked"
    if any(finding.severity == "error" and is_damage(finding.check) for finding in findings):
        return "damaged"
    return "sound" if worst(findings) in (None, "info") else "suspect"
