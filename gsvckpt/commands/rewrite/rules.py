"""What rules do beside renaming: tell which of them matched nothing, and fuse weight norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gsvckpt.model import Path, Tensor
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.rules import Rule
from gsvckpt.transforms.state_dict import put_tensors


def unused(used: Sequence[tuple[Rule, int]]) -> list[str]:
    """Warnings for rules that match nothing. Those for another program know several networks, so of them one rule that matches is enough."""
    met = {rule.program for rule, count in used if count}
    return [f"the rule {rule} matches no tensor" for rule, count in used if not count and not (rule.program and rule.program in met)]


def fuse_weight_norms(plan: Plan, path: Path, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Plan:
    """Put the fused weight in the place of each weight norm. `pairs` has weight_g and weight_v by the new name of the weight.

    Raises RefusedError for a pair that is no weight norm over the first dimension.
    """
    from gsvckpt.devices.presence import require_torch  # few rules need these
    from gsvckpt.engine.weight_norm import fuse

    require_torch("fusing weight norms", "--rules")
    changes = [Change("rules", name, "weight_g and weight_v", "fused in float32") for name in pairs]
    return put_tensors(plan, path, {name: fuse(name, *pair) for name, pair in pairs.items()}, *changes)
