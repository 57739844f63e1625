"""JSON objects that several commands share; scripts rely on these keys."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from gsvckpt.errors import GsvError, NotCheckpointError
from gsvckpt.formats.known import known_of
from gsvckpt.formats.pickle.safety import Judged, Safety, judge_all
from gsvckpt.model import Container


def container_json(container: Container) -> dict[str, object]:
    """Facts of the outer file."""
    return {
        "format": container.format,
        "head": container.head,
        "prefix": container.prefix,
        "byteorder": container.byteorder,
        "records": container.records,
        **({"metadata": metadata} if (metadata := {k: v for k, v in container.metadata.items() if not k.startswith("gsvckpt.")}) else {}),
    }


def safety_json(safety: Safety) -> dict[str, object]:
    """The verdict, each name behind it, and where readers may part, if they do."""
    doubts = {"doubts": [{"where": doubt.where, "why": doubt.why} for doubt in safety.doubts]} if safety.doubts else {}
    return {"verdict": safety.verdict, "globals": [_judged_json(judged) for judged in safety.globals], **doubts}


def _judged_json(judged: Judged) -> dict[str, object]:
    told = {"arguments": judged.arguments} if judged.called and judged.arguments else {}
    odd = {"why": judged.oddity} if judged.oddity else {}
    return {"name": judged.name, "verdict": judged.verdict, "called": judged.called, **told, **odd}


def failure_json(error: GsvError) -> dict[str, object]:
    """A file that failed: the error, the path at fault (which may be an output), and what is known all the same."""
    facts: dict[str, object] = {"path": error.path, "error": error.as_json()}
    if isinstance(error, NotCheckpointError) and error.subject:
        facts["kind"] = error.subject
    known = known_of(error)
    if known is not None:
        facts["size"] = known.size
        facts["container"] = container_json(known.container)
        found = safety_json(judge_all(known.globals, known.calls))  # of the names that could be read; there may be others, so never safe
        facts["safety"] = found if found["verdict"] == "unsafe" else {**found, "verdict": "unknown"}
    else:
        with suppress(OSError):
            status = os.stat(error.path)
            if stat.S_ISREG(status.st_mode):
                facts["size"] = status.st_size
    return facts
