"""Check that a checkpoint has the same tensors as another one, in any container, up to a change of type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.commands.verify.checks import tensors
from gsvckpt.commands.verify.findings import Finding, Severity, worst
from gsvckpt.dtypes import DType
from gsvckpt.engine.difference import count_differences
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, UnsupportedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import Buffers, check_unchanged, for_each
from gsvckpt.hints import NO_HINT
from gsvckpt.model import Tensor

_LISTED = 20
_NAMED = 3


class _Counterpart(NamedTuple):
    """A tensor of the one and its counterpart in the other."""

    name: str
    nbytes: int


def compare_with(examination: Examination, other: str, jobs: int, progress: Progress) -> list[Finding]:
    """What differs from the checkpoint at `other`. Where the two cannot be compared, one `container.unsupported` finding says why."""
    try:
        with open_checkpoint(other) as checkpoint:
            other_one = examine(checkpoint)
            for side in (examination, other_one):
                if tensors.overclaiming(side.state, side.checkpoint.source.size):
                    raise UnsupportedError("claims more than it has", where="tensors", check="tensor.bounds")
            return _compare(examination, other_one, jobs, progress)
    except GsvError as error:
        where = f"{other}: {error.where}" if error.where else other
        return [Finding("container.unsupported", "error", where, f"cannot be compared with it: {error.why}", error.hint)]


def _compare(one: Examination, other: Examination, jobs: int, progress: Progress) -> list[Finding]:
    """Compare the models. Names, shapes and values must be the same; a change of type is told of, and values are then compared after rounding.
    Where nothing differs, a finding for information says so.

    Weights for inference lack enc_q, which is no difference. Raises DamagedError and ChangedError as reading does.
    """
    mine, theirs = one.state, other.state
    where = other.checkpoint.source.path
    found: list[Finding] = []
    missing = [name for name in theirs if name not in mine]
    normal = one.identity.kind in ("sovits-weights", "sovits-lora") and all("enc_q" in name for name in missing)
    if missing:
        why = f"{len(missing):,} tensors of {where} are not in it: {_names(missing)}"
        severity: Severity = "info" if normal else "error"
        found.append(Finding("against.missing", severity, missing[0], why + ("; weights for inference never have them" if normal else "")))
    extra = [name for name in mine if name not in theirs]
    if extra:
        found.append(Finding("against.extra", "error", extra[0], f"{len(extra):,} tensors are not in {where}: {_names(extra)}"))
    both = [name for name in theirs if name in mine]
    reshaped = [name for name in both if mine[name].shape != theirs[name].shape]
    found += [
        Finding("against.shape", "error", name, "has another shape", NO_HINT, str(list(mine[name].shape)), str(list(theirs[name].shape)))
        for name in reshaped[:_LISTED]
    ]
    found += _changed_types({name: (mine[name], theirs[name]) for name in both})
    pairs = [_Counterpart(name, mine[name].nbytes + theirs[name].nbytes) for name in both if mine[name].shape == theirs[name].shape]
    progress.expect(sum(pair.nbytes for pair in pairs))

    def differs(pair: _Counterpart, buffers: Buffers) -> int:
        return count_differences(mine[pair.name], theirs[pair.name], pair.nbytes, buffers)

    counted = {pair.name: count for pair, count in for_each(pairs, differs, jobs=jobs, progress=progress).items() if count}
    check_unchanged([one.checkpoint.source, other.checkpoint.source])
    found += [
        Finding("against.values", "error", name, f"{count:,} of {mine[name].numel:,} values differ", NO_HINT, f"{count:,} values", "0")
        for name, count in list(counted.items())[:_LISTED]
    ]
    if len(counted) > _LISTED:
        found.append(Finding("against.values", "error", "tensors", f"and {len(counted) - _LISTED:,} more tensors with other values"))
    if both and worst(found) != "error":
        found.append(Finding("against.values", "info", "tensors", _say_equal(len(both), where, found)))
    return found


def _say_equal(count: int, where: str, found: list[Finding]) -> str:
    said = "its one tensor" if count == 1 else f"all of its {count:,} tensors"
    is_cast = any(finding.check == "against.dtype" for finding in found)
    return f"the same as {where}: {said}, by name, shape{' and value, up to the change of type' if is_cast else ', type and value'}"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _changed_types(both: Mapping[str, tuple[Tensor, Tensor]]) -> list[Finding]:
    """One finding for each change of type, an error unless both are floating."""
    changes: dict[tuple[DType, DType], list[str]] = {}
    for name, (mine, theirs) in both.items():
        if mine.dtype is not theirs.dtype:
            changes.setdefault((mine.dtype, theirs.dtype), []).append(name)
    return [
        Finding(
            "against.dtype",
            "info" if mine.floating and theirs.floating else "error",
            names[0],
            f"{len(names):,} tensors are {mine.name} where the other has {theirs.name}; their values are compared after rounding",
            found=mine.name,
            expected=theirs.name,
        )
        for (mine, theirs), names in changes.items()
    ]
