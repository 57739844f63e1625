"""Which files of a folder are checkpoints: by name, and those with other names by their first bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gsvckpt.errors import GsvError, MissingError
from gsvckpt.files.local import open_source
from gsvckpt.files.paths import below, is_url
from gsvckpt.files.publish import TRASH
from gsvckpt.files.temporary import is_temporary
from gsvckpt.formats import pickle_search, safetensors, shards, sniff, torch_stream, torch_tar
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.formats.zip import directory
from gsvckpt.sovits import official

EXTENSIONS = frozenset((".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl"))
_OWN = frozenset((".git", TRASH))  # folders whose files are nobody's checkpoints any more
_PEEK = 512
_SHARDED = (".safetensors", ".bin")  # before `.index.json`: an index that names no shards is a damaged one
_TAR_MEMBERS = (b"storages", b"tensors", b"pickle", b"sys_info")  # of torch before 0.1.10, whose tar files torch.load still runs


@dataclass(frozen=True, slots=True)
class Found:
    """Checkpoints below the folders, in order of their paths, how many other files there were, and which folders could not be looked through.

    A checkpoint in several files stands among them by its index; `parts` are its shards that are there.
    """

    checkpoints: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()
    others: int = 0
    folders: tuple[str, ...] = ()
    failures: tuple[MissingError, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"folders": list(self.folders), "ignored": self.others} if self.folders else {}


def find_files(folders: Sequence[str], *, recursive: bool, thorough: bool = False) -> Found:
    """Look through folders. `failures` has one error for each that cannot be listed, and for one that holds no checkpoint.

    `thorough` also finds zips that hold a pickle anywhere, pickles that would run code, and files that GPT-SoVITS publishes, whatever their names. Of
    folders that are URLs, names alone decide.
    """
    checkpoints: list[str] = []
    failures: list[MissingError] = []
    parts: set[str] = set()
    there: set[str] = set()
    others = 0
    for folder in folders:
        before = len(checkpoints) + len(failures)
        found = list((_urls if is_url(folder) else _files)(folder, failures, recursive=recursive))
        there.update(found)
        named = (shard for path in found if shards.is_index(path) for shard in _shards(path))
        parts.update(shard for shard in named if not shards.is_index(shard))  # an index is no shard: it would hide itself, or another
        for path in found:
            if path in parts:
                continue
            if _is_checkpoint(path) or (thorough and not is_url(path) and _deserves_a_look(path)):
                checkpoints.append(path)
            else:
                others += 1
        if before == len(checkpoints) + len(failures):
            hint = "choose another folder" if recursive else "-r looks in subfolders, too"
            failures.append(MissingError("holds no checkpoint", path=folder, hint=hint))
    return Found(
        tuple(checkpoints), frozenset(part for part in parts if part in there or os.path.isfile(part)), others, tuple(folders), tuple(failures)
    )


def _shards(index: str) -> tuple[str, ...]:
    with suppress(GsvError):
        return shards.members(index)
    return ()


def _files(folder: str, failures: list[MissingError], *, recursive: bool) -> Iterator[str]:
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            failures.append(MissingError(f"cannot be listed: {error.strerror}", path=here))
            continue
        for entry in entries:
            if not is_temporary(entry.name) and _is_file(entry.path):
                yield entry.path
        if recursive:
            pending.extend(entry.path for entry in reversed(entries) if _is_folder(entry) and entry.name not in _OWN)


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
    is_zip = head[2:4] == b"\x03\x04" and (head[:1] == b"0" or (head[:2] == b"PK" and holds_pickle))
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
