"""What folders hold for retention: saves of files in their groups, and whatever is left alone, with the reason."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.commands.prune.classify import ANYBODYS, Facts, measure
from gsvckpt.commands.prune.guards import Guards
from gsvckpt.commands.prune.saves import Group, Save
from gsvckpt.commands.verify.damaged_names import is_kept_aside
from gsvckpt.engine.discover import find_files
from gsvckpt.errors import GsvError
from gsvckpt.sovits.names import folder_version, is_stray, parse, split

BEST = "best_model.ckpt"  # of a bundle
STRAYS = "strays"
_PAIR = re.compile(r"(?P<begin>(?:.*_)?)(?P<letter>[GD])(?P<end>(?:_[0-9]+|_latest)?\.pth)")
_INNER = ("ckpt", "checkpoints")  # folders inside that of an experiment
_NAMED = re.compile(r"(?:sovits_epoch_[0-9]+_)?[GD](?:_[0-9]+|_latest)?\.pth")  # by GPT-SoVITS, or in a bundle
_SMALL = ("gpt-weights", "sovits-weights", "sovits-lora")  # one folder has those of all experiments
_WORKPLACE = ("webui.py", "GPT_SoVITS", "logs", "weight.json")
_STRAY_SECONDS = 3_600  # GPT-SoVITS saves under such a name first, and a save takes minutes at most
_TRAINING = {
    "sovits-generator-training": "sovits-training",
    "sovits-discriminator-training": "sovits-training",
    "gpt-training": "gpt-training",
    "training": "training",
}
_KINDS = {**_TRAINING, "gpt-weights": "gpt-weights", "sovits-weights": "sovits-weights", "sovits-lora": "sovits-lora", "state-dict": "state-dict"}


class Ignored(NamedTuple):
    """A file that is left alone, and why."""

    path: str
    why: str


class Inventory(NamedTuple):
    """`saves` with their groups, those called `STRAYS` what interrupted saves left; `damaged`, saves that count for no rule, and why; `ignored`;
    `failures` of folders; `folders` as they were named.
    """

    saves: tuple[Save, ...]
    damaged: Mapping[Save, str]
    ignored: tuple[Ignored, ...]
    failures: tuple[GsvError, ...]
    folders: tuple[str, ...]


LookAll = Callable[[Sequence[str]], Sequence[Facts | None]]


def take_inventory(paths: Sequence[str], look_all: LookAll, now: float | None = None) -> Inventory:
    """Look through folders, and at single files, and sort what is there. `look_all` runs `look` on many paths, in processes perhaps."""
    folders = [path for path in paths if os.path.isdir(path)]
    found = find_files(folders, recursive=True)
    files = [*(path for path in paths if path not in folders), *found.checkpoints]
    guards = Guards(paths)
    ignored: list[Ignored] = []
    links: dict[str, list[str]] = {}
    ignored += [
        Ignored(path, f"a link to {os.path.realpath(path)}: links to folders are not followed") for folder in folders for path in _linked(folder)
    ]
    real = [path for path in _once(files) if _is_real(path, paths, links, ignored)]
    strays = {path for path in real if is_stray(path) and _is_workplace(os.path.dirname(path))}
    facts = [one for one in look_all([path for path in real if path not in strays]) if one is not None]
    saves, damaged = _sort(facts, guards, links, ignored)
    saves += _strays(sorted(strays), guards, ignored, time.time() if now is None else now)
    return Inventory(tuple(saves), damaged, tuple(ignored), found.failures, tuple(folders))


def _linked(folder: str) -> list[str]:
    """Links to folders below a folder."""
    return [os.path.join(place, name) for place, names, _ in os.walk(folder) for name in names if os.path.islink(os.path.join(place, name))]


def _once(paths: Sequence[str]) -> list[str]:
    """Each file under one name, though its folder may have been named twice, or by a link."""
    places: dict[str, str] = {}
    found: dict[str, str] = {}
    for path in map(os.path.normpath, paths):
        folder, name = os.path.split(path)
        if folder not in places:
            places[folder] = os.path.realpath(folder)
        found.setdefault(os.path.join(places[folder], name), path)
    return list(found.values())


def _is_workplace(folder: str) -> bool:
    """Whether GPT-SoVITS works in a folder, where it saves under a name for the time first; elsewhere such names are somebody's choice."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in _WORKPLACE)


def _is_real(path: str, roots: Sequence[str], links: dict[str, list[str]], ignored: list[Ignored]) -> bool:
    """Whether a path is a file of its own. A link is left alone, and so is what it leads to."""
    if is_kept_aside(path):
        ignored.append(Ignored(path, "a damaged file that `verify --restore-from` kept"))
        return False
    if not os.path.islink(path):
        return True
    target = os.path.realpath(path)
    links.setdefault(target, []).append(os.path.basename(path))
    inside = any(target.startswith(os.path.join(os.path.realpath(root), "")) for root in roots if os.path.isdir(root))
    ignored.append(Ignored(path, f"a link to {target}" + ("" if inside else ", outside the folder")))
    return False


