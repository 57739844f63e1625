"""Compare what was written with what was meant: the tree leaf by leaf, and what the readers of other programs find."""

from __future__ import annotations

from gsvckpt.dtypes import UNTYPED
from gsvckpt.errors import DamagedError
from gsvckpt.files.local import LocalSource
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.model import Source, Storage, Tensor
from gsvckpt.transforms.plan import Plan


def difference(plan: Plan, root: object, twins: dict[Storage, Storage]) -> str | None:
    """The first place where a tree that was read differs from the plan; `twins` is filled with which storage became which."""
    return first_difference(plan.root, root, lambda one, two: _same_leaf(plan, one, two, twins))


def _same_leaf(plan: Plan, one: Tensor | Storage, two: Tensor | Storage, twins: dict[Storage, Storage]) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if (one.shape, one.stride, one.start, one.requires_grad) != (two.shape, two.stride, two.start, two.requires_grad):
            return False
        if one.storage.dtype is UNTYPED and one.dtype is not two.dtype:
            return False
        one, two = one.storage, two.storage
    if not isinstance(one, Storage) or not isinstance(two, Storage):
        return False
    same = (plan.dtype_of(one), one.numel, one.location) == (two.dtype, two.numel, two.location)
    return same and twins.setdefault(one, two) is two


def ask_library(plan: Plan, source: Source) -> None:
    """Raise DamagedError where the safetensors package reads what was written otherwise than it is meant."""
    if plan.container == "safetensors" and isinstance(source, LocalSource):
        from gsvckpt.formats.safetensors import find_disagreement  # no other container needs it

        disagreement = find_disagreement(source)
        if disagreement:
            raise DamagedError(disagreement, where="header")
