"""Read the settings inside a checkpoint as plain Python values, without importing the classes that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gsvckpt.model import Checkpoint, Global, Opaque, Storage, Tensor, tensor_of
from gsvckpt.sovits.numpy_scalars import scalar_value

# Small weights keep `config`; Lightning keeps `hyper_parameters`, in GPT training files with the YAML under `config` (s1_train.py and
# AR/models/t2s_lightning_module.py:38); the rest is what other projects write.
CONFIG_KEYS = ("config", "hyper_parameters", "hparams", "hps", "args", "cfg", "opt")
_MAX_NODES = 20_000  # a GPT-SoVITS config has about 100; a crafted one can share a branch until its text fills the disk
_MAX_NESTING = 32
_MAX_TEXT = 10_000
_MAX_LETTERS = 1_000_000  # of all texts together; one text may be there thousands of times
_MAX_STEPS = 8  # an honest object has one or two; a crafted one takes the same large dict again and again
_MAX_PARTS = 1_000  # of a path
_MAX_BITS = 1024

HPARAMS = Global("utils", "HParams")
_RECORDS = {HPARAMS: "newobj", Global("argparse", "Namespace"): "newobj", Global("types", "SimpleNamespace"): "reduce"}  # nothing but attributes
_DEVICE = Global("torch", "device")

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"


def find_config(root: object) -> object:
    """The raw config object of a checkpoint's tree (dict, Opaque or anything else a file put there); None when there is none."""
    if not isinstance(root, dict):
        return None
    found = next((root[key] for key in CONFIG_KEYS if root.get(key) is not None and tensor_of(root[key]) is None), None)
    if found is not None and found is root.get("hyper_parameters"):
        inner = fields(found).get("config")
        return found if inner is None else inner
    return found


def config_of(checkpoint: Checkpoint) -> Plain:
    """The embedded config as plain Python values, None when there is none.

    Never runs or imports anything: an object is the dict of its state (`utils.HParams`), a pathlib path is its text.
    """
    return plain(find_config(checkpoint.root))