def _sort(facts: Sequence[Facts], guards: Guards, links: Mapping[str, list[str]], ignored: list[Ignored]) -> tuple[list[Save], dict[Save, str]]:
    """Put files of one save together, and saves into groups."""
    together: dict[object, list[Facts]] = {}
    for one in facts:
        if one.kind == "torchscript" or (one.kind == "unknown" and not one.damaged):
            ignored.append(Ignored(one.file.path, "is no checkpoint that training wrote"))
        elif one.kind == "unknown":
            ignored.append(Ignored(one.file.path, one.why))
        else:
            together.setdefault(_save_of(one), []).append(one)
    versions = _versions(together.values())
    shared = Counter(part.path for one in facts for part in one.parts)
    made = [_make_save(files, versions, guards, links, shared) for files in together.values()]
    saves = _with_places([save for save, _ in made])
    return saves, {save: why for save, (_, why) in zip(saves, made, strict=True) if why}


def _save_of(one: Facts) -> object:
    """What files of one save have in common: G and D their folder and number, any other file nothing."""
    folder, name = os.path.split(one.file.path)
    match = _PAIR.fullmatch(name) if _TRAINING.get(one.kind) == "sovits-training" else None
    return (folder, match["begin"], match["end"]) if match is not None else one.file.path


def _versions(together: Collection[list[Facts]]) -> dict[str, str]:
    """The version of the SoVITS runs, by folder, as the generators in it tell it: a discriminator is the same in v1 and v2."""
    found: dict[str, set[str]] = {}
    for files in together:
        for one in files:
            if one.version is not None and _TRAINING.get(one.kind) is not None and one.kind != "sovits-discriminator-training":
                found.setdefault(os.path.dirname(one.file.path), set()).add(one.version)
    return {folder: next(iter(told)) for folder, told in found.items() if len(told) == 1}


def _make_save(
    files: list[Facts], versions: Mapping[str, str], guards: Guards, links: Mapping[str, list[str]], shared: Mapping[str, int]
) -> tuple[Save, str]:
    files = sorted(files, key=lambda one: one.kind != "sovits-generator-training")
    first = files[0]
    folder, name = os.path.split(first.file.path)
    told = next((one.version for one in files if one.version is not None and one.kind != "sovits-discriminator-training"), None)
    place = os.path.abspath(first.file.path)  # `.` tells nothing of the experiment that it is in
    stated = folder_version(place)
    kind = _KINDS.get(first.kind, first.kind)
    if kind == "sovits-training" and any(one.lora for one in files):
        kind = "sovits-lora-training"
    known_kinds = {one.kind for one in files}
    version = told or versions.get(folder) or (stated[0] if stated else first.version)
    group = Group(folder, _group_name(place, kind), kind, version, first.layout)
    reasons: list[str] = ["the best model of a bundle"] if name == BEST else []
    for one in files:
        reasons += guards.of(one.file.path, base=first.kind not in _KINDS, known=one.official)
        reasons += [f"{os.path.basename(part.path)} is of another index, too" for part in one.parts if shared[part.path] > 1][:1]
        reasons += [f"{link} links to it" for link in (links.get(os.path.realpath(one.file.path), ()) if links else ())]
    why = next((f"{os.path.basename(one.file.path)} {one.why}" if len(files) > 1 else one.why for one in files if one.why), "")
    if not why and known_kinds == {"sovits-discriminator-training"}:
        why = "its G is not there"
    save = Save(
        group,
        tuple(file for one in files for file in (one.file, *one.parts)),
        first.epoch,
        first.step,
        any(one.trained for one in files),
        tuple(dict.fromkeys(reasons)),
    )
    return save, why


def _group_name(path: str, kind: str) -> str:
    """The experiment; for files of others, and for those that users named, what their names have in common: different models in one folder are
    different groups.
    """
    said = parse(path)
    folder, name = os.path.split(path)
    if said.form == "epoch" and kind not in ANYBODYS and os.path.basename(folder) in _INNER:  # of a bundle, with its SoVITS files beside it
        return (split(os.path.dirname(folder)) or ("",))[-1]
    renamed = said.form is None and _NAMED.fullmatch(name) is None  # `alice.pth` and `bob.pth` are two voices
    if kind not in ANYBODYS and said.experiment and not (renamed and kind in _SMALL):
        return said.experiment
    parent = (split(folder) or ("",))[-1]
    if kind in ANYBODYS or renamed:
        return f"{parent}/{re.sub('[0-9]+(?:[.][0-9]+(?=[^0-9]))?', '#', name)}"
    return (split(os.path.dirname(folder)) or ("",))[-1] if parent in _INNER else parent


def _with_places(saves: Sequence[Save]) -> list[Save]:
    """Units whose place in the order nobody knows, while that of others in their group is known, are guarded."""
    known = {save.group for save in saves if save.epoch is not None or save.step is not None}
    return [
        save
        if save.epoch is not None or save.step is not None or save.group not in known
        else Save(save.group, save.files, None, None, save.trained, (*save.guards, "does not tell its epoch, as others here do"))
        for save in saves
    ]


def _strays(paths: Sequence[str], guards: Guards, ignored: list[Ignored], now: float) -> list[Save]:
    """What interrupted saves of GPT-SoVITS left behind (utils.py:67-72); nothing ever reads them."""
    found = []
    for path in paths:
        try:
            file = measure(path)
        except OSError:
            continue
        guarded = guards.of(path, base=False, known=None)
        if guarded:
            ignored.append(Ignored(path, guarded[0]))
        elif now - file.mtime_ns / 1e9 < _STRAY_SECONDS:
            ignored.append(Ignored(path, "may be being saved just now"))
        else:
            found.append(Save(Group(os.path.dirname(path), STRAYS, STRAYS), (file,)))
    return found
