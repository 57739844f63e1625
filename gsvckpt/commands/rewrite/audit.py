"""The audit of a cast, as convert-fp16 and migrate report it in JSON."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.devices.device import Audit
from gsvckpt.engine.write import Written
from gsvckpt.model import Storage, Tensor, format_path, walk
from gsvckpt.transforms.cast import Selection

_WORST = 5  # tensors named in `worst`


def audit(written: Written | None, selection: Selection, weights: Mapping[str, Tensor]) -> dict[str, object]:
    """Counts of tensors `cast`, `kept` as they are and `unchanged` in nature; what overflowed and underflowed; the errors, and the worst tensors.

    `max_rel_error` is relative to the largest value of the same tensor. `overflowed` counts values of tensors that kept their dtype, or were clamped.
    `weights` are the tensors by the names under which they are shown; `written` is None where there was nothing to do.
    """
    casts = written.plan.casts if written is not None else {}
    audits = written.audits if written is not None else {}
    overflowed = written.overflowed if written is not None else {}
    done = {storage: found for storage, found in audits.items() if storage in casts}
    total = sum(done.values(), Audit())
    names = _first_names(weights)
    ranked = sorted(done.items(), key=lambda item: item[1].max_rel_error, reverse=True)
    return {
        "cast": sum(tensor.storage in casts for tensor in selection.chosen.values()),
        "kept": len(selection.kept) + sum(tensor.storage not in casts for tensor in selection.chosen.values()),
        "unchanged": len(selection.unchanged),
        "overflowed": [{"name": names.get(storage, storage.key), "count": count} for storage, count in overflowed.items()],
        "underflowed": total.underflowed,
        "max_abs_error": total.max_abs_error,
        "max_rel_error": max((found.max_rel_error for found in done.values()), default=0.0),
        "worst": [
            {
                "name": names.get(storage, storage.key),
                "max_rel_error": found.max_rel_error,
                "max_abs_error": found.max_abs_error,
                "underflowed": found.underflowed,
                "largest": found.largest,
            }
            for storage, found in ranked[:_WORST]
            if found.max_abs_error
        ],
    }


def _first_names(weights: Mapping[str, Tensor]) -> dict[Storage, str]:
    names: dict[Storage, str] = {}
    for name, tensor in weights.items():
        names.setdefault(tensor.storage, name)
    return names


def first_name(root: object, storage: Storage) -> str:
    """The first place in a tree that refers to `storage`."""
    for path, leaf in walk(root):
        if leaf is storage or (isinstance(leaf, Tensor) and leaf.storage is storage):
            return format_path(path)
    return storage.key
