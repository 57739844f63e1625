"""Leave out what is lost: single tensors of the model, and whole sections of training state, which are useless in part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from gsvckpt.errors import RefusedError
from gsvckpt.model import REMOVED, Path, Storage, Tensor, format_key, storages_of
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.state_dict import keep_tensors
from gsvckpt.transforms.strip import strip


def leave_out(plan: Plan, path: Path, tensors: Mapping[str, Tensor], lost: Collection[Storage], substitutes: Mapping[object, object]) -> Plan:
    """Plan to write what is whole. `substitutes` says what takes the place of a root entry of training state; others go.

    Raises RefusedError where something is lost that is neither of the model nor an entry of the root, or where no tensor of the model is left.
    """
    names = dict.fromkeys(name for name, tensor in tensors.items() if tensor.storage in lost)  # in the order of the file
    if names and len(names) == len(tensors):
        raise RefusedError(f"not one of the model's {len(tensors):,} tensors is complete", where="--salvage", hint="get the file again")
    before = plan.changes
    plan = keep_tensors(plan, path, lambda name: name not in names, "salvage")
    plan = replace(plan, changes=(*before, *(Change("salvage", name, "damaged", "lost") for name in names)))
    root = plan.root if isinstance(plan.root, dict) else {}
    hurt = [key for key, value in root.items() if key not in path[:1] and not storages_of(value).isdisjoint(lost)]
    stripped = strip(replace(plan, changes=()), {key: substitutes.get(key, REMOVED) for key in hurt})
    told = (
        Change("salvage", change.where, "damaged", "lost" if change.after == "removed" else change.after, change.bytes) for change in stripped.changes
    )
    plan = replace(stripped, changes=(*plan.changes, *told))
    if not storages_of(plan.root).isdisjoint(lost):
        raise RefusedError(
            "something other than the model's tensors is lost, and it cannot be left out alone", where="/".join(map(format_key, path)) or "root"
        )
    return plan
