"""Which programs take an examined file: its facts for the rules of each."""

from __future__ import annotations

from gsvckpt.engine.examine import Examination
from gsvckpt.formats.pickle.weights_only import is_allowed
from gsvckpt.sovits.config import find_config, lookup
from gsvckpt.sovits.runtimes import COMPLETE, EQUAL, RunsIn, RuntimeFacts, runs_in, shapes_digest
from gsvckpt.sovits.upstream import Detection, correct

_SOVITS = ("sovits-weights", "sovits-lora", "sovits-generator-base")


def find_readers(examination: Examination) -> tuple[RunsIn, ...]:
    """What each program makes of the file; nothing for files that are not GPT-SoVITS's. No tensor bytes are read."""
    identity, checkpoint = examination.identity, examination.checkpoint
    detected = examination.upstream
    config = find_config(checkpoint.root)
    told = lookup(config, "model", "version")
    missing, is_full = _complete(examination)
    is_gpt = identity.kind == "gpt-weights"
    return runs_in(
        RuntimeFacts(
            identity.kind,
            identity.version,
            identity.lora_rank is not None,
            checkpoint.container.format,
            checkpoint.container.head,
            checkpoint.source.size,
            correct(detected, examination.rows) if isinstance(detected, Detection) and identity.kind in _SOVITS else detected,
            frozenset(str(key) for key in checkpoint.root) if isinstance(checkpoint.root, dict) else frozenset(),
            missing,
            is_full,
            told if isinstance(told, str) else None,
            not is_gpt or all(map(is_allowed, checkpoint.globals)),
            not is_gpt or lookup(config, "inference", "top_k") is not None,
            checkpoint.container.refused,
        )
    )


def _complete(examination: Examination) -> tuple[str, bool]:
    """Which tensors of the network are missing, as a sentence, and whether it has the part that only training needs. GPT's is loaded strictly."""
    identity, state = examination.identity, examination.state
    found = COMPLETE.get(shapes_digest({name: tensor.shape for name, tensor in state.items()}))
    version = identity.version or (identity.versions or ("",))[0]
    lora = identity.lora_rank is not None
    options = _layouts(identity.kind, version, lora=lora)
    if found is not None and found in {EQUAL.get(name, name) for name in options}:
        return "", not found.endswith("-small")
    from gsvckpt.sovits import layouts  # reading them takes 12 ms, and most files are complete

    closest = layouts.closest(state, options, identity.lora_rank or 32)
    if closest is None:
        return "", False
    name, difference = closest
    if difference.wrong_shape:
        wrong, shape, expected = difference.wrong_shape[0]
        return f"{wrong} has shape {list(shape)} where {list(expected)} is expected", False
    if difference.missing:
        return f"it lacks {len(difference.missing):,} tensors, the first {difference.missing[0]}", False
    if difference.extra and identity.kind.startswith("gpt-"):
        return f"it has {len(difference.extra):,} tensors besides, the first {difference.extra[0]}", False
    return "", not name.endswith("-small")


def _layouts(kind: str, version: str, *, lora: bool) -> tuple[str, ...]:
    """The layouts that a complete file of this kind and version has: of an inference file, with and without enc_q."""
    if kind in ("gpt-weights", "gpt-training"):
        return ("gpt-v1" if version == "v1" else "gpt-v2",)
    if kind == "sovits-lora":
        return (f"lora-{version}",)
    if kind == "sovits-discriminator-training":
        return (f"discriminator-{version}",) if version else ("discriminator-v2", "discriminator-v2Pro")
    if kind == "sovits-generator-training":
        return (f"lora-training-{version}" if lora else f"sovits-{version}",)
    if kind in ("sovits-weights", "sovits-generator-base"):
        return (f"sovits-{version}",) if version in ("v3", "v4") else (f"sovits-{version}", f"sovits-{version}-small")
    return ()
