"""Checks of names, shapes and types against the layout of a version, and of the config that GPT-SoVITS reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.verify.checks.answer import Answer, Skipped
from gsvckpt.commands.verify.findings import Finding, Severity
from gsvckpt.engine.examine import Examination
from gsvckpt.errors import UsageError
from gsvckpt.hints import NO_HINT, Hint
from gsvckpt.model import Tensor
from gsvckpt.sovits import layouts, requirements
from gsvckpt.sovits.config import find_config
from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.versions import VERSIONS

_FLOATS = "float16 or float32"
_LISTED = 20  # tensors of other shape named one by one
_NAMED = 3  # names in one line


class _Manners(NamedTuple):
    """What GPT-SoVITS does about a missing and about an extra tensor; `extra_is_error` where it stops."""

    missing: str
    extra: str
    extra_is_error: bool


_STRICT = _Manners("loading stops with `Missing key(s) in state_dict`", "loading stops with `Unexpected key(s) in state_dict`", extra_is_error=True)
_SILENT = _Manners(
    "they stay random without an error, as GPT-SoVITS loads with strict=False", "they are ignored without an error", extra_is_error=False
)
_RESUMED = _Manners("they start from scratch, with only a line in the log", "they are ignored", extra_is_error=False)
_MANNERS: Mapping[Kind, _Manners] = {
    "gpt-weights": _STRICT,
    "gpt-training": _STRICT,
    "vocoder": _STRICT,
    "sovits-discriminator-base": _STRICT,
    "sovits-generator-training": _RESUMED,
    "sovits-discriminator-training": _RESUMED,
}


def require_layout(text: str) -> None:
    """Raise UsageError unless `text` is a choice of --layout."""
    choices = ("auto", "none", *VERSIONS, *layouts.names())
    if text not in choices:
        raise UsageError(f"{text!r} is not a layout", where="--layout", hint=f"layouts: {', '.join(choices)}")


def compare(examination: Examination, wanted: str = "auto") -> Answer:
    """The state dict against a layout: of the version that it is, of a version, or one by name."""
    identity, state = examination.identity, examination.state
    options = _options(examination, wanted)
    rank = identity.lora_rank or 32
    closest = layouts.closest(state, options, rank)
    if closest is None:
        return Skipped("--layout none was given" if wanted == "none" else "no reference layout of this kind and version is known")
    name, difference = closest
    manners = _MANNERS.get(identity.kind, _SILENT)
    expected = layouts.layout(name, rank)
    found = _normal(examination, name)
    if difference.missing:
        why = f"{_count(difference.missing, 'tensor')} of {name} {_are(difference.missing)} missing: {_list(difference.missing)}; {manners.missing}"
        hint = Hint("takes them from a base; better get the file again, or save it anew", "gsvckpt migrate <SOURCE> --like <BASE> --fill")
        found.append(Finding("layout.missing", "error", difference.missing[0], why, hint, f"{len(state):,} tensors", f"{len(expected):,} tensors"))
    if difference.extra:
        why = f"{_count(difference.extra, 'tensor')} {_are(difference.extra)} not part of {name}: {_list(difference.extra)}; {manners.extra}"
        severity: Severity = "error" if manners.extra_is_error else "warning"
        found.append(
            Finding("layout.extra", severity, difference.extra[0], why, found=f"{len(state):,} tensors", expected=f"{len(expected):,} tensors")
        )
    for tensor, shape, reference in difference.wrong_shape[:_LISTED]:
        why = f"has the shape {list(shape)} where {name} has {list(reference)}; loading stops with a size mismatch"
        found.append(Finding("layout.shape", "error", tensor, why, Hint("it is of another version or model"), str(list(shape)), str(list(reference))))
    if len(difference.wrong_shape) > _LISTED:
        found.append(Finding("layout.shape", "error", "tensors", f"and {len(difference.wrong_shape) - _LISTED:,} more of another shape"))
    return [*found, *_dtypes(state, expected)]


def _options(examination: Examination, wanted: str) -> tuple[str, ...]:
    identity = examination.identity
    if wanted == "none":
        return ()
    if wanted in layouts.names():
        return (wanted,)
    version = identity.version if wanted == "auto" else wanted
    kind: str = identity.kind
    if wanted != "auto" and kind in ("state-dict", "training", "unknown"):
        kind = "sovits-weights"  # somebody knows better what it is to be
    return layouts.suitable(kind, version, lora=identity.lora_rank is not None)


def _normal(examination: Examination, name: str) -> list[Finding]:
    """What users take for damage and is none: GPT-SoVITS prints long lists of missing keys (its issues 2108, 2500 and 2651)."""
    if examination.identity.kind == "sovits-lora":
        why = "holds only what training changed; GPT-SoVITS takes the rest from the base, and its long list of missing keys is no error"
        return [Finding("layout.missing", "info", name, why)]
    if name.endswith("-small"):
        why = "has no enc_q, like all weights for inference; GPT-SoVITS's list of missing enc_q keys is no error"
        return [Finding("layout.missing", "info", name, why)]
    return []


def _dtypes(state: Mapping[str, Tensor], expected: layouts.ModelLayout) -> list[Finding]:
    wrong = [name for name in expected if name in state and not state[name].dtype.floating]
    found = [
        Finding("layout.dtype", "error", name, "holds no floating-point numbers; loading rounds or fails", NO_HINT, state[name].dtype.name, _FLOATS)
        for name in wrong[:_LISTED]
    ]
    counts = Counter(state[name].dtype.name for name in expected if name in state and state[name].dtype.floating)
    if len(counts) > 1:
        told = ", ".join(f"{count:,} {dtype}" for dtype, count in counts.most_common())
        found.append(Finding("layout.dtype", "info", "tensors", f"has several types: {told}; GPT-SoVITS casts them when it loads", found=told))
    return found


def config(examination: Examination) -> Answer:
    """Fields of the embedded config that GPT-SoVITS reads."""
    kind, raw = examination.identity.kind, find_config(examination.checkpoint.root)
    if not requirements.has_config(kind):
        return Skipped("GPT-SoVITS reads no config from such a file")
    missing = requirements.missing_fields(kind, raw)
    found = []
    if missing:
        why = f"{_count(missing, 'field')} that GPT-SoVITS reads {_are(missing)} missing: {_list(missing)}; loading stops with an error"
        found.append(Finding("layout.config", "error", missing[0], why, Hint("it can be taken from another file of the same voice or version")))
    if requirements.needs_plain_dict(kind, raw):
        found.append(Finding("layout.config", "error", "config", "is an object, but GPT-SoVITS calls config.get, which only a dict has"))
    for field, said, has in requirements.wrong_sizes(kind, raw, examination.state):
        why = f"says {said!s:.40} where the tensors have {has}; loading stops with a size mismatch"
        found.append(Finding("layout.config", "error", f"config.{field}", why, NO_HINT, f"{said!s:.40}", str(has)))
    return found


def _count(names: Sequence[str], word: str) -> str:
    return f"{len(names):,} {word}" + ("" if len(names) == 1 else "s")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
