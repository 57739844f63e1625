"""Divide a checkpoint's tree into model, training state and the rest, for GPT-SoVITS and any PyTorch or Lightning checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal, NamedTuple

from gsvckpt.errors import UnsupportedError
from gsvckpt.files import budget
from gsvckpt.model import Opaque, Path, Tensor, format_key, is_tensor_recipe, tensor_of, walk
from gsvckpt.sovits import modules

Role = Literal["weights", "optimizer", "scheduler", "scaler", "loop", "callback", "other"]

WHOLE_FILE = "(root)"  # the name of a tensor that is the whole file, as in upstream's feature caches

# Where projects keep the model, the surest first: small weights, S2 and S1 training files, BigVGAN, then what others write.
STATE_KEYS = (
    "weight",
    "model",
    "state_dict",
    "generator",
    "model_state_dict",
    "model_state",
    "net",
    "net_g",
    "netG",
    "network",
    "module",
    "weights",
    "params",
    "parameters",
    "student",
    "teacher",
    "discriminator",
    "ema",
    "ema_state_dict",
    "ema_model",
    "model_ema",
    "params_ema",
)
_WRAPPERS = ("state_dict", "model_state_dict")  # a state dict inside the section, as in {"model": {"state_dict": ...}}
_NODES = 200  # entries looked at before a section is judged: more never changes the answer, and a crafted tree must not cost minutes

# The last words of a section's name: `optimizer_g`, `optim_0`, `lr_scheduler_state_dict` mean what their first words mean.
_SUFFIXES = frozenset({"g", "d", "gen", "disc", "generator", "discriminator", "state", "states", "dict"})
_NAMES: Mapping[Role, frozenset[str]] = {
    "optimizer": frozenset({"optimizer", "optimizers", "optim", "optims", "opt", "optimg", "optimd", "optimizerg", "optimizerd"}),
    "scheduler": frozenset({"scheduler", "schedulers", "lr_scheduler", "lr_schedulers", "lr_sched", "sched", "lrscheduler"}),
    "scaler": frozenset(
        # Lightning names the GradScaler's state after the precision plugin's class (connectors/checkpoint_connector.py); `amp` is apex's
        {
            "scaler",
            "grad_scaler",
            "gradscaler",
            "loss_scaler",
            "amp",
            "amp_scaler",
            "amp_scaling",
            "native_amp_scaling",
            "mixedprecision",
            "mixedprecisionplugin",
            "nativemixedprecision",
            "nativemixedprecisionplugin",
            "halfprecision",
            "fsdpprecision",
        }
    ),
    "loop": frozenset({"loop", "loops", "fit_loop", "validate_loop", "test_loop", "predict_loop"}),
    "callback": frozenset({"callback", "callbacks"}),
}


def role(key: object, value: object) -> Role:
    """What one root entry is: by its content where that is clear, else by its name.

    A name of optimizer, scheduler, scaler, loop or callback state outweighs tensors inside it (optimizers keep theirs in many forms), but not
    a bare tensor or a plain state dict: that is somebody's parameter or module which happens to be called so.
    """
    if is_optimizer_state(value):
        return "optimizer"
    if tensor_of(value) is not None:
        return "weights"
    named = _named(key)
    if named is not None:
        return "weights" if named in ("scheduler", "scaler", "loop") and _is_flat_state(value) else named
    if is_weights(value):
        return "weights"
    if isinstance(key, str) and key in STATE_KEYS and isinstance(value, (dict, list, tuple, Opaque)):
        return "weights"  # an empty one, or torch_ema's list of shadow parameters, or a whole pickled module
    return "other"


def roles(root: object) -> dict[object, Role]:
    """The role of every root entry, in order; empty when the root is no dict. An object under many keys is judged once."""
    if not isinstance(root, dict):
        return {}
    judged: dict[tuple[int, Role | None], Role] = {}
    found: dict[object, Role] = {}
    for key, value in root.items():
        if key in STATE_KEYS or not isinstance(value, (dict, list, tuple)):
            found[key] = role(key, value)  # the name may matter here, and there are few such names
            continue
        signature = (id(value), _named(key))
        if signature not in judged:
            judged[signature] = role(key, value)
        found[key] = judged[signature]
    return found


def is_optimizer_state(value: object) -> bool:
    """A torch optimizer's state dict, or a non-empty list or dict of nothing else."""
    if _is_one_optimizer(value):
        return True
    parts = tuple(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return 0 < len(parts) <= _NODES and all(_is_one_optimizer(part) for part in parts)


def is_weights(value: object) -> bool:
    """A dict, nested or flat, in which tensors under text keys outnumber everything else."""
    if not isinstance(value, dict):
        return False
    tensors = others = 0
    for key, leaf in _leaves(value):
        if isinstance(key, str) and tensor_of(leaf) is not None:
            tensors += 1
        else:
            others += 1
    return tensors > others


class Sections(NamedTuple):
    """The role of every root entry, the path of the model's state dict, and its tensors by name."""

    roles: Mapping[object, Role]
    path: Path | None
    tensors: Mapping[str, Tensor]


def split_sections(root: object) -> Sections:
    """All three at once, as each builds on the one before."""
    known = roles(root)
    path = find_state_path(root, known)
    return Sections(known, path, state_tensors(root, path, known))


def find_state_path(root: object, known: Mapping[object, Role] | None = None) -> Path | None:
    """The path of the model's state dict; () when the root itself is one. None when the tree holds no model tensor.

    `known` are its `roles`, where the caller has them already.
    """
    if is_optimizer_state(root):
        return None
    if not isinstance(root, dict):
        return () if _count(root) else None
    known = roles(root) if known is None else known
    sections = {key: None for key, what in known.items() if what == "weights" and tensor_of(root[key]) is None}  # a dict: an ordered set
    bare = sum(tensor_of(value) is not None for value in root.values())
    # A section with fewer tensors than stand bare beside it is one module of a flat state dict that happens to have a section's name.
    usual = next((key for key in STATE_KEYS if key in sections and _count(root[key]) > min(bare, _NODES - 1)), None)
    if usual is not None:
        return _descend(root, (usual,))
    if len(sections) == 1 and not bare and all(_count(root[key]) for key in sections):
        return _descend(root, tuple(sections))
    return () if _count(_model_part(root, known)) else None


def state_tensors(root: object, state_path: Path | None, known: Mapping[object, Role] | None = None) -> dict[str, Tensor]:
    """The model's tensors by name, in order; parts of nested dicts are joined with dots. Entries that are no tensors are left out.

    At the root itself, optimizer and other training state is left out, and so is what is no weights wherever there are weights. A tree too deep
    to walk gives the tensors above the limit. Raises UnsupportedError for names beyond all measure. `known` are the root's `roles`, if at hand.
    """
    if state_path is None:
        return {}
    value = _at(root, state_path)
    if not state_path and isinstance(root, dict):
        value = _model_part(root, roles(root) if known is None else known)
    found: dict[str, Tensor] = {}
    left = budget.MOST_NAMES
    for path, tensor in _tensors(value):
        name = _name(path)
        left -= len(name)
        if left < 0:
            raise budget.too_much("characters in names of tensors", budget.MOST_NAMES, where=f"{name[:80]}...")
        found.setdefault(name, tensor)
    return found


def state_recipes(root: object, state_path: Path | None) -> dict[str, Opaque]:
    """The model's other tensors by name: those that are kept as recipes, as they are more than numbers in a storage."""
    value = _at(root, state_path) if state_path is not None else None
    return {_name(path): leaf for path, leaf in _state_leaves(value) if isinstance(leaf, Opaque)}


def _name(path: Path) -> str:
    return ".".join(map(format_key, path)) or WHOLE_FILE


def _at(root: object, state_path: Path) -> object:
    value = root
    for key in state_path:
        value = value[key] if isinstance(value, dict) and key in value else None
    return value


def _model_part(root: dict[object, object], known: Mapping[object, Role]) -> dict[object, object]:
    wanted = {"weights"} if "weights" in known.values() else {"weights", "other"}
    return {key: part for key, part in root.items() if known[key] in wanted}


def _is_one_optimizer(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("state"), dict) and isinstance(value.get("param_groups"), (list, tuple))


def _is_flat_state(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    tensors = [tensor_of(part) for part in value.values()]
    return all(tensors) and any(tensor is not None and tensor.shape for tensor in tensors)  # a scaler's own tensors are single numbers


def _named(key: object) -> Role | None:
    if not isinstance(key, str) or len(key) > 64:
        return None
    words = key.lower().split("_")
    while words:
        name = "_".join(words)
        for what, names in _NAMES.items():
            if name in names and key.lower() != "opt":  # a bare `opt` is as often the options of the run
                return what
        if words[-1] not in _SUFFIXES and not words[-1].isdigit():
            return None
        words.pop()
    return None


def _leaves(root: dict[object, object]) -> Iterator[tuple[object, object]]:
    """Up to _NODES entries of nested dicts that are not dicts themselves; each dict is entered once."""
    seen = {id(root)}
    pending = [iter(root.items())]
    for _ in range(_NODES):
        entry = next(pending[-1], None)
        while entry is None:
            pending.pop()
            if not pending:
                return
            entry = next(pending[-1], None)
        if not isinstance(entry[1], dict):
            yield entry
        elif id(entry[1]) not in seen:
            seen.add(id(entry[1]))
            pending.append(iter(entry[1].items()))


def _tensors(value: object) -> Iterator[tuple[Path, Tensor]]:
    return ((path, leaf) for path, leaf in _state_leaves(value) if isinstance(leaf, Tensor))


def _state_leaves(value: object) -> Iterator[tuple[Path, Tensor | Opaque]]:
    """The tensors in a tree, and the recipes of others, which are not looked into: their parts are no tensors of the model. A whole module shows the
    names that its `state_dict()` would give.
    """
    inside: Path | None = None
    try:
        for path, leaf in walk(modules.as_states(value)):
            if inside is not None and path[: len(inside)] == inside:
                continue
            inside = None
            if is_tensor_recipe(leaf):
                inside = path
                yield path, leaf  # type: ignore[misc]  # a recipe is an Opaque
            elif isinstance(leaf, Tensor) and "<metadata>" not in path:
                yield path, leaf
    except UnsupportedError:
        return


def _count(value: object) -> int:
    """Tensors in a tree, at most _NODES."""
    return sum(1 for _ in islice(_tensors(value), _NODES))


def _descend(root: object, path: Path) -> Path:
    value = root
    for key in path:
        value = value[key] if isinstance(value, dict) else None
    for key in _WRAPPERS:
        if isinstance(value, dict) and is_weights(value.get(key)) and not any(tensor_of(part) is not None for part in value.values()):
            return (*path, key)
    return path