def fields(value: object) -> dict[object, object]:
    """The entries of a dict, or the state of an object that is kept as a recipe (its last steps, of too many); empty for everything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Opaque):
        return {}
    found: dict[object, object] = {}
    for step, payload in value.steps[-_MAX_STEPS:]:
        if step == "build" and isinstance(payload, tuple) and len(payload) == 2 and any(isinstance(part, dict) for part in payload):
            for part in payload:  # (dict state, slots state), the form of a class with __slots__
                found.update(part if isinstance(part, dict) else {})
        elif step == "build" and isinstance(payload, dict):
            found.update(payload)
        elif step == "setitem" and isinstance(payload, list):
            found.update(item for item in payload if isinstance(item, tuple) and len(item) == 2 and _hashable(item[0]))
    return found


def lookup(value: object, *keys: str) -> object:
    """What stands under nested keys of dicts or objects; None where any of them is missing."""
    for key in keys:
        value = fields(value).get(key)
    return value


def path_text(value: object) -> str | None:
    """The text of a pickled pathlib path, with the separators of the system that wrote it; None for anything else."""
    if not isinstance(value, Opaque) or value.name.module not in ("pathlib", "pathlib._local") or not isinstance(value.args, tuple):
        return None
    if not value.name.name.endswith("Path") or len(value.args) > _MAX_PARTS:
        return None
    parts = [part for part in value.args if isinstance(part, str)]
    if len(parts) != len(value.args) or sum(map(len, parts)) > _MAX_TEXT:  # many paths may share the same long parts
        return None
    from pathlib import PurePosixPath, PureWindowsPath

    windows = value.name.name in ("WindowsPath", "PureWindowsPath")
    return str(PureWindowsPath(*parts)) if windows else str(PurePosixPath(*parts))


def simple_form(value: Opaque) -> object:
    """The plain value for an object if no classes are wanted; the object itself if there is no obvious one.

    The dict of a `utils.HParams` or a namespace, the text of a path or a device, the number of a NumPy scalar. GPT-SoVITS reads a dict as it reads
    HParams (process_ckpt.py, TTS.py:506-531).
    """
    for plainer in (path_text, _device_text, scalar_value):
        found = plainer(value)
        if found is not None:
            return found
    if _RECORDS.get(value.name) != value.how or value.args != () or len(value.steps) != 1:
        return value
    step, state = value.steps[0]
    return state if step == "build" and isinstance(state, dict) else value


def _device_text(value: Opaque) -> str | None:
    """`cuda:0` for a pickled torch.device."""
    if value.name != _DEVICE or value.how != "reduce" or value.steps or not isinstance(value.args, tuple):
        return None
    match value.args:
        case (str(kind),):
            return kind
        case (str(kind), int(index)):
            return f"{kind}:{index}"
    return None


def make_hparams(values: Mapping[str, object]) -> Opaque:
    """The `utils.HParams` that GPT-SoVITS makes of a config: nested for dicts, while lists stay lists (utils.py:342-347)."""
    state = {key: make_hparams(value) if isinstance(value, dict) else value for key, value in values.items()}
    return Opaque(HPARAMS, "newobj", (), [("build", state)])


def plain(value: object) -> Plain:
    """Any tree as None, bool, int, float, str, list and dict, finite whatever the tree: cycles, great depth and excess become a short text."""
    return _Plainer().convert(value, 0)


@dataclass(slots=True)
class _Plainer:
    """One conversion: how much it may still produce, which containers it is inside of, and the state of objects met before."""

    left: int = _MAX_NODES
    letters: int = _MAX_LETTERS
    inside: set[int] = field(default_factory=set)
    states: dict[int, dict[object, object]] = field(default_factory=dict)  # what takes long to gather may be short to tell, many times

    def convert(self, value: object, depth: int) -> Plain:
        self.left -= 1
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            return "a huge integer"  # json.dumps would raise
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            self.letters -= min(len(value), _MAX_TEXT)
            return _short(value) if self.letters >= 0 else "..."
        tensor = tensor_of(value)
        if tensor is not None:
            return f"tensor {tensor.dtype.name} {list(tensor.shape)}"
        if not isinstance(value, (dict, list, tuple, set, frozenset, Opaque)):
            return _describe(value)
        if self.left <= 0 or depth >= _MAX_NESTING:
            return "..."
        if id(value) in self.inside:
            return "(contains itself)"
        self.inside.add(id(value))
        try:
            return self.container(value, depth + 1)
        finally:
            self.inside.discard(id(value))

    def container(self, value: object, depth: int) -> Plain:
        if isinstance(value, Opaque):
            return self.opaque(value, depth)
        if isinstance(value, dict):
            return self.mapping(value, depth)
        return self.sequence(value if isinstance(value, (list, tuple, set, frozenset)) else (), depth)

    def opaque(self, value: Opaque, depth: int) -> Plain:
        text = path_text(value)
        if text is not None:
            return _short(text)
        state = self.states.get(id(value))
        if state is None:
            state = self.states[id(value)] = fields(value)
        if state:
            return self.mapping(state, depth)
        appended = [item for step, payload in value.steps[-_MAX_STEPS:] if step == "append" and isinstance(payload, list) for item in payload]
        if appended:
            return self.sequence(appended, depth)
        args = value.args if isinstance(value.args, tuple) else ()
        if value.name.module in ("builtins", "__builtin__", "collections") and len(args) == 1 and isinstance(args[0], (list, tuple)):
            return self.sequence(args[0], depth)  # set([...]), frozenset([...])
        if not args and any(step == "build" for step, _ in value.steps):
            return {}
        return _short(f"{value.name}({', '.join(repr(_short(arg, 200)) if isinstance(arg, str) else _describe(arg) for arg in args[:8])})")

    def mapping(self, value: dict[object, object], depth: int) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        for key, part in value.items():
            if self.left <= 0:
                found["..."] = f"{len(value) - len(found):,} more"
                break
            found[key if isinstance(key, str) else _describe(key)] = self.convert(part, depth)
        return found

    def sequence(self, value: Iterable[object], depth: int) -> list[Plain]:
        found: list[Plain] = []
        for part in value:
            if self.left <= 0:
                found.append("...")
                break
            found.append(self.convert(part, depth))
        return found


def _short(text: str, limit: int = _MAX_TEXT) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


def _describe(value: object) -> str:
    """One line for a value that has no plain form; never the repr of a container, which could be huge."""
    if isinstance(value, Storage):
        return f"storage {value.dtype.name} [{value.numel}]"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    if isinstance(value, (Global, str)):
        return _short(str(value), 200)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "a huge integer"
    if value is None or isinstance(value, (bool, int, float, complex)):
        return str(value)
    if isinstance(value, (Opaque, Tensor)):
        return f"<{value.name}>" if isinstance(value, Opaque) else f"tensor {value.dtype.name} {list(value.shape)}"
    return type(value).__name__


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
