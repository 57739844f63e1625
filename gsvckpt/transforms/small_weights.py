"""Make from a training file the small weights that GPT-SoVITS would have saved at that moment (process_ckpt.py:41-60, s1_train.py:62-81)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES
from gsvckpt.model import Tensor
from gsvckpt.transforms.cast import cast
from gsvckpt.transforms.plan import Change, Plan


class SmallWeights(NamedTuple):
    """What small weights hold. `ordered`: GPT's `weight` is an OrderedDict, that of SoVITS a dict."""

    weights: Mapping[str, Tensor]
    config: object
    info: str
    rank: int | None = None
    ordered: bool = False
    head: str = "PK"


def to_inference(plan: Plan, small: SmallWeights, before: int, *, clamp: bool = False) -> Plan:
    """Plan `{weight, config, info[, lora_rank]}` in float16. `before` is the number of tensors that the model had."""
    weight: dict[str, object] = OrderedDict(small.weights) if small.ordered else dict(small.weights)
    root: OrderedDict[str, object] = OrderedDict(weight=weight, config=small.config, info=small.info)
    if small.rank is not None:
        root["lora_rank"] = small.rank
    changes = (
        Change("to-inference", "model", f"{before:,} tensors", f"{len(weight):,} tensors"),
        Change("to-inference", "info", "", small.info),
    )
    plan = plan.with_root(root, *changes)
    floating = {name: tensor for name, tensor in small.weights.items() if tensor.dtype.floating}
    return cast(plan, floating, DTYPES["float16"], clamp=clamp)
