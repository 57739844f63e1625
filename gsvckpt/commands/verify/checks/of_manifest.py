"""Checks of a file against its entry in a manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gsvckpt.commands.verify.findings import Finding
from gsvckpt.commands.verify.manifest import DIGESTS, ManifestEntry
from gsvckpt.files.local import same_time
from gsvckpt.hints import Hint

_RECORD = Hint("records it, if it was saved anew", "gsvckpt verify <FILE> --record")
_RESTORE = Hint("brings it back from a backup", "gsvckpt verify <FILE> --restore-from <BACKUP>")


def compare(entry: ManifestEntry, size: int, mtime_ns: int, digests: Mapping[str, str], tensors: Mapping[str, str]) -> list[Finding]:
    """What became of a recorded file. Without `digests`, size and time alone are compared and believed."""
    same_facts = size == entry.size and same_time(mtime_ns, entry.mtime_ns)
    known = comparable(entry, digests)
    if not known:
        if same_facts:
            return []
        if size != entry.size:
            facts = (f"{size:,} bytes", f"{entry.size:,} bytes")
            return [Finding("manifest.changed", "warning", "file", "differs in size from what was recorded", _RECORD, *facts)]
        facts = (_time(mtime_ns), _time(entry.mtime_ns))
        return [Finding("manifest.changed", "warning", "file", "differs in time from what was recorded", _RECORD, *facts)]
    name = known[0]
    if digests[name] == entry.digests[name]:
        return []
    altered = [tensor for tensor, digest in entry.tensors.items() if tensor in tensors and tensors[tensor] != digest]
    more = f"; altered tensors: {', '.join(altered[:3])}{f' and {len(altered) - 3:,} more' if len(altered) > 3 else ''}" if altered else ""
    if same_facts:
        why = f"its bytes changed while its size and time stayed: the disk or memory is failing{more}"
        return [Finding("manifest.bit-rot", "error", "file", why, _RESTORE, f"{name} {digests[name]}", entry.digests[name])]
    why = f"differs from what was recorded{more}"
    return [Finding("manifest.changed", "warning", "file", why, _RECORD, f"{name} {digests[name]}", entry.digests[name])]


def comparable(entry: ManifestEntry, digests: Mapping[str, str]) -> list[str]:
    """The digests of the bytes that were computed and recorded."""
    return [name for name in DIGESTS if name in digests and name in entry.digests and name != "content"]


def _time(mtime_ns: int) -> str:
    seconds, rest = divmod(mtime_ns, 1_000_000_000)
    try:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{rest:09d}"
    except (OverflowError, ValueError, OSError):
        return f"{mtime_ns} ns"


def missing(entry: ManifestEntry) -> Finding:
    """A recorded file that is missing."""
    hint = Hint(f"{_RESTORE.text}; --record --forget drops the entry", _RESTORE.command)
    return Finding("manifest.missing", "error", "file", "was recorded but is missing now", hint, "no file", f"{entry.size:,} bytes")


def new() -> Finding:
    """A file that the manifest beside it does not name."""
    return Finding("manifest.new", "info", "file", "is not in the manifest", Hint("adds it", "gsvckpt verify <FILE> --record"))


def nothing_recorded() -> Finding:
    """Nothing but the manifest was asked about, and there is none or it does not name the file."""
    return Finding("container.unsupported", "error", "file", "is in no manifest, so there is nothing to compare it with")
