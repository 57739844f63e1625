"""The rule of evidence: which files are saves of training, which of them are one save, and which saves are of one run. Pure.

1. A save is a file, or several, whose content shows training progress: an epoch or step inside, or an optimizer state. Without that, only a name
   that says progress in words (`epoch=3`, `_e8_s200`, `step-100`) is evidence; a bare number never is.
2. One run: the same folder, kind, version, tensor names and shapes, and the same name or settings inside where there are any; see `runs.py` for time.
3. Members of a save (G and D, ranks, shards, optimizers) stay or go together, and one that is damaged or missing means that the save does not count.
4. Everything else is left alone, with the reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gsvckpt.engine.save_names import SaveName, copy_of, is_partial, read_name, without_number
from gsvckpt.sovits.names import folder_version, parse, split

OTHERS = ("state-dict", "training")  # kinds that are not GPT-SoVITS's own
_SMALL = ("gpt-weights", "sovits-weights", "sovits-lora")  # one folder has those of all experiments
_KINDS = {
    "sovits-generator-training": "sovits-training",
    "sovits-discriminator-training": "sovits-training",
    **{kind: kind for kind in ("gpt-training", *_SMALL, *OTHERS)},
}
_TRAINING = ("sovits-training", "gpt-training", "training")
_INNER = ("ckpt", "checkpoints")  # folders inside that of an experiment
_NAMED = re.compile(r"(?:sovits_epoch_[0-9]+_)?[GD](?:_[0-9]+|_latest)?\.pth")  # by GPT-SoVITS, or in a bundle
_MODELS = ("", "G", "model", "g", "generator", "gen", "net", "netg", "weights")  # of the files of a save these tell the run, the first before others


class Group(NamedTuple):
    """Saves of one run: `name` is the experiment, or for other files what their names have in common. `folder` is that of the files.

    `layout` is a digest of the names and shapes of tensors, `identity` what the settings inside call the run, `dates` are those of the saves where
    several runs have one name.
    """

    folder: str
    name: str
    kind: str
    version: str | None = None
    layout: str = ""
    identity: str = ""
    dates: str = ""

    @property
    def label(self) -> str:
        """As policies name it: `alice/sovits-training/v2`."""
        return "/".join(part for part in (self.name, self.kind, self.version) if part)


class SaveFile(NamedTuple):
    """A file, as it was when it was looked at. `links` are its names, `inode` tells (with the device) whether two names are one file."""

    path: str
    size: int
    mtime_ns: int
    inode: tuple[int, int] = (0, 0)
    links: int = 1


class Facts(NamedTuple):
    """What one file is, by its content, or by its name where it cannot be read (`why` says so then). A plain value, for any process.

    `told` are epoch and step as the content tells them; `saved` is the time inside the file, in seconds since 1970; `parts` are an index's shards.
    """

    file: SaveFile
    parts: tuple[SaveFile, ...] = ()
    kind: str = "unknown"
    version: str | None = None
    epoch: int | None = None
    step: int | None = None
    trained: bool = False
    lora: bool = False
    official: str | None = None
    layout: str = ""
    why: str = ""
    damaged: bool = False
    told: tuple[int | None, int | None] = (None, None)
    identity: str = ""
    saved: float | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Save:
    """One save: a file, the files of one step, an index with its shards, or a folder (`place`), of which all files go or stay.

    `trained` says that it holds optimizer state; `guards` are the reasons for which no policy may touch it; `saved` is the time inside it.
    `checkpoints` are the files of a folder that are checkpoints by themselves.
    """

    group: Group
    files: tuple[SaveFile, ...]
    epoch: int | None = None
    step: int | None = None
    trained: bool = False
    guards: tuple[str, ...] = ()
    saved: float | None = None
    place: str = ""
    checkpoints: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def readable(self) -> tuple[str, ...]:
        """The files that are read completely before the save counts; files of torch.distributed.checkpoint in a folder cannot be read."""
        return self.checkpoints if self.place else self.paths

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def mtime_ns(self) -> int:
        return max(file.mtime_ns for file in self.files)

    @property
    def age(self) -> tuple[int, int, tuple[int, ...], int]:
        """What makes one newer than another: the epoch and step that its content tells, then the numbers in its name, then time."""
        numbers = tuple(int(digits) for digits in re.findall("[0-9]{1,18}", os.path.basename(self.paths[0])))
        return (-1 if self.epoch is None else self.epoch, -1 if self.step is None else self.step, numbers, self.mtime_ns)


class Ignored(NamedTuple):
    """A file or folder that is left alone, with the reason."""

    path: str
    why: str


class Sorted(NamedTuple):
    """`saves` with the facts of their files; `damaged`, saves that count for no rule, and why; `left`, what is no save, and why."""

    saves: tuple[tuple[Save, tuple[Facts, ...]], ...]
    damaged: Mapping[Save, str]
    left: tuple[Ignored, ...]


class _Named(NamedTuple):
    """A file with what its name says, and what the names of its run have in common."""

    facts: Facts
    name: SaveName
    stem: str


def find_saves(facts: Sequence[Facts]) -> Sorted:
    """Sort files into saves and what is left alone."""
    left: list[Ignored] = []
    together: dict[object, list[_Named]] = {}
    trained = _folders_trained(facts)
    for one in facts:
        name = read_name(os.path.basename(one.file.path))
        why = _why_not(one, name, trained)
        if why:
            left.append(Ignored(one.file.path, why))
        else:
            together.setdefault(_key_of(one, name), []).append(_Named(one, name, _stem_of(one, name)))
    versions = _versions(together.values())
    members = _members(together.values())
    saves, damaged = [], {}
    for files in together.values():
        save, why = _make_save(files, versions, members)
        saves.append((save, tuple(one.facts for one in files)))
        if why:
            damaged[save] = why
    adopted = _adopted([save for save, _ in saves], damaged)
    return Sorted(
        tuple((adopted.get(save, save), files) for save, files in saves),
        {adopted.get(save, save): why for save, why in damaged.items()},
        tuple(left),
    )


def _adopted(saves: Sequence[Save], damaged: Collection[Save]) -> dict[Save, Save]:
    """Damaged saves in the group of the sound ones of their name: what cannot be read does not tell its version and tensors."""
    groups: dict[tuple[str, str, str], set[Group]] = {}
    for save in saves:
        if save not in damaged:
            groups.setdefault(save.group[:3], set()).add(save.group)
    found = {}
    for save in damaged:
        known = groups.get(save.group[:3], set())
        if len(known) == 1 and not save.group.layout:
            found[save] = replace(save, group=next(iter(known)))
    return found


def is_usual_kind(kind: str) -> bool:
    """Whether training writes files of this kind; others are pretrained models or parts of the program."""
    return kind in _KINDS or kind == "unknown"


def not_looked_at(path: str) -> str:
    """The reason, from its name alone, why a file is not a save; empty if the name gives none."""
    folder, name = os.path.split(path)
    if is_partial(name):
        return "an unfinished download, by its name"
    original = copy_of(name)
    if original is not None:
        return f"a copy of {original}, by its name"
    if name.endswith(".distcp"):
        return "part of what torch.distributed.checkpoint wrote"
    above = os.path.basename(folder)
    if above == ".ipynb_checkpoints":
        return "a copy that Jupyter keeps"
    return "a macOS metadata file, not a checkpoint" if above == "__MACOSX" or "/__MACOSX/" in path.replace("\\", "/") else ""


def _folders_trained(facts: Iterable[Facts]) -> frozenset[str]:
    """The folders and numbers of files like `G_100.pth` of which one shows inside that it was trained."""
    found = set()
    for one in facts:
        name = read_name(os.path.basename(one.file.path))
        if name.letters and (one.trained or one.told != (None, None) or _KINDS.get(one.kind) in ("sovits-training", "gpt-training")):
            found.add(os.path.dirname(one.file.path))
    return frozenset(found)


def _why_not(one: Facts, name: SaveName, trained: frozenset[str]) -> str:
    """Why a file is no save; empty for one that is. Kinds that are never trained on by name or content are left to the guards, which name them."""
    if one.bare:
        return "is a single tensor, like a feature file"
    if one.kind == "torchscript" or (one.kind == "unknown" and not one.damaged):
        return "is not a checkpoint that training wrote"
    says = bool(name.moment) and (not name.letters or os.path.dirname(one.file.path) in trained)
    if one.kind == "unknown":
        return "" if says and name.letters else one.why
    if one.kind not in _KINDS or one.damaged or one.trained or one.told != (None, None) or says:
        return ""
    return "does not state how far training had come" + (
        "; a bare number in the name is not enough" if re.search("[0-9]", os.path.basename(one.file.path)) else ""
    )


def _key_of(one: Facts, name: SaveName) -> object:
    """What the files of one save have in common; of most files nothing."""
    folder = os.path.dirname(one.file.path)
    if name.moment:
        return (folder, name.key, name.moment)
    if name.key != name.stem and one.told != (None, None):  # ranks, whose progress stands inside
        return (folder, name.key, one.told)
    return one.file.path


def _stem_of(one: Facts, name: SaveName) -> str:
    """The name with `#` for the progress in it."""
    if name.moment or one.kind in _SMALL:
        return name.stem
    return without_number(name.stem, one.told)


def _versions(saves: Collection[list[_Named]]) -> dict[str, str]:
    """The version of the SoVITS runs, by folder, as the generators in it tell it: a discriminator is the same in v1 and v2."""
    found: dict[str, set[str]] = {}
    for files in saves:
        for one, _, _ in files:
            if one.version is not None and _KINDS.get(one.kind) in _TRAINING and one.kind != "sovits-discriminator-training":
                found.setdefault(os.path.dirname(one.file.path), set()).add(one.version)
    return {folder: next(iter(told)) for folder, told in found.items() if len(told) == 1}


def _members(saves: Collection[list[_Named]]) -> dict[tuple[str, str], frozenset[str]]:
    """For each run's names the members (G and D, ranks, optimizers) without which training does not go on: those that half of its saves have. Of two
    saves, each is to have what the other has, as the newest may have been being written.
    """
    found: dict[tuple[str, str], list[frozenset[str]]] = {}
    for files in saves:
        first = files[0]
        if first.name.moment:
            place = (os.path.dirname(first.facts.file.path), first.name.key)
            found.setdefault(place, []).append(frozenset(one.name.member for one in files))
    wanted = {}
    for place, sets in found.items():
        counts = Counter(member for have in sets for member in have)
        wanted[place] = frozenset(member for member, count in counts.items() if member in ("G", "D") or 2 * count >= len(sets))
    return wanted


def _make_save(named: list[_Named], versions: Mapping[str, str], members: Mapping[tuple[str, str], frozenset[str]]) -> tuple[Save, str]:
    """A save of these files, and why it does not count, if it does not."""
    named = sorted(named, key=_rank)
    first = named[0].facts
    folder = os.path.dirname(first.file.path)
    told = next((one.facts.version for one in named if one.facts.version is not None and one.facts.kind != "sovits-discriminator-training"), None)
    place = os.path.abspath(first.file.path)  # `.` tells nothing of the experiment that it is in
    stated = folder_version(place)
    kind = next((_KINDS.get(one.facts.kind, one.facts.kind) for one in named if one.facts.kind != "unknown"), "training")
    if kind == "sovits-training" and any(one.facts.lora for one in named):
        kind = "sovits-lora-training"
    if kind == "state-dict" and any(one.facts.trained for one in named):
        kind = "training"
    version = told or versions.get(folder) or (stated[0] if stated else first.version)
    group = Group(folder, _group_name(place, kind, named[0]), kind, version, first.layout, first.identity)
    alone = all(one.facts.kind == "sovits-discriminator-training" for one in named)
    lacking = ["G"] if alone else sorted(members.get((folder, named[0].name.key), frozenset()) - {one.name.member for one in named})
    why = next(
        (f"{os.path.basename(one.facts.file.path)} {one.facts.why}" if len(named) > 1 else one.facts.why for one in named if one.facts.why), ""
    )
    why = why or (f"its {' and '.join(member or 'model' for member in lacking)} {'is' if len(lacking) == 1 else 'are'} missing" if lacking else "")
    said = named[0].name
    save = Save(
        group,
        tuple(file for one in named for file in (one.facts.file, *one.facts.parts)),
        said.epoch if first.epoch is None else first.epoch,
        said.step if first.step is None else first.step,
        any(one.facts.trained for one in named),
        saved=first.saved,
    )
    return save, why


def _rank(one: _Named) -> tuple[bool, int, bool, str]:
    """The model itself comes first."""
    word = one.name.member
    first = _MODELS.index(word) if word in _MODELS else len(_MODELS)
    return (one.facts.kind != "sovits-generator-training" and word == "D", first, one.facts.damaged, one.facts.file.path)


def _group_name(path: str, kind: str, named: _Named) -> str:
    """The experiment; for files of others, and for those that users named, what their names have in common: different models in one folder are
    different runs.
    """
    said = parse(path)
    folder, name = os.path.split(path)
    if said.form == "epoch" and kind not in OTHERS and os.path.basename(folder) in _INNER:  # of a bundle, with its SoVITS files beside it
        return (split(os.path.dirname(folder)) or ("",))[-1]
    renamed = said.form is None and _NAMED.fullmatch(name) is None  # `alice.pth` and `bob.pth` are two voices, and `good one.ckpt` stands for itself
    if kind not in OTHERS and said.experiment and not renamed:
        return said.experiment
    parent = (split(folder) or ("",))[-1]
    if kind in OTHERS or renamed:
        return f"{parent}/{named.stem}"
    return (split(os.path.dirname(folder)) or ("",))[-1] if parent in _INNER else parent


def freed_by(files: Iterable[SaveFile]) -> int:
    """The bytes that removing these frees: a file that has other names as well frees nothing."""
    names_of: dict[tuple[int, int], list[SaveFile]] = {}
    for file in files:
        names_of.setdefault(file.inode, []).append(file)
    return sum(names[0].size for names in names_of.values() if len(names) >= names[0].links)
