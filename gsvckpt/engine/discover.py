"""Find the checkpoints in a folder: by name, or by their first bytes if the name says nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from gsvckpt.engine.listing import EXTENSIONS, Features, Wanted, list_folder, list_url
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.files.local import open_source
from gsvckpt.files.paths import is_url
from gsvckpt.formats import heads, pickle_search, safetensors, shards, sniff, torch_distributed, torch_stream, torch_tar
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.formats.zip import directory
from gsvckpt.sovits import official

_PEEK = 512
_SHARDED = (".safetensors", ".bin")  # before `.index.json`: an index that names no shards is a damaged one
_TAR_MEMBERS = (b"storages", b"tensors", b"pickle", b"sys_info")  # of torch before 0.1.10, whose tar files torch.load still runs


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Checkpoints below the folders, in order of their paths, how many other files there were, and which folders could not be looked through.

    A checkpoint in several files stands among them by its index; `parts` are its shards that are there. `features` are folders of them, which are
    apart; `skipped`, folders that were not looked into, and why; `incomplete`, shards without an index of which others are missing.
    """

    checkpoints: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()
    rest: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    failures: tuple[MissingError, ...] = ()
    features: tuple[Features, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    incomplete: tuple[shards.MissingParts, ...] = ()

    @property
    def others(self) -> int:
        return len(self.rest)

    @property
    def errors(self) -> tuple[MissingError, ...]:
        """What is missing: folders that could not be looked through, links that lead nowhere, and shards."""
        hint = "get it again, into the same folder"
        return (*self.failures, *(MissingError(one.why, path=one.missing[0], hint=hint, check="container.truncated") for one in self.incomplete))

    def as_json(self) -> dict[str, object]:
        if not self.folders:
            return {}
        features = {"files": sum(one.files for one in self.features), "bytes": sum(one.size for one in self.features)}
        skipped = {"skipped": [{"path": path, "why": why} for path, why in self.skipped]} if self.skipped else {}
        return {"folders": list(self.folders), "ignored": self.others, **({"features": features} if self.features else {}), **skipped}


def find_files(folders: Sequence[str], *, recursive: bool, thorough: bool = False, wanted: Wanted = "all") -> FoundFiles:
    """Look through folders. `failures` has one error for each that cannot be listed, and for one that holds no checkpoint.

    `thorough` also finds zips that hold a pickle anywhere, pickles that would run code, and files that GPT-SoVITS publishes, whatever their names. Of
    folders that are URLs, names alone decide. `wanted`: of "checkpoints" and "saves", features are told apart; of "saves", of a folder of GPT-SoVITS
    itself only `logs*` and `*weights*` are looked into.
    """
    looked = [list_url(folder, recursive=recursive) if is_url(folder) else list_folder(folder, wanted, recursive=recursive) for folder in folders]
    there = frozenset(path for one in looked for path in one.files)
    if wanted == "saves":  # which takes such folders as a whole
        there = frozenset(path for path in there if not torch_distributed.is_metadata(path))
    named = (shard for path in there if shards.is_index(path) for shard in _shards(path))
    parts = frozenset(shard for shard in named if not shards.is_index(shard))  # an index is no shard: it would hide itself, or another
    checkpoints: list[str] = []
    rest: list[str] = []
    failures: list[MissingError] = []
    for folder, one in zip(folders, looked, strict=True):
        found = [path for path in one.files if path not in parts]
        chosen = [path for path in found if _is_checkpoint(path, wanted) or (thorough and not is_url(path) and _deserves_a_look(path))]
        rest += [path for path in found if path not in frozenset(chosen)]
        checkpoints += chosen
        failures += one.failures
        if not chosen and not one.failures and not one.features:
            hint = "choose another folder" if recursive else "-r looks in subfolders, too"
            failures.append(MissingError("holds no checkpoint", path=folder, hint=hint))
    return FoundFiles(
        tuple(checkpoints),
        frozenset(part for part in parts if part in there or os.path.isfile(part)),
        tuple(rest),
        tuple(folders),
        tuple(failures),
        tuple(features for one in looked for features in one.features),
        tuple(skipped for one in looked for skipped in one.skipped),
        tuple(shards.missing_parts(checkpoints)),
    )


def _shards(index: str) -> tuple[str, ...]:
    with suppress(GsvError):
        return shards.members(index)
    return ()


def _is_checkpoint(path: str, wanted: Wanted) -> bool:
    if wanted == "saves" and torch_distributed.is_metadata(path):
        return False
    if shards.is_index(path):
        return shards.indexed_name(path).endswith(_SHARDED) or bool(_shards(path))
    is_apple = os.path.basename(path).startswith("._") and not is_url(path)
    if os.path.splitext(path)[1].lower() in EXTENSIONS and not is_apple:
        return True
    if is_url(path):
        return False
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(_PEEK)
    except OSError:
        return False
    if is_apple and head.startswith(sniff.APPLE_DOUBLE):
        return False
    holds_pickle = b"data.pkl" in head  # in a zip's first record: documents and programs are zips, too
    is_zip = heads.goes_on_as_zip(head) and (head[:1] == b"0" or (head[:2] == b"PK" and holds_pickle))
    named = is_apple and os.path.splitext(path)[1].lower() in EXTENSIONS
    return named or is_zip or torch_stream.looks_like(head) or safetensors.looks_like(head, size)


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
