"""Read what Lightning stores in its files besides the weights: the scores of ModelCheckpoint, and paths as objects."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from gsvckpt.files.local import read_bytes
from gsvckpt.model import Opaque, tensor_of, walk
from gsvckpt.sovits.names import basename

_FLOATS = {"float64": ("<d", 8), "float32": ("<f", 4), "float16": ("<e", 2)}


class Callback(NamedTuple):
    """The state of one ModelCheckpoint. Files are named without their folders, which may have moved since; a NaN is no score.

    `current` is the newest score; it is that of a file which was not among the best when it was saved, `last.ckpt`, only by accident.
    """

    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    best: str | None = None
    scores: Mapping[str, float] = {}
    current: float | None = None


def read_callbacks(root: object) -> Iterator[Callback]:
    """The states in a checkpoint, in its order; of those from before Lightning 1.5, whose keys are classes, the mode is not known."""
    callbacks = root.get("callbacks") if isinstance(root, dict) else None
    for key, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and "best_model_path" in state:
            best, known, monitor = state["best_model_path"], state.get("best_k_models"), state.get("monitor")
            told = {basename(path): _number(value) for path, value in known.items() if isinstance(path, str)} if isinstance(known, dict) else {}
            said = re.search(r"'mode': '(min|max)'", key) if isinstance(key, str) else None
            yield Callback(
                monitor if isinstance(monitor, str) else None,
                None if said is None else "min" if said[1] == "min" else "max",
                basename(best) if isinstance(best, str) and best else None,
                {name: score for name, score in told.items() if score is not None},
                _number(state.get("current_score")),
            )


def best_names(root: object) -> frozenset[str]:
    """The names of the files that the callbacks in a checkpoint call their best, without folders, which may have moved."""
    callbacks = root.get("callbacks") if isinstance(root, dict) else None
    states = callbacks.values() if isinstance(callbacks, dict) else ()
    told = (state.get("best_model_path") for state in states if isinstance(state, dict))
    return frozenset(basename(path) for path in told if isinstance(path, str) and path)


def save_folder(root: object) -> str | None:
    """The folder in which the run's ModelCheckpoint saves, as the file tells it; None where it does not. Nothing is ever written there."""
    callbacks = root.get("callbacks") if isinstance(root, dict) else None
    for state in callbacks.values() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and isinstance(state.get("dirpath"), str):
            return str(state["dirpath"])
    return None


def path_classes(root: object) -> frozenset[str]:
    """The classes of pathlib in a checkpoint, such as `PosixPath`. For any of them pytorch-lightning 2.6 with torch 2.6 and newer refuses to resume
    from the file, as it loads with `weights_only` then.
    """
    leaves = (leaf for _, leaf in walk(root) if isinstance(leaf, Opaque))
    return frozenset(leaf.name.name for leaf in leaves if leaf.name.module in ("pathlib", "pathlib._local"))


def _number(value: object) -> float | None:
    """A Python number, or that of a tensor with one element; None for anything else and for NaN."""
    tensor = tensor_of(value)
    if tensor is not None and tensor.numel == 1 and tensor.dtype.name in _FLOATS and tensor.storage.offset >= 0:
        form, size = _FLOATS[tensor.dtype.name]
        raw = read_bytes(tensor.storage.source, tensor.storage.offset + tensor.start * size, size)
        value = struct.unpack(form, raw)[0]
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None
