"""Check that a file with the name of an official one is that file."""

from __future__ import annotations

from gsvckpt.commands.verify.findings import Finding, Severity
from gsvckpt.sovits import official


def identify(path: str, sha256: str) -> tuple[str | None, Finding]:
    """The official name of a checkpoint that is called like one (None where it is another), and what is to be told of it.

    Another file with that name is only a note if its own checksums are right.
    """
    name, found = _match(path, sha256)
    if found is not None:
        return name, found
    file = official.named(path)[0]
    why = f"has the name of the official {file.name} but is another file: saved again, or trained further"
    return None, Finding("official.digest", "info", "file", why, "", sha256, file.sha256 or "")


def compare(path: str, sha256: str) -> tuple[str | None, Finding]:
    """The same for a file that is not a checkpoint (a model for ONNX, a config), which only its digest can identify: one that is not in the list is
    altered, incomplete or another edition.
    """
    name, found = _match(path, sha256)
    if found is not None:
        return name, found
    file = official.named(path)[0]
    severity: Severity = "error" if file.sources > 1 else "warning"
    why = f"is not the official {file.name}: altered, incomplete or another edition"
    return None, Finding("official.digest", severity, "file", why, "download it again", sha256, file.sha256 or "")


def _match(path: str, sha256: str) -> tuple[str | None, Finding | None]:
    match = next((file for file in official.named(path) if file.sha256 == sha256), None)
    if match is None:
        return None, None
    return match.name, Finding("official.digest", "info", "file", f"is the official {match.name}", found=sha256)
