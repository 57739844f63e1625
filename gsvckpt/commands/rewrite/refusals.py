"""Refuse sources that are dangerous to rewrite, and outputs that GPT-SoVITS would misread."""

from __future__ import annotations

import os

from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.engine.examine import Examination, match_official
from gsvckpt.engine.open import refuse_ambiguous
from gsvckpt.errors import RefusedError, UnsupportedError, UsageError
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.formats.torch_distributed import gather
from gsvckpt.sovits import layouts, upstream
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import split_sections
from gsvckpt.sovits.upstream import Detection, UpstreamError
from gsvckpt.transforms.plan import Plan

_INSIST = "--force insists"
_OVER_BASE = "--over-base writes into a copy of the official s2Gv4.pth, which GPT-SoVITS knows by its first bytes; "
_ANYBODYS = ("state-dict", "training", "unknown")  # kinds of which nobody knows who reads them
_PUBLISHED = ("gpt-weights", "sovits-generator-base", "sovits-discriminator-base", "vocoder", "speaker-encoder")  # kinds with official files


def refuse_source(examination: Examination, destination: Destination) -> None:
    if destination.in_place and examination.checkpoint.container.shards:
        raise RefusedError("is a checkpoint in several files, which cannot be replaced in one step", hint="write a copy with -o PATH")
    if examination.checkpoint.container.format == "torch-distributed":
        path = examination.checkpoint.source.path
        raise UnsupportedError("its tensors lie in parts, which gsvckpt does not gather", path=path, hint=gather(path))
    refuse_ambiguous(examination.checkpoint)
    if destination.force:
        return
    refuse_code(examination.safety)
    if not destination.in_place:
        return
    match = match_official(examination.checkpoint.source, thorough=examination.identity.kind in _PUBLISHED)
    if match is not None:
        raise RefusedError(
            f"is the official {match.file.name}; GPT-SoVITS knows it by its exact bytes, and would take a rewritten one for another version",
            hint=f"write a copy with -o PATH; {_INSIST}",
        )


def refuse_code(safety: Safety) -> None:
    if safety.verdict == "unsafe":
        names = ", ".join(map(str, safety.of("unsafe")))
        raise RefusedError(f"holds code that would run when it is loaded ({names})", hint=f"do not load this file; {_INSIST} and writes it back")


def refuse_name(plan: Plan, source: str, output: str) -> None:
    """The output's name must not promise another container: programs choose their reader by it."""
    wanted = os.path.splitext(output)[1].lower()
    if plan.shard_size is not None:
        return
    same = wanted == os.path.splitext(source)[1].lower() and plan.container == plan.checkpoint.container.format
    if not same and (wanted == ".safetensors") != (plan.container == "safetensors"):
        hint = "--to torch makes one of that name" if plan.container == "safetensors" else "--to safetensors makes one of that name"
        raise UsageError(f"{output} would hold a {plan.container} file", where="--output", hint=hint)


def refuse_incomplete(examination: Examination, planned: Planned, destination: Destination) -> None:
    """Refuse an output that lacks tensors which GPT-SoVITS needs and the source has: S1 stops there, S2 leaves them random without a word."""
    identity, is_anothers = planned.identity, planned.program and planned.plan.container == "safetensors"  # which GPT-SoVITS never opens
    if destination.force or is_anothers or not planned.keeps_all or planned.plan.root is examination.checkpoint.root:
        return
    if layouts.suitable(identity.kind, identity.version) == ():
        identity = examination.identity
    after = split_sections(planned.plan.root).tensors
    options = layouts.suitable(identity.kind, identity.version, lora=identity.lora_rank is not None)
    found = layouts.closest(after, options, identity.lora_rank or 32)
    if found is None or not (found[1].missing or found[1].wrong_shape):
        return
    had = layouts.compare(examination.state, layouts.layout(found[0], identity.lora_rank or 32))
    lost = [name for name in found[1].missing if name not in had.missing]
    if lost:
        stops = identity.family == "gpt"
        what = "would stop at it with a KeyError" if stops else "would load it without complaint and leave those random"
        raise RefusedError(f"would lack {len(lost):,} tensors that GPT-SoVITS needs, the first {lost[0]}; it {what}", hint=_INSIST)


def refuse_head(identity: Identity, plan: Plan, destination: Destination) -> None:
    """Refuse a head on files whose readers do not mend it: training then starts over in silence, and torch.load says `stack underflow`."""
    suits = upstream.applies(identity.kind) and identity.kind != "sovits-generator-base"
    is_new = plan.head != (plan.checkpoint.container.head or "PK")
    if plan.container == "torch-zip" and plan.head != "PK" and is_new and not suits and identity.kind not in _ANYBODYS and not destination.force:
        raise RefusedError(
            f"a {identity.kind} with the head {plan.head} cannot be read by any program: only weights for inference have such heads", hint=_INSIST
        )


def refuse_layout(examination: Examination, planned: Planned, layout: Layout, destination: Destination) -> None:
    """Refuse a file that GPT-SoVITS would take for another version, where it did not take the source for one."""
    if planned.complete and not destination.force:
        detected = foresee(planned, layout)
        _refuse_misreading(examination, planned.identity, detected, is_merge=bool(planned.plan.products))
        _refuse_base(examination, planned, layout.size)


def foresee(planned: Planned, layout: Layout) -> Detection | UpstreamError | None:
    """What GPT-SoVITS will say; None for files that it does not open, as it opens no safetensors files."""
    if planned.plan.container == "safetensors" or not upstream.applies(planned.identity.kind):
        return None
    return upstream.detect(layout.first(upstream.HEADER_SIZE), layout.size)


def _refuse_misreading(examination: Examination, identity: Identity, after: Detection | UpstreamError | None, *, is_merge: bool) -> None:
    before = examination.upstream if identity.kind == examination.identity.kind else None  # of another kind nothing was said before
    lora = identity.kind == "sovits-lora"
    is_pro_base = identity.kind == "sovits-generator-base" and identity.version in ("v2Pro", "v2ProPlus")
    if is_pro_base and before is not None and upstream.misread(identity.version, lora, before):
        return  # training reads a base without any detection, and inference misreads this one already
    reason = upstream.judge(identity.version, lora, before, after)
    if reason is not None:
        consequence = upstream.warnings(identity, after, None)
        raise RefusedError(
            f"{reason}{': ' + consequence[-1] if consequence else ''}", hint=f"{_OVER_BASE if is_merge and identity.version == 'v4' else ''}{_INSIST}"
        )


def _refuse_base(examination: Examination, planned: Planned, size: int) -> None:
    """Refuse a base that the preparation of the data would take for another version, where it did not take the source for one."""
    reason, checkpoint = foresee_base(planned, size), examination.checkpoint
    before = _misread_base(examination.identity, checkpoint.container.format, checkpoint.container.head, checkpoint.source.size)
    if reason is not None and before is None:
        raise RefusedError(reason, hint=_INSIST)


def foresee_base(planned: Planned, size: int) -> str | None:
    """Why the preparation of the data would take this base for another version, if it would."""
    return _misread_base(planned.identity, planned.plan.container, planned.plan.head, size)


def _misread_base(identity: Identity, container: str, head: str | None, size: int) -> str | None:
    is_read = identity.kind == "sovits-generator-base" and container == "torch-zip" and head == "PK"
    return upstream.misread_base(identity.version, size) if is_read else None
