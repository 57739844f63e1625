"""Remove what only training needs. Every tensor that stays keeps its exact bytes, because nothing is cast."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from gsvckpt.model import REMOVED, state_dict_metadata, storages_of
from gsvckpt.transforms.plan import Change, Plan


def strip(plan: Plan, keys: Mapping[object, object]) -> Plan:
    """Plan to take `keys` out of the root: each becomes the given value, or goes when that is REMOVED. Keys that are not there are passed over.

    `Change.bytes` counts the storages that nothing else refers to any more.
    """
    root = plan.root
    if not isinstance(root, dict):
        return plan
    present = {key: value for key, value in keys.items() if key in root and not (value is not REMOVED and root[key] == value)}
    if not present:
        return plan
    kept: dict[object, object] = OrderedDict() if isinstance(root, OrderedDict) else {}
    for key, value in root.items():
        if key not in present:
            kept[key] = value
        elif present[key] is not REMOVED:
            kept[key] = present[key]
    metadata = state_dict_metadata(root)
    if metadata is not None:
        kept._metadata = metadata  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own attribute; only an OrderedDict has it
    alive = storages_of(kept)
    changes = []
    for key, value in present.items():
        gone = storages_of(root[key]) - alive
        alive |= gone  # counted once, for the first key that held it
        changes.append(Change("strip", str(key), "present", "removed" if value is REMOVED else repr(value), sum(s.nbytes for s in gone)))
    return replace(plan, root=kept, changes=(*plan.changes, *changes))
