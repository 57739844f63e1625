"""Results as JSON: the keys that scripts rely on, whatever the tables look like."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from gsvckpt.engine.examine import Examination, known_of
from gsvckpt.errors import GsvError, NotCheckpointError
from gsvckpt.formats.pickle.safety import Judged, Safety, judge_all
from gsvckpt.model import Container
from gsvckpt.sovits.upstream import UpstreamError, Verdict

if TYPE_CHECKING:
    from gsvckpt.commands.inspect.breakdown import Account


def upstream_json(verdict: Verdict | UpstreamError | None) -> dict[str, object] | None:
    """What GPT-SoVITS detects; null where its detection does not apply."""
    return None if verdict is None else verdict._asdict()


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
        facts["size"] = known.source.size
        facts["container"] = container_json(known.container)
        found = safety_json(judge_all(known.globals, known.calls))  # of the names that could be read; there may be others, so never safe
        facts["safety"] = found if found["verdict"] == "unsafe" else {**found, "verdict": "unknown"}
    else:
        with suppress(OSError):
            status = os.stat(error.path)
            if stat.S_ISREG(status.st_mode):
                facts["size"] = status.st_size
    return facts


def examination_json(examination: Examination, counted: Account) -> dict[str, object]:
    """One checkpoint as `inspect --json` shows it, without what has to be asked for."""
    identity, match = examination.identity, examination.official
    return {
        "path": examination.checkpoint.source.path,
        "size": examination.checkpoint.source.size,
        "container": container_json(examination.checkpoint.container),
        "kind": identity.kind,
        "version": identity.version,
        "version_evidence": list(identity.version_evidence),
        "upstream": upstream_json(examination.upstream),
        "warnings": list(examination.warnings),
        "progress": {"epoch": identity.progress.epoch, "step": identity.progress.step, "info": identity.progress.info},
        "lora_rank": identity.lora_rank,
        "tensors": len(examination.state),
        "parameters": sum(tensor.numel for tensor in examination.state.values()),
        "bytes": {
            "file": counted.file,
            "weights": counted.weights,
            "optimizer": counted.optimizer,
            "other": counted.other,
            "unused": counted.unused,
        },
        "dtypes": {name: {"tensors": tensors, "bytes": size} for name, (tensors, size) in counted.by_dtype.items()},
        "waste": {"duplicates": counted.duplicates, "float64": counted.float64},
        "saves": {"convert-fp16": counted.saves_fp16, "strip-optimizer": counted.saves_strip},
        "official": match.file.name if match else None,
        "official_confidence": match.confidence if match else None,
        "safety": safety_json(examination.safety),
    }
