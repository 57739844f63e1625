"""torch's own loaders over many files, in a process of their own: `python -m differential.loaders FOLDER OUT`.

Every file is loaded as `torch.load` loads it, from its path, from memory and mapped, and as GPT-SoVITS loads it (GPT_SoVITS/process_ckpt.py,
load_sovits_new), which puts `PK` over other first bytes. Names give stand-ins that do nothing, but for what makes tensors.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import resource
import sys
import types

import torch

from .plain import TooDeep, tell
from .unpicklers import LIMIT, Inert, Reading, name_classes, names_of

_TENSORS = {"_rebuild_tensor_v2": torch._utils._rebuild_tensor_v2, "_rebuild_tensor_v3": torch._utils._rebuild_tensor_v3}
ASKED: dict[tuple[str, str], type] = {}


class Unpickler(Inert):
    """One that torch makes a class of its own from."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.asked = ASKED

    def find_class(self, module: str, name: str) -> object:
        found = super().find_class(module, name)
        if module == "torch._utils" and name in _TENSORS:
            return _TENSORS[name]
        return getattr(torch, name) if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype) else found


def _load(file: object, **options: object) -> object:
    return Unpickler(file, **options).load()


PICKLE = types.SimpleNamespace(Unpickler=Unpickler, load=_load, __name__="pickle")


def sovits(path: str) -> object:
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=PICKLE)
        data = b"PK" + file.read()
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=PICKLE)


def memory(path: str) -> object:
    with open(path, "rb") as file:
        return torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=False, pickle_module=PICKLE)


LOADERS = {
    "torch.load": lambda path: torch.load(path, map_location="cpu", weights_only=False, pickle_module=PICKLE),
    "torch.load(mmap=True)": lambda path: torch.load(path, map_location="cpu", weights_only=False, pickle_module=PICKLE, mmap=True),
    "torch.load of bytes": memory,
    "GPT-SoVITS": sovits,
}


def text_of(value: object) -> object:
    """A tensor in words."""
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return f"tensor {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} {hashlib.sha256(raw).hexdigest()}"
    return None


def main() -> None:
    folder, out = sys.argv[1:]
    with open("/proc/self/statm", encoding="ascii") as file:  # nine bytes can ask the C unpickler for gigabytes
        limit = int(file.read().split()[0]) * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found: dict[str, dict[str, tuple[object, ...]]] = {}
    for name in sorted(os.listdir(folder)):
        found[name] = {}
        for loader, load in LOADERS.items():
            ASKED.clear()
            asked = types.SimpleNamespace(asked=ASKED)
            try:
                value = tell(name_classes(load(os.path.join(folder, name))), other=text_of)
                found[name][loader] = tuple(Reading(names_of(asked), value, 0))
            except TooDeep:
                found[name][loader] = tuple(Reading(names_of(asked), None, 0, "too deep"))
            except Exception as error:  # noqa: BLE001 - damaged files raise nearly anything
                found[name][loader] = tuple(Reading(names_of(asked), None, 0, f"{type(error).__name__}: {error}"[:200]))
    with open(out, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    main()
