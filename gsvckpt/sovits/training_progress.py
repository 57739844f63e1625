"""How far training had come when a checkpoint was written.

Epochs count from 1, as in GPT-SoVITS' own names (`xxx-e2.ckpt`, `xxx_e8_s16.pth`) and in `iteration`: the number of epochs that were done.
Lightning counts from 0, in the file and in its name, so `epoch=1-step=12.ckpt` is epoch 2, the one that gave `xxx-e2.ckpt` (s1_train.py:62-81).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.sovits.names import original_name, parse

_INFO = r"(?P<epoch>[0-9]{1,12})epoch_(?P<step>[0-9]{1,12})iteration"  # process_ckpt.py:41-60
_GPT_INFO = r"GPT-e(?P<epoch>[0-9]{1,12})"  # s1_train.py:62-81
_EPOCHS = ("epoch", "epochs", "current_epoch", "epoch_idx")
STEP = "global_step"  # Lightning's own word, which strip-optimizer uses in a SoVITS file
_STEPS = (
    STEP,
    "step",
    "steps",
    "iteration",
    "iter",
    "iters",
    "num_steps",
    "total_steps",
    "global_steps",
    "update",
    "updates",
    "num_updates",
)
_METADATA = {"epoch": "ss_epoch", "step": "ss_steps"}  # of a safetensors file, as kohya's LoRA trainers write it
PROGRESS_KEYS = (*_EPOCHS, *_STEPS, "info")  # root entries that are looked at here


class TrainingProgress(NamedTuple):
    """Epoch (from 1) and optimizer step where known, the file's `info` text, and notes where the name contradicts the content."""

    epoch: int | None = None
    step: int | None = None
    info: str | None = None
    notes: tuple[str, ...] = ()


def read_progress(root: object, name: str, metadata: Mapping[str, str] = {}) -> TrainingProgress:
    """Progress from the content, completed from the name; where they contradict, the content counts and a note says so. `metadata` is that of a
    safetensors file, whose root holds tensors alone.
    """
    entries = root if isinstance(root, dict) else {}
    entries = (
        {**entries, **{key: int(metadata[said]) for key, said in _METADATA.items() if metadata.get(said, "").isdecimal()}} if metadata else entries
    )
    info = entries.get("info")
    text = info if isinstance(info, str) else None
    epoch, step, source = _content(entries, text)
    named = parse(original_name(name))
    notes = tuple(
        f"the name says {what} {told}, but {source} says {known}"
        for what, told, known in (("epoch", named.epoch, epoch), ("step", named.step, step))
        if told is not None and known is not None and told != known
    )
    return TrainingProgress(named.epoch if epoch is None else epoch, named.step if step is None else step, text, notes)


def is_comparable(root: object, name: str, metadata: Mapping[str, str] = {}) -> bool:
    """Whether name and content both tell the epoch, or both the step."""
    content, named = read_progress(root, "", metadata), parse(name)
    return any(said is not None and told is not None for said, told in ((content.epoch, named.epoch), (content.step, named.step)))


def _content(entries: Mapping[object, object], info: str | None) -> tuple[int | None, int | None, str]:
    """Epoch, step, and what told them."""
    if info is not None:
        match = re.fullmatch(_INFO, info) or re.fullmatch(_GPT_INFO, info)
        if match is not None:
            found = match.groupdict()
            return int(found["epoch"]), int(found["step"]) if found.get("step") else None, f"info '{info}'"
    if "pytorch-lightning_version" in entries:
        epoch = _whole(entries.get("epoch"))
        return None if epoch is None else epoch + 1, _whole(entries.get("global_step")), "the file"
    if "model" in entries and "iteration" in entries and "learning_rate" in entries:
        return _whole(entries["iteration"]), _whole(entries.get(STEP)), "the file"  # in VITS `iteration` is the epoch (utils.py:75-90)
    epoch = next((n for n in (_whole(entries.get(key)) for key in _EPOCHS) if n is not None), None)
    return epoch, next((n for n in (_whole(entries.get(key)) for key in _STEPS) if n is not None), None), "the file"


def _whole(value: object) -> int | None:
    """A count: a non-negative int of sane size, or a float that is one; a bool is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 63 else None
