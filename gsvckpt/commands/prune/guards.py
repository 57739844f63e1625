"""Files that no policy may remove: pretrained models, files that GPT-SoVITS is set to use, the file it would resume from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.verify.manifest import MARK
from gsvckpt.commands.verify.manifest import NAME as MANIFEST
from gsvckpt.engine.folder_saves import TRAINER_STATE, read_state
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.saves import Save
from gsvckpt.errors import GsvError
from gsvckpt.files.local import is_link
from gsvckpt.sovits import official
from gsvckpt.sovits.lightning import best_names
from gsvckpt.sovits.names import split
from gsvckpt.sovits.runs import find_runs, parse_run

BEST = "best_model.ckpt"  # of a bundle
_PRETRAINED = "pretrained_models"
# What names the weights in use, below GPT-SoVITS's own folder (inference_webui.py:57-67, TTS_infer_pack/TTS.py).
_SETTINGS = ("weight.json", "configs/tts_infer.yaml", "GPT_SoVITS/configs/tts_infer.yaml", "tts_infer.yaml")
# Which folder training goes on from: DeepSpeed's `latest`, Megatron's number (megatron/training/checkpointing.py).
_LATEST = {"latest": "", "latest_checkpointed_iteration.txt": "iter_{:07d}"}
# What names files of a voice in its own folder or the one above, as in a bundle: what users write, and the link that stands for the best one.
_REFERENCES = ("experiment.yaml", "config.yaml", MANIFEST)
_LIGHTNING = ("gpt-training", "training")
_LONGEST_NAME = 4_096
_LARGEST = 1 << 20
_NAMES_A_FILE = re.compile(r"\.(?:pth|ckpt|pt|safetensors|bin)$", re.IGNORECASE)


class Pointer(NamedTuple):
    """A checkpoint that a file or a link names: the last parts of its path, as far as written, and what is to be said of it."""

    tail: tuple[str, ...]
    why: str

    def means(self, parts: Sequence[str]) -> bool:
        """Whether it may mean the file at a path of these parts. Folders move, so its name and its folder's are what counts."""
        return tuple(map(os.path.normcase, parts[-len(self.tail) :])) == self.tail


class Guards:
    """Say of each file why it must stay. Of the `paths` that the user named, a file or a folder of pretrained models is not guarded."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._named = {os.path.abspath(path) for path in paths if os.path.isfile(path)}
        folders = dict.fromkeys(place for path in paths if os.path.isdir(path) for place in (os.path.abspath(path), os.path.realpath(path)))
        self._within = [parts for parts in map(split, folders) if _PRETRAINED in parts]
        self._pointers: dict[str, tuple[Pointer, ...]] = {}
        self._resumed: dict[str, frozenset[str]] = {}
        self._latest: dict[str, tuple[tuple[str, str], ...]] = {}
        self._beside: dict[str, tuple[Pointer, ...]] = {}

    def of(self, path: str, *, base: bool, known: str | None) -> tuple[str, ...]:
        """The reasons to leave a file alone. `base`: its tensors are those of a pretrained model; `known`: the official file that it is."""
        place = os.path.abspath(path)
        if place in self._named:
            return ()
        reasons = self._reasons(place, base=base, known=known)
        real = os.path.realpath(place)  # a folder may have been named by a link, which says nothing of where it is
        if real != place:
            reasons += self._reasons(real, base=base, known=known)
        return tuple(dict.fromkeys(reasons))

    def of_folder(self, folder: str) -> tuple[str, ...]:
        """The reasons to leave a save that is a folder alone: the file beside it that says where training goes on, or what it calls its best."""
        above, name = os.path.split(os.path.abspath(folder))
        if above not in self._latest:
            self._latest[above] = tuple(_named_beside(above))
        return tuple(dict.fromkeys(f"{by} names it" for told, by in self._latest[above] if told == name))

    def _reasons(self, place: str, *, base: bool, known: str | None) -> list[str]:
        parts = split(place)
        reasons = []
        if not any(parts[: len(folder)] == folder for folder in self._within):
            named = known or next((file.name for file in official.named(place)), None)
            if named is not None:
                reasons.append(f"the official {named}, by its {'content' if known else 'name'}")
            elif base or _PRETRAINED in parts[:-1]:
                reasons.append("a pretrained model")
        folder = os.path.dirname(place)
        pointers = (*self._named_above(folder), *self._references(folder), *self._references(os.path.dirname(folder)))
        reasons += [pointer.why for pointer in pointers if pointer.means(parts)]
        if os.path.normpath(place) in self._resuming(folder):
            reasons.append("GPT-SoVITS resumes from it")
        return reasons

    def _references(self, folder: str) -> tuple[Pointer, ...]:
        """What a folder's own files name."""
        if folder not in self._beside:
            self._beside[folder] = tuple(_read_references(folder))
        return self._beside[folder]

    def _named_above(self, folder: str) -> tuple[Pointer, ...]:
        """What the settings in a folder and in those above it name: GPT-SoVITS's own folder may lie above or below the one that the user named."""
        if folder not in self._pointers:
            above = os.path.dirname(folder)
            self._pointers[folder] = (*_read_settings(folder), *(self._named_above(above) if above != folder else ()))
        return self._pointers[folder]

    def _resuming(self, folder: str) -> frozenset[str]:
        """The files that GPT-SoVITS would load in a run's folder to go on training."""
        if folder not in self._resumed:
            *_, above, base = ("", "", *split(folder))
            chosen: list[str] = []
            if parse_run(above if base == "ckpt" else base) is not None:
                try:
                    chosen = [os.path.normpath(path) for run in find_runs(folder) for path in run.chosen]
                except GsvError:
                    chosen = []
            self._resumed[folder] = frozenset(chosen)
        return self._resumed[folder]


