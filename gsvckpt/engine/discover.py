"""Find the checkpoints in a folder: by name, or by their first bytes if the name says nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.save_names import COPY_FOLDERS
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.files.local import open_source
from gsvckpt.files.paths import below, is_url
from gsvckpt.files.publish import TRASH
from gsvckpt.files.temporary import is_temporary
from gsvckpt.formats import heads, pickle_search, safetensors, shards, sniff, torch_stream, torch_tar
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.formats.zip import directory
from gsvckpt.model import Tensor
from gsvckpt.sovits import official

EXTENSIONS = frozenset((".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl"))
_OWN = frozenset((".git", TRASH))  # folders whose files are nobody's checkpoints any more
_PEEK = 512
_FEATURES = ("3-bert", "4-cnhubert", "7-sv_cn")  # prepare_datasets/1-get-text.py, 2-get-hubert-wav32k.py, 2-get-sv.py
_WORKPLACE = frozenset(("webui.py", "api.py", "logs", "tools", "weight.json"))  # beside GPT_SoVITS

Wanted = Literal["all", "checkpoints", "saves"]
_SHARDED = (".safetensors", ".bin")  # before `.index.json`: an index that names no shards is a damaged one
_TAR_MEMBERS = (b"storages", b"tensors", b"pickle", b"sys_info")  # of torch before 0.1.10, whose tar files torch.load still runs


class Features(NamedTuple):
    """A folder of features that GPT-SoVITS's data preparation wrote: one bare tensor for each clip, which training reads (prepare_datasets/*)."""

    folder: str
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """Checkpoints below the folders, in order of their paths, how many other files there were, and which folders could not be looked through.

    A checkpoint in several files stands among them by its index; `parts` are its shards that are there. `features` are folders of them, which are
    apart; `skipped`, folders that were not looked into, and why.
    """

    checkpoints: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()
    rest: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    failures: tuple[MissingError, ...] = ()
    features: tuple[Features, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def others(self) -> int:
        return len(self.rest)

    def as_json(self) -> dict[str, object]:
        if not self.folders:
            return {}
        features = {"files": sum(one.files for one in self.features), "bytes": sum(one.size for one in self.features)}
        return {"folders": list(self.folders), "ignored": self.others, **({"features": features} if self.features else {})}


def find_files(folders: Sequence[str], *, recursive: bool, thorough: bool = False, wanted: Wanted = "all") -> Found:
    """Look through folders. `failures` has one error for each that cannot be listed, and for one that holds no checkpoint.

    `thorough` also finds zips that hold a pickle anywhere, pickles that would run code, and files that GPT-SoVITS publishes, whatever their names. Of
    folders that are URLs, names alone decide. `wanted`: of "checkpoints" and "saves", features are told apart; of "saves", of a folder of GPT-SoVITS
    itself only `logs*` and `*weights*` are looked into.
    """
    checkpoints: list[str] = []
    failures: list[MissingError] = []
    parts: set[str] = set()
    there: set[str] = set()
    rest: list[str] = []
    walk = _Walk(wanted, failures, [], [])
    for folder in folders:
        before = len(checkpoints) + len(failures) + len(walk.features)
        found = list(_urls(folder, failures, recursive=recursive) if is_url(folder) else _files(folder, walk, recursive=recursive))
        there.update(found)
        named = (shard for path in found if shards.is_index(path) for shard in _shards(path))
        parts.update(shard for shard in named if not shards.is_index(shard))  # an index is no shard: it would hide itself, or another
        for path in found:
            if path in parts:
                continue
            if _is_checkpoint(path) or (thorough and not is_url(path) and _deserves_a_look(path)):
                checkpoints.append(path)
            else:
                rest.append(path)
        if before == len(checkpoints) + len(failures) + len(walk.features):
            hint = "choose another folder" if recursive else "-r looks in subfolders, too"
            failures.append(MissingError("holds no checkpoint", path=folder, hint=hint))
    present = frozenset(part for part in parts if part in there or os.path.isfile(part))
    return Found(tuple(checkpoints), present, tuple(rest), tuple(folders), tuple(failures), tuple(walk.features), tuple(walk.skipped))


def _shards(index: str) -> tuple[str, ...]:
    with suppress(GsvError):
        return shards.members(index)
    return ()


class _Walk(NamedTuple):
    """What a walk through folders is for, and what it finds besides files."""

    wanted: Wanted
    failures: list[MissingError]
    features: list[Features]
    skipped: list[tuple[str, str]]


def _files(folder: str, walk: _Walk, *, recursive: bool) -> Iterator[str]:
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            walk.failures.append(MissingError(f"cannot be listed: {error.strerror}", path=here))
            continue
        features = _features(here, entries) if walk.wanted != "all" and here != folder else None
        if features is not None:
            walk.features.append(features)
            continue
        for entry in entries:
            if not is_temporary(entry.name) and _is_file(entry.path):
                yield entry.path
        if recursive:
            inner = [entry for entry in entries if _is_folder(entry) and entry.name not in _OWN]
            walk.skipped.extend((entry.path, why) for entry in inner if (why := _why_skipped(entry.name, entries, walk.wanted)))
            pending.extend(entry.path for entry in reversed(inner) if not _why_skipped(entry.name, entries, walk.wanted))


def _why_skipped(name: str, beside: Sequence[os.DirEntry[str]], wanted: Wanted) -> str:
    """Why a folder is not looked into for saves; empty where it is. `beside` is what lies in the same folder."""
    if wanted != "saves":
        return ""
    if name in COPY_FOLDERS:
        return "holds copies that other programs keep"
    names = {entry.name for entry in beside}
    if "GPT_SoVITS" in names and names & _WORKPLACE and not (name.lower().startswith("logs") or "weights" in name.lower()):
        return "a folder of GPT-SoVITS itself, of which only logs* and *weights* hold saves"
    return ""


def _features(folder: str, entries: Sequence[os.DirEntry[str]]) -> Features | None:
    """The features in a folder that is called as data preparation calls it and whose first file is one bare tensor; no other file is opened."""
    if os.path.basename(folder) not in _FEATURES:
        return None
    files = [entry for entry in entries if entry.name.endswith(".pt") and _is_file(entry.path)]
    if not files or not _is_bare(files[0].path):
        return None
    sizes = []
    for entry in files:
        with suppress(OSError):
            sizes.append(entry.stat().st_size)
    return Features(folder, len(sizes), sum(sizes))


def _is_bare(path: str) -> bool:
    """Whether a file holds one tensor and nothing else."""
    try:
        with open_checkpoint(path) as checkpoint:
            return isinstance(checkpoint.root, Tensor)
    except GsvError:
        return False


def _urls(folder: str, failures: list[MissingError], *, recursive: bool) -> Iterator[str]:
    from gsvckpt.files.remote.listing import list_files  # folders of this machine need nothing of it

    try:
        found = list_files(folder, recursive=recursive)
    except MissingError as error:
        failures.append(error)
        return
    for url in found:
        folders = below(folder, url).split("/")
        if not any(map(is_temporary, folders)) and not _OWN.intersection(folders):
            yield url


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:  # a folder that may be listed but not entered; opening the file tells of that
        return True
    except OSError:  # gone meanwhile, or a link to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_checkpoint(path: str) -> bool:
    if shards.is_index(path):
        return path.removesuffix(shards.INDEX).endswith(_SHARDED) or bool(_shards(path))
    if os.path.splitext(path)[1].lower() in EXTENSIONS:
        return True
    if is_url(path):
        return False
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(_PEEK)
    except OSError:
        return False
    holds_pickle = b"data.pkl" in head  # in a zip's first record: documents and programs are zips, too
    is_zip = heads.goes_on_as_zip(head) and (head[:1] == b"0" or (head[:2] == b"PK" and holds_pickle))
    return is_zip or torch_stream.looks_like(head) or safetensors.looks_like(head, size)


def _deserves_a_look(path: str) -> bool:
    if official.named(path):
        return True
    try:
        with open_source(path) as source:
            tail = directory.find_tail(source)
            if tail is not None and any(entry.name.endswith(".pkl") for entry, _ in directory.read_entries(source, tail)):
                return True
            if torch_tar.is_tar(sniff.read_head(source)):
                return sniff.read_head(source)[:100].rstrip(b"\0") in _TAR_MEMBERS
            found = pickle_search.search(source, everywhere=False, front=True)
            verdict = judge_all(found.names, found.calls).verdict
            if verdict == "unsafe":
                return True
            begins = sniff.read_head(source)[:2]
            return begins[:1] == b"\x80" and begins[1:] <= b"\x05" and (not found.complete or verdict == "unknown")
    except GsvError:
        return False
