"""Checks of the version that GPT-SoVITS will detect, and of names and settings that contradict the tensors."""

from __future__ import annotations

from gsvckpt.commands.verify.checks.answer import Answer, Skipped
from gsvckpt.commands.verify.findings import Finding, Severity
from gsvckpt.engine.examine import Examination
from gsvckpt.files.paths import is_url
from gsvckpt.hints import NO_HINT, Hint
from gsvckpt.sovits import upstream
from gsvckpt.sovits.training_progress import is_comparable
from gsvckpt.sovits.upstream import UpstreamError

_RESIZE = Hint("writes a copy of the size that GPT-SoVITS expects", "gsvckpt migrate <SOURCE>")


def detection(examination: Examination) -> Answer:
    """What GPT-SoVITS detects against what the tensors say, with what follows from it."""
    identity, detected = examination.identity, examination.upstream
    if not upstream.applies(identity.kind):
        return Skipped("GPT-SoVITS detects no version of such a file")
    if detected is None:
        return Skipped("GPT-SoVITS reads no safetensors files")
    texts = upstream.warnings(identity, detected, examination.rows)
    found = []
    for text in texts:
        if isinstance(detected, UpstreamError) or detected is None:
            found.append(
                Finding("version.upstream", "error", "first two bytes", text, _mend(examination), examination.checkpoint.container.head or "")
            )
            continue
        is_consequence = text is texts[-1] and (identity.version is not None or identity.versions == ("v3", "v4"))
        misread = is_consequence and upstream.misread(identity.version, examination.is_lora, detected)
        severity: Severity = "warning"
        if (misread and not _corrected(examination)) or (not misread and "size mismatch" in text):
            severity = "error"
        said = upstream.describe(detected.model, detected.lora) if misread else ""
        known = upstream.describe(identity.version, examination.is_lora) if misread else ""
        found.append(Finding("version.upstream", severity, detected.rule, text, _mend(examination) if misread else NO_HINT, said, known))
    return found


def _mend(examination: Examination) -> Hint:
    identity, container = examination.identity, examination.checkpoint.container
    base = identity.kind == "sovits-generator-base"
    wanted = upstream.head_for(identity.version, examination.is_lora, base=base)
    if container.format == "torch-zip" and container.head != wanted and identity.version is not None:
        return rewrite_head(examination.checkpoint.source.path, wanted)
    return _RESIZE if upstream.padded_size(identity.version, examination.checkpoint.source.size, base=base) is not None else NO_HINT


def rewrite_head(path: str, head: str) -> Hint:
    """A command that puts these two bytes at the front of a file."""
    return Hint("puts these two bytes at its front", f"gsvckpt migrate --head {head} {'<SOURCE>' if is_url(path) else '--in-place <FILE>'}")


def _corrected(examination: Examination) -> bool:
    """Misreadings that do not break the sound: v1 for v2, which GPT-SoVITS corrects from the tensors, and bases, which training opens by name."""
    detected, identity = examination.upstream, examination.identity
    if detected is None or isinstance(detected, UpstreamError):
        return False
    plain = identity.version in ("v1", "v2") and detected.model in ("v1", "v2") and detected.lora == examination.is_lora
    return plain or identity.kind == "sovits-generator-base"


def claims(examination: Examination) -> Answer:
    """Head, config, folder or LoRA rank that name something else than the tensors do."""
    by_name = set(examination.identity.progress.notes)
    found = [Finding("version.claims", "warning", "version", note) for note in examination.identity.notes if note not in by_name]
    return found or ([] if examination.identity.versions else Skipped("its tensors are of no known version"))


def name(examination: Examination) -> Answer:
    """A file name whose epoch or step is not the content's: renamed, or copied over another."""
    checkpoint, notes = examination.checkpoint, examination.identity.progress.notes
    hint = Hint("the content counts; rename the file")
    if not notes and not is_comparable(checkpoint.root, checkpoint.source.path, checkpoint.container.metadata):
        return Skipped("its name and its content do not both state an epoch or a step")
    return [Finding("version.name", "warning", "name", note, hint) for note in notes]
