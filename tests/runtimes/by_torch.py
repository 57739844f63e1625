"""Files that torch itself writes of a voice: the older format, which gsvckpt must read, and casts, against which gsvckpt's own are held."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch

from tests.runtimes.lite import loader


def write_stream(source: Path, target: Path) -> None:
    """The same tree in torch's format from before 1.6."""
    torch.save(_read(source), target, _use_new_zipfile_serialization=False)


def write_cast(source: Path, dtype: str, target: Path, training: Path | None = None) -> None:
    """Small weights as they are, but cast. With `training`, the weights come from that file, without those that only training needs."""
    tree = _read(source)
    weights = tree["weight"] if training is None else {name: value for name, value in _read(training)["model"].items() if "enc_q" not in name}
    to = getattr(torch, dtype)
    tree["weight"] = {name: value.to(to) if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(tree, target)
    with source.open("rb") as original, target.open("r+b") as file:
        file.write(original.read(2))  # the head, which tells GPT-SoVITS the version


def _read(path: Path) -> Any:
    """The tree of a file, under `PK` whatever its head is: torch would take no other for a zip."""
    loader()  # for the class of the config, which upstream calls utils.HParams
    sys.modules["utils"].HParams.__module__ = "utils"  # type: ignore[attr-defined]
    return torch.load(io.BytesIO(b"PK" + path.read_bytes()[2:]), weights_only=False)
