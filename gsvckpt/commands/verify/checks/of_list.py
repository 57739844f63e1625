"""Checks of a file against its line in a checksum file, and of that file's own lines."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.commands.verify.checksum_files import ChecksumFile, Listed
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.hints import NO_HINT, Hint

_AGAIN = Hint("get the file again")


def compare(listed: Listed | None, digests: Mapping[str, str]) -> list[Finding]:
    """A file against its line, where it has one."""
    if listed is None:
        return [Finding("checksum.unlisted", "warning", "file", "has no line in the checksum file")]
    known = {name: digests[name] for name in listed.algorithms if name in digests}
    if not known or listed.digest in known.values():
        return []
    name, found = next(iter(known.items()))
    return [Finding("checksum.mismatch", "error", "file", "does not match the checksum file", _AGAIN, f"{name} {found}", listed.digest)]


def confirm(listed: Listed | None, digests: Mapping[str, str]) -> list[Finding]:
    """That a file which could not be examined is the one that its line means: a list says nothing of what a file holds."""
    name = next((name for name in listed.algorithms if digests.get(name) == listed.digest), None) if listed is not None else None
    if listed is None or name is None:
        return []
    why = "has the digest that the checksum file lists, which says nothing about its content"
    return [Finding("checksum.match", "info", "file", why, NO_HINT, f"{name} {listed.digest}", listed.digest)]


def missing(listed: Listed) -> Finding:
    """A listed file that is missing."""
    return Finding("checksum.missing", "error", "file", "is listed in the checksum file but missing", _AGAIN, "no file", listed.digest)


def malformed(file: ChecksumFile) -> list[Finding]:
    """Lines that cannot be read, as one finding."""
    if not file.malformed:
        return []
    told = ", ".join(map(str, file.malformed[:10])) + (" ..." if len(file.malformed) > 10 else "")
    return [Finding("checksum.malformed", "warning", file.path, f"lines that are no checksum lines: {told}", NO_HINT, str(len(file.malformed)), "0")]
