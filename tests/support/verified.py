"""verify for tests: files from bytes or literals, and what is found in them."""

from __future__ import annotations

from pathlib import Path

from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.commands.verify.result import Expected, Options, Verification

EVERYTHING = Options()


def verify(path: Path, data: bytes | None = None, options: Options = EVERYTHING, expected: Expected | None = None) -> Verification:
    """Verify a file, written first where `data` is given."""
    if data is not None:
        path.write_bytes(data)
    return verify_file(str(path), options, expected)


def remarkable(result: Verification) -> list[Finding]:
    """Findings at warning or above."""
    return [finding for finding in result.findings if finding.severity != "info"]


def ids(result: Verification) -> set[str]:
    """The checks of the remarkable findings."""
    return {finding.check for finding in remarkable(result)}
