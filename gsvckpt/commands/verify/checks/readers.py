"""For information: whether GPT-SoVITS and other programs take a file for inference."""

from __future__ import annotations

from collections.abc import Collection

from gsvckpt.commands.verify.checks.answer import Answer, Skipped
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.engine.examine import Examination
from gsvckpt.engine.readers import find_readers
from gsvckpt.sovits.runtimes import VERSIONS, Runtime

CHECKS = {"GPT-SoVITS": "readers.gpt-sovits", "GSV-TTS-Lite": "readers.gsv-tts-lite", "Genie-TTS": "readers.genie-tts"}
_MADE_FOR_THEM = ("gpt-weights", "sovits-weights", "sovits-lora")


def readers(examination: Examination, selected: Collection[str]) -> Answer:
    """The programs that do not take weights, of those that were `selected`; of other files nobody expects that they are taken."""
    if examination.identity.kind not in _MADE_FOR_THEM:
        return Skipped("only weights for inference are meant for these programs")
    return [
        Finding(check, "info", found.role, f"{_name(found.runtime)} does not take it: {found.why}")
        for found in find_readers(examination)
        if found.role in ("inference", "conversion") and not found.takes and (check := CHECKS[found.runtime]) in selected
    ]


def _name(runtime: Runtime) -> str:
    return runtime if runtime == "GPT-SoVITS" else f"{runtime} {VERSIONS[runtime]}"  # upstream has no versions that users know