def _named_beside(folder: str) -> Iterator[tuple[str, str]]:
    """The names of folders that files in their parent's folder, or the newest save, say to be the latest or best; and which file says so."""
    for name, form in _LATEST.items():
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                told = file.read(_LONGEST_NAME).strip()
        except OSError:
            continue
        yield (form.format(int(told)) if told.isdecimal() and form else split(told)[-1] if split(told) else ""), name
    try:
        inner = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False) and not is_link(entry.path)]
    except OSError:
        return
    states = {path: state for path in inner if (state := read_state(path))}
    for path, state in ((folder, read_state(folder)), *((path, states[path]) for path in _newest(states))):
        best = state.get("best_model_checkpoint")
        if isinstance(best, str) and split(best):
            yield split(best)[-1], f"{TRAINER_STATE} of {os.path.basename(path)}"


def _newest(states: Mapping[str, Mapping[str, object]]) -> frozenset[str]:
    """The saves that know which was the best of all: the furthest, and the last in time, as a new run into the same folder begins at step 0 again.
    To each of the others the best is what was so then, often itself.
    """

    def steps(path: str) -> int:
        told = states[path].get("global_step")
        return told if type(told) is int else -1

    def seconds(path: str) -> float:
        try:
            return os.path.getmtime(os.path.join(path, TRAINER_STATE))
        except OSError:  # gone meanwhile
            return 0

    return frozenset((max(states, key=steps), max(states, key=lambda path: (seconds(path), steps(path))))) if states else frozenset()


def best_names_in(save: Save) -> frozenset[str]:
    """The names of the files that Lightning's callbacks in a save call their best; none where it is not Lightning's or cannot be read."""
    if save.group.kind not in _LIGHTNING or not save.readable:  # of torch.distributed.checkpoint nothing is
        return frozenset()
    try:
        with open_checkpoint(save.readable[0]) as checkpoint:
            return best_names(checkpoint.root)
    except (GsvError, OSError):
        return frozenset()


def _read_settings(folder: str) -> Iterator[Pointer]:
    for name in _SETTINGS:
        settings = os.path.join(folder, *name.split("/"))
        if os.path.isfile(settings):
            yield from _read(settings, name.rpartition("/")[2])


def _read_references(folder: str) -> Iterator[Pointer]:
    best = os.path.join(folder, BEST)
    if os.path.islink(best):
        yield _point(os.path.realpath(best), f"{BEST} links to it")
    for name in _REFERENCES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            yield from _read(path, name)


def _point(path: str, why: str) -> Pointer:
    return Pointer(tuple(map(os.path.normcase, split(path)[-2:])), why)


def _read(path: str, name: str) -> Iterator[Pointer]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:  # Windows' own editor puts a mark in front
            text = file.read(_LARGEST)
    except OSError:
        return
    for value in _strings(text.partition(MARK)[0]):  # what a manifest lists below is all that is there
        if _NAMES_A_FILE.search(value):
            yield _point(value, f"{name} names it")


def _strings(text: str) -> Iterator[str]:
    """All texts of a JSON document; of YAML, TOML or a JSON that was cut off, what stands behind the colon or equal sign of each line."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        for line in re.sub(r"\n +(?! )(?=[^:\n]+$)", " ", text, flags=re.MULTILINE).splitlines():  # PyYAML folds long texts at their blanks
            value = re.split("[:=]", line, maxsplit=1)[-1].split(" #")[0].strip().rstrip(",")
            if value.startswith('"'):  # PyYAML escapes what is not ASCII as JSON does
                try:
                    value = str(json.loads(value))
                except ValueError:
                    value = value.strip('"')
            yield value.strip("'")
        return
    pending = [found]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
