"""Saves that are folders: `checkpoint-500/` of Hugging Face's Trainer, `global_step600/` of DeepSpeed, `iter_0000100/` of Megatron, what
torch.distributed.checkpoint writes, and `epoch=3-val/loss=0.41.ckpt` of Lightning. All files of such a folder stay or go together.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import xxhash

from gsvckpt.engine.save_names import read_name, says_progress
from gsvckpt.engine.saves import OTHERS, Facts, Group, Ignored, Save, SaveFile, Sorted
from gsvckpt.errors import GsvError
from gsvckpt.files.local import open_source, read_bytes
from gsvckpt.formats import torch_distributed
from gsvckpt.formats.shards import missing_parts

TRAINER_STATE = "trainer_state.json"  # transformers.trainer_callback.TrainerState
_LARGEST = 1 << 26  # bytes of one; its history has a line for each logged step
_DEEPEST = 3  # folders below that of the save: `checkpoint-500/global_step500/zero/`
_RUN = re.compile(r"logs_s[12](?:_.*)?|ckpt|checkpoints")  # folders of runs, which hold saves
_METRIC = re.compile(r"=-?[0-9]+(?:\.[0-9]+)?")


class Folder(NamedTuple):
    """A folder whose name says progress. `files` are all in it, `facts` those of its checkpoints; `state` is what `trainer_state.json` says."""

    path: str
    files: tuple[SaveFile, ...]
    facts: tuple[Facts, ...]
    state: Mapping[str, object]
    linked: bool = False

    @property
    def distributed(self) -> bool:
        """Whether torch.distributed.checkpoint wrote it."""
        return any(os.path.basename(file.path) == torch_distributed.METADATA for file in self.files)


def find_folders(roots: Sequence[str], paths: Sequence[str]) -> dict[str, list[str]]:
    """The folders below `roots` whose names say progress, the outermost of several, with the paths of the files in them."""
    found: dict[str, list[str]] = {}
    tops = {os.path.normpath(root) for root in roots}
    known: dict[str, str] = {}
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in known:
            known[folder] = _outermost(folder, tops)
        if known[folder]:
            found.setdefault(known[folder], []).append(path)
    return {folder: inside for folder, inside in found.items() if not any(_is_run(folder, path) for path in inside)}


def _outermost(folder: str, tops: set[str]) -> str:
    """The outermost of a folder and those above it, below the named ones, whose name says progress."""
    chosen = ""
    for _ in range(_DEEPEST + 1):
        if folder in tops or not os.path.basename(folder):
            break
        chosen = folder if says_progress(os.path.basename(folder)) else chosen
        folder = os.path.dirname(folder)
    return chosen


def _is_run(folder: str, path: str) -> bool:
    """Whether a file below a folder lies in that of a run, so that the folder holds saves instead of being one: `step_1/logs_s2_v2/G_100.pth`."""
    inner = os.path.relpath(os.path.dirname(path), folder).split(os.sep)
    return any(_RUN.fullmatch(part) for part in inner)


def read_state(folder: str) -> Mapping[str, object]:
    """The Trainer's state of a save; empty if there is none."""
    try:
        with open_source(os.path.join(folder, TRAINER_STATE)) as source:
            found = json.loads(read_bytes(source, 0, min(source.size, _LARGEST)))
    except (GsvError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sort_folders(folders: Sequence[Folder]) -> Sorted:
    """The folders that are saves; the files in other folders are judged one by one."""
    saves: list[tuple[Save, tuple[Facts, ...]]] = []
    left: list[Ignored] = []
    for folder in filter(_is_save, folders):
        if folder.linked:
            left.append(Ignored(folder.path, "holds links, so it cannot be moved as a whole"))
        else:
            saves.append((_make_save(folder), folder.facts))
    usual = _usual_files(save for save, _ in saves)
    damaged = {save: why for save, facts in saves if (why := _why_damaged(save, facts, usual[save.group]))}
    return Sorted(tuple(saves), damaged, tuple(left))


def _is_save(folder: Folder) -> bool:
    """Whether what is in a folder shows training, and agrees with its name."""
    kinds = {one.kind for one in folder.facts}
    shown = bool(folder.state) or folder.distributed or any(one.trained or one.told != (None, None) for one in folder.facts) or kinds & set(OTHERS)
    if not shown or not kinds <= {*OTHERS, "unknown"}:
        return False
    name = read_name(os.path.basename(folder.path))
    epochs, steps = _told(folder)
    if len(steps) > 1 or len(epochs) > 1:
        return False
    agrees = not (epochs or steps) or {name.step, name.epoch} & (steps | epochs | {epoch - 1 for epoch in epochs})
    return bool(agrees)


def _told(folder: Folder) -> tuple[set[int], set[int]]:
    """The epochs and the steps that its files tell."""
    epochs = {one.told[0] for one in folder.facts if one.told[0] is not None}
    steps = {one.told[1] for one in folder.facts if one.told[1] is not None}
    step = folder.state.get("global_step")
    return epochs, steps | ({step} if type(step) is int else set())


def _make_save(folder: Folder) -> Save:
    name = read_name(os.path.basename(folder.path))
    above, _ = os.path.split(folder.path)
    epochs, steps = _told(folder)
    trained = folder.distributed or bool(folder.state) or any(one.trained for one in folder.facts)
    layouts = sorted({one.layout for one in folder.facts if one.layout} | set(_distributed_layouts(folder)))
    layout = xxhash.xxh3_64_hexdigest("\n".join(layouts).encode("utf-8", "surrogatepass"))
    parent = os.path.basename(os.path.abspath(above or "."))
    identity = next((one.identity for one in folder.facts if one.identity), "")
    group = Group(above, f"{parent}/{name.stem}", "training" if trained else "state-dict", None, layout, identity)
    return Save(
        group,
        tuple(sorted(folder.files, key=lambda file: file.path)),
        next(iter(epochs), name.epoch),
        next(iter(steps), name.step),
        trained,
        place=folder.path,
        checkpoints=tuple(file.path for one in folder.facts for file in (one.file, *one.parts)),
    )


def _distributed_layouts(folder: Folder) -> Iterator[str]:
    for file in folder.files:
        if os.path.basename(file.path) == torch_distributed.METADATA:
            with suppress(GsvError):
                shapes = torch_distributed.read_metadata(os.path.dirname(file.path)).shapes
                yield from (f"{name}{shape}" for name, shape in sorted(shapes.items()))


def _usual_files(saves: Iterator[Save]) -> dict[Group, frozenset[str]]:
    """For each run the checkpoints that half of its saves have: of two saves, each is to have what the other has, as the newest may have been being
    written.
    """
    found: dict[Group, list[set[str]]] = {}
    for save in saves:
        found.setdefault(save.group, []).append(set(_inner_names(save)))
    return {
        group: frozenset(name for name, count in Counter(name for names in sets for name in names).items() if 2 * count >= len(sets))
        for group, sets in found.items()
    }


def _inner_names(save: Save) -> Iterator[str]:
    """The names of the files that hold tensors, without the save's own progress."""
    for path in (*save.checkpoints, *(path for path in save.paths if path.endswith(torch_distributed.PART))):
        parts = os.path.relpath(path, save.place).replace("\\", "/").split("/")
        yield "/".join(_METRIC.sub("=#", read_name(part).stem) for part in parts)


def _why_damaged(save: Save, facts: Sequence[Facts], usual: frozenset[str]) -> str:
    for one in facts:
        if one.damaged:
            return f"{os.path.relpath(one.file.path, save.place)} {one.why}"
    lacking = sorted(usual - set(_inner_names(save))) or [os.path.relpath(one.missing[0], save.place) for one in missing_parts(save.paths)]
    if lacking:
        return f"its {lacking[0]} is missing"
    distributed = [os.path.dirname(path) for path in save.paths if os.path.basename(path) == torch_distributed.METADATA]
    return next((why for folder in distributed if (why := torch_distributed.find_damage(folder))), "")
