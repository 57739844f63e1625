"""List what the folders hold: saves by run, and everything that is left alone, with the reason."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from gsvckpt.commands.prune.classify import look_files, measure
from gsvckpt.commands.prune.guards import BEST, Guards, best_names_in
from gsvckpt.commands.verify.damaged_names import is_kept_aside
from gsvckpt.engine.discover import FoundFiles, find_files
from gsvckpt.engine.folder_saves import Folder, find_folders, read_state, sort_folders
from gsvckpt.engine.listing import Features
from gsvckpt.engine.runs import divide_runs
from gsvckpt.engine.saves import Facts, Group, Ignored, Save, SaveFile, find_saves, is_usual_kind, not_looked_at
from gsvckpt.errors import GsvError
from gsvckpt.formats.sniff import APPLE_DOUBLE
from gsvckpt.formats.torch_distributed import PART
from gsvckpt.sovits.names import is_stray

STRAYS = "strays"
_WORKPLACE = ("webui.py", "GPT_SoVITS", "logs", "weight.json")
_STRAY_SECONDS = 3_600  # GPT-SoVITS saves under such a name first, and a save takes minutes at most


class Inventory(NamedTuple):
    """`saves` with their runs, those called `STRAYS` what interrupted saves left; `damaged`, saves that count for no rule, and why; `ignored`;
    `failures` of folders; `folders` as they were named; `notes` on runs; `features`, which are never saves.
    """

    saves: tuple[Save, ...]
    damaged: Mapping[Save, str]
    ignored: tuple[Ignored, ...]
    failures: tuple[GsvError, ...]
    folders: tuple[str, ...]
    notes: Mapping[Group, str] = {}
    features: tuple[Features, ...] = ()


def take_inventory(paths: Sequence[str], jobs: int, now: float | None = None) -> Inventory:
    """Look through folders, and at single files, and sort what is there; at many in `jobs` processes."""
    folders = [path for path in paths if os.path.isdir(path)]
    found = find_files(folders, recursive=True, wanted="saves")
    files = _once([*(path for path in paths if path not in folders), *found.checkpoints])
    guards = Guards(paths)
    left = {path: why for path in files if (why := _why_left(path, folders))}
    strays = [path for path in files if path not in left and is_stray(path) and _is_workplace(os.path.dirname(path))]
    looked = look_files([path for path in files if path not in left and path not in strays], jobs)
    facts = {one.file.path: one for one in looked if one is not None}
    whole = sort_folders(_look_into(folders, found, facts))
    kept_whole = {path for save, _ in whole.saves for path in save.paths} | {path for one in whole.left for path in facts if _is_in(path, one.path)}
    single = find_saves([one for path, one in facts.items() if path not in kept_whole])
    linked = _linked(folders)
    links = _links([*(path for path in (*left, *found.rest) if os.path.islink(path)), *(one.path for one in linked)])
    shared = Counter(part.path for one in facts.values() for part in one.parts)
    whys = {**single.damaged, **whole.damaged}
    guarded = [(replace(save, guards=_guard(save, of, guards, links, shared)), whys.get(save, "")) for save, of in (*single.saves, *whole.saves)]
    saves, damaged, notes = _in_runs(guarded)
    died, ignored = _strays(sorted(strays), guards, time.time() if now is None else now)
    ignored = [
        *linked,
        *(Ignored(path, why) for path, why in (*left.items(), *found.skipped) if path not in kept_whole),
        *(Ignored(one.folder, f"{one.files:,} feature files, which training reads") for one in found.features),
        *(one for result in (single, whole) for one in result.left),
        *ignored,
    ]
    held = {os.path.abspath(path) for save in saves if found.failures for path in save.paths}  # a folder of torch.distributed.checkpoint has no other
    failures = tuple(one for one in found.failures if not any(_is_in(path, os.path.abspath(one.path or "")) for path in held))
    return Inventory((*saves, *died), damaged, tuple(ignored), failures, tuple(folders), notes, found.features)


def _in_runs(saves: Sequence[tuple[Save, str]]) -> tuple[list[Save], dict[Save, str], dict[Group, str]]:
    """Saves in the groups of their runs, those that are damaged and why, and what is to be said of a run."""
    groups: dict[Group, list[tuple[Save, str]]] = {}
    for save, why in saves:
        groups.setdefault(save.group, []).append((save, why))
    found: list[Save] = []
    damaged: dict[Save, str] = {}
    notes: dict[Group, str] = {}
    for group, members in groups.items():
        placed = [save for save, why in members if not why and (save.epoch, save.step) != (None, None)]
        divided = divide_runs(placed)
        newest = divided.runs[-1][0].group if divided.runs else group
        done = set(placed)
        for save, why in members:
            if save in done:
                continue
            unplaced = bool(placed) and (save.epoch, save.step) == (None, None)
            guards = (*save.guards, "does not state its epoch, as others here do") if unplaced else save.guards
            found.append(replace(save, group=newest, guards=guards))
            if why:
                damaged[found[-1]] = why
        found += [save for run in divided.runs for save in _guard_best(run)]
        if divided.note:
            notes[group] = divided.note
    return found, damaged, notes


def _guard_best(run: Sequence[Save]) -> Iterator[Save]:
    """The saves of a run, of which no policy may touch the one that the newest calls the best."""
    newest = max(run, key=lambda save: save.age)
    told = best_names_in(newest) if len(run) > 1 else frozenset()
    by = " by training accuracy" if newest.group.kind == "gpt-training" else ""
    why = f"{os.path.basename(newest.place or newest.paths[0])} calls it the best{by}"
    for save in run:
        is_best = any(os.path.basename(path) in told for path in (*save.paths, save.place))
        yield replace(save, guards=(*save.guards, why)) if is_best else save


def _guard(save: Save, facts: Sequence[Facts], guards: Guards, links: Mapping[str, Sequence[str]], shared: Mapping[str, int]) -> tuple[str, ...]:
    """The reasons for which no policy may touch a save."""
    reasons = ["the best model of a bundle"] if os.path.basename(save.paths[0]) == BEST else []
    if save.place:
        reasons += guards.of_folder(save.place)
    for one in facts:
        reasons += guards.of(one.file.path, base=not is_usual_kind(facts[0].kind) and not save.place, known=one.official)
        reasons += [f"{os.path.basename(part.path)} belongs to another index, too" for part in one.parts if shared[part.path] > 1][:1]
    if links:
        reasons += [f"{link} links to it" for path in (save.place, *save.paths) if path for link in links.get(os.path.realpath(path), ())]
    return tuple(dict.fromkeys(reasons))


def _look_into(roots: Sequence[str], found: FoundFiles, facts: Mapping[str, Facts]) -> list[Folder]:
    """The folders whose names say progress, with all files in them."""
    folders = find_folders(roots, _once([*facts, *found.rest, *found.parts, *(path for path in found.checkpoints if path.endswith(PART))]))
    made = []
    for folder, paths in folders.items():
        files: list[SaveFile] = []
        linked = any(os.path.islink(os.path.join(place, name)) for place, inner, names in os.walk(folder) for name in (*inner, *names))
        for path in dict.fromkeys(paths):
            with suppress(OSError):  # no regular file, or gone: what is left then is no whole that could be moved
                files.append(facts[path].file if path in facts else measure(path))
        linked = linked or len(files) < len(set(paths))
        made.append(Folder(folder, tuple(files), tuple(facts[path] for path in paths if path in facts), read_state(folder), linked))
    return made


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _linked(folders: Sequence[str]) -> list[Ignored]:
    """Links to folders below folders."""
    return [
        Ignored(path, f"a link to {os.path.realpath(path)}: links to folders are not followed")
        for folder in folders
        for place, names, _ in os.walk(folder)
        for path in (os.path.join(place, name) for name in names)
        if os.path.islink(path)
    ]


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


def _why_left(path: str, roots: Sequence[str]) -> str:
    """Why a path is not looked at: a link, a copy, or what another program keeps; empty for a file of its own."""
    if is_kept_aside(path):
        return "a damaged file that `verify --restore-from` kept"
    if os.path.islink(path):
        target = os.path.realpath(path)
        inside = any(target.startswith(os.path.join(os.path.realpath(root), "")) for root in roots)
        return f"a link to {target}" + ("" if inside else ", outside the folder")
    if os.path.basename(path).startswith("._") and _begins(path, APPLE_DOUBLE):
        return "a macOS metadata file, not a checkpoint"
    return not_looked_at(path)


def _begins(path: str, head: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _links(paths: Iterable[str]) -> dict[str, list[str]]:
    """The names of links by what they lead to."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), []).append(os.path.basename(path))
    return found


def _strays(paths: Sequence[str], guards: Guards, now: float) -> tuple[list[Save], list[Ignored]]:
    """What interrupted saves of GPT-SoVITS left behind (utils.py:67-72), which nothing ever reads; and what of that is left alone."""
    found, ignored = [], []
    for path in paths:
        try:
            file = measure(path)
        except OSError:
            continue
        guarded = guards.of(path, base=False, known=None)
        if guarded:
            ignored.append(Ignored(path, guarded[0]))
        elif now - file.mtime_ns / 1e9 < _STRAY_SECONDS:
            ignored.append(Ignored(path, "may still be in the middle of a save"))
        else:
            found.append(Save(Group(os.path.dirname(path), STRAYS, STRAYS), (file,)))
    return found, ignored
