"""Check that a file with the name of an official one is that file."""

from __future__ import annotations

from gsvckpt.commands.verify.checks.answer import Answer, Skipped
from gsvckpt.commands.verify.findings import Finding, Severity
from gsvckpt.hints import NO_HINT, Hint
from gsvckpt.sovits import official

_NOT_NAMED = Skipped("no official file has this name")
_UNREAD = Skipped("its SHA-256 was not computed")


def match(path: str, sha256: str | None) -> str | None:
    """The official file of this name and digest."""
    return next((file.name for file in official.named(path) if file.sha256 == sha256), None)


def identify(path: str, sha256: str | None) -> Answer:
    """Whether a checkpoint that is called like an official file is that file.

    Another file with that name is only a note if its own checksums are right.
    """
    named = official.named(path)
    if not named or sha256 is None:
        return _UNREAD if named else _NOT_NAMED
    if match(path, sha256) is not None:
        return [_same(path, sha256)]
    why = f"is called like the official {named[0].name} and is another: saved anew, or trained further"
    return [Finding("official.digest", "info", "file", why, NO_HINT, sha256, named[0].sha256 or "")]


def compare(path: str, sha256: str | None) -> Answer:
    """The same for a file that is not a checkpoint (a model for ONNX, a config), which only its digest can identify: one that is not in the list is
    list is altered, incomplete or another edition.

    Only gsvckpt's own list of official files vouches for one. A name, or the list of a user, which may come from where the file does, can tell that
    it is another, but never that it is sound.
    """
    named = official.named(path)
    if not named or sha256 is None:
        return _UNREAD if named else _NOT_NAMED
    if match(path, sha256) is not None:
        return [_same(path, sha256)]
    severity: Severity = "error" if named[0].sources > 1 else "warning"
    why = f"is not the official {named[0].name}: altered, incomplete or another edition"
    return [Finding("official.digest", severity, "file", why, Hint("download it again"), sha256, named[0].sha256 or "")]


def _same(path: str, sha256: str) -> Finding:
    return Finding("official.digest", "info", "file", f"is the official {match(path, sha256)}", found=sha256)
