"""The result for one rewritten file, and its JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.engine.placement import Computed
from gsvckpt.sovits.upstream import Detection, UpstreamError


class Rewritten(NamedTuple):
    """A plain value. `output` is None where nothing was to be written; `notes` say why it stands where it does; `details` are the command's own keys
    in JSON; `overflowed` counts the storages with values beyond the dtype that they were to have.
    """

    source: str
    output: str | None
    changed: bool
    rehearsed: bool
    keeps_all: bool
    bytes_before: int
    bytes_after: int
    upstream_before: Detection | UpstreamError | None
    upstream_after: Detection | UpstreamError | None
    warnings: tuple[str, ...]
    details: Mapping[str, object]
    overflowed: int = 0
    computed: Computed | None = None
    notes: tuple[str, ...] = ()


def as_json(done: Rewritten) -> dict[str, object]:
    """One file of the JSON document."""
    return {
        "source": done.source,
        "output": done.output,
        "changed": done.changed,
        "written": done.output is not None and not done.rehearsed,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "upstream_before": _upstream_json(done.upstream_before),
        "upstream_after": _upstream_json(done.upstream_after),
        "warnings": list(done.warnings),
        "notes": list(done.notes),
        **done.details,
    }


def _upstream_json(detected: Detection | UpstreamError | None) -> dict[str, object] | None:
    """What GPT-SoVITS detects; null where its detection does not apply."""
    return None if detected is None else detected._asdict()
