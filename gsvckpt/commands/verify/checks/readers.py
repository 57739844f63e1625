"""For information: whether GPT-SoVITS and other programs take a file for inference."""

from __future__ import annotations

from gsvckpt.commands.verify.checks.answer import Answer, Skipped
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.readers import find_readers
from gsvckpt.sovits.runtimes import VERSIONS, Runtime

_MADE_FOR_IT = ("gpt-weights", "sovits-weights", "sovits-lora")


def reader(examination: Examination, check: str, runtime: Runtime) -> Answer:
    """What one program makes of weights; of other files nobody expects that it takes them."""
    if examination.identity.kind not in _MADE_FOR_IT:
        return Skipped("only weights for inference are meant for it")
    found = next(one for one in find_readers(examination) if one.runtime == runtime and one.role in ("inference", "conversion"))
    said = f"{runtime} {VERSIONS[runtime]}" if runtime != "GPT-SoVITS" else runtime
    return [] if found.takes else [Finding(check, "info", found.role, f"{said} does not take it: {found.why}")]
