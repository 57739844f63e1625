"""What a training file needs so that training can resume, and therefore what may be removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gsvckpt.model import REMOVED
from gsvckpt.sovits.kinds import Kind
from gsvckpt.sovits.sections import Role, roles

_VITS = ("model", "iteration", "learning_rate")  # beside `optimizer` (utils.py:75-90)
_REMOVABLE = ("optimizer", "scheduler", "scaler", "loop", "callback")


def training_state(
    root: object, kind: Kind, *, drop: Sequence[str] = (), keep: Sequence[str] = (), known: Mapping[object, Role] | None = None
) -> dict[object, object]:
    """Root entries that only training needs, each with what takes its place: None or [] where resuming asks for the key, REMOVED where it does not.

    S2, and all of VITS (GPT_SoVITS/utils.py:23-60): without the key `optimizer` resuming fails and upstream silently starts over; with None it goes
    on. Lightning: the keys `optimizer_states` and `lr_schedulers` must be there and may be empty; `loops` holds the epoch, and without it Lightning
    repeats all epochs from the first (seen with pytorch-lightning 2.6.6), so it stays although it is loop state: it is a few kilobytes. What is
    None or empty already stays as it is. `known` are the root's `roles`, where the caller has them already.
    """
    if not isinstance(root, dict):
        return {}
    known = roles(root) if known is None else known
    found: dict[object, object] = {key: REMOVED for key, role in known.items() if role in _REMOVABLE and not _is_empty(root[key])}
    if _is_vits(root, kind):
        found |= {key: None for key in found if key == "optimizer"}
    if "pytorch-lightning_version" in root:
        found |= {key: [] for key in found if key in ("optimizer_states", "lr_schedulers")}
        found.pop("loops", None)
    found |= {key: REMOVED for key in root if key in drop}
    return {key: value for key, value in found.items() if key not in keep}


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, (dict, list, tuple)) and not value)


def _is_vits(root: object, kind: Kind) -> bool:
    """What VITS' own save_checkpoint wrote, which other voices than GPT-SoVITS's use as well."""
    training = kind in ("sovits-generator-training", "sovits-discriminator-training")
    return training or (isinstance(root, dict) and all(key in root for key in _VITS))


def required(root: object, kind: Kind) -> tuple[str, ...]:
    """Root entries without which GPT-SoVITS does not resume but starts over (utils.py:23-60), in silence, and saves over what was there."""
    if _is_vits(root, kind):
        return _VITS
    return ("state_dict", "pytorch-lightning_version", "loops") if isinstance(root, dict) and "pytorch-lightning_version" in root else ()


def missing_keys(root: object, keys: Sequence[str]) -> tuple[str, ...]:
    """Those of `keys` that are no root entries, for a clear error about a misspelt --drop or --keep."""
    known: Mapping[object, object] = root if isinstance(root, dict) else {}
    return tuple(key for key in keys if key not in known)
