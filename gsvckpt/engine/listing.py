"""List the files of a folder, and follow its links to folders, each once; which of them are checkpoints is for others to say."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.save_names import COPY_FOLDERS
from gsvckpt.errors import GsvError, MissingError
from gsvckpt.files.local import is_link
from gsvckpt.files.paths import below
from gsvckpt.files.publish import TRASH
from gsvckpt.files.temporary import is_temporary
from gsvckpt.formats import shards
from gsvckpt.model import Tensor
from gsvckpt.sovits.names import FEATURES

EXTENSIONS = frozenset((".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl"))
_OWN = frozenset((".git", TRASH))  # folders whose files are nobody's checkpoints any more
_WORKPLACE = frozenset(("webui.py", "api.py", "logs", "tools", "weight.json"))  # beside GPT_SoVITS

Wanted = Literal["all", "checkpoints", "saves"]


class Features(NamedTuple):
    """A folder of features that GPT-SoVITS's data preparation wrote: one bare tensor for each clip, which training reads (prepare_datasets/*)."""

    folder: str
    files: int
    size: int


class Listing(NamedTuple):
    """What one folder holds: its files, folders of features, folders that were skipped, and what could not be looked at."""

    files: tuple[str, ...] = ()
    failures: tuple[MissingError, ...] = ()
    features: tuple[Features, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def list_folder(folder: str, wanted: Wanted, *, recursive: bool) -> Listing:
    """The files of a folder of this machine. Of saves, links to folders are left alone; else each folder is looked through once, by its own name
    where it has one below `folder`.
    """
    files: list[str] = []
    failures: list[MissingError] = []
    features: list[Features] = []
    skipped: list[tuple[str, str]] = []
    pending, links = [folder], list[str]()
    above = _identities_above(folder)
    seen: set[tuple[int, int]] = set()
    while pending or links:
        here = pending.pop() if pending else links.pop(0)
        identity = _identity(here)
        if identity in above and here != folder:
            failures.append(MissingError("is a link to a folder above it and was not looked into", path=here, hint="name that folder itself"))
            continue
        if identity is not None and identity in seen:
            continue
        seen.update(() if identity is None else (identity,))
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            failures.append(MissingError(f"cannot be listed: {error.strerror}", path=here))
            continue
        if wanted != "all" and here != folder and (found := _features(here, entries)) is not None:
            features.append(found)
            continue
        files += [entry.path for entry in entries if not is_temporary(entry.name) and _is_file(entry.path)]
        if wanted != "saves":
            failures += [_nowhere(entry.path) for entry in entries if _is_missed(entry, recursive=recursive)]
        if recursive:
            inner = [entry for entry in entries if _is_folder(entry) and entry.name not in _OWN]
            whys = {entry.path: _why_skipped(entry.name, entries, wanted) for entry in inner}
            skipped += [(path, why) for path, why in whys.items() if why]
            pending += [entry.path for entry in reversed(inner) if not whys[entry.path]]
            if wanted != "saves":
                links += [entry.path for entry in entries if entry.name not in _OWN and _is_link_to_folder(entry)]
    return Listing(tuple(files if wanted == "saves" else _once(files)), tuple(failures), tuple(features), tuple(skipped))


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode, by which one folder is known under two names; None where it cannot be asked."""
    try:
        facts = os.stat(folder)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _identities_above(folder: str) -> frozenset[tuple[int, int]]:
    """The folders in which a folder lies; a link to one of them would lead through the whole disk."""
    found = []
    here = os.path.realpath(folder)
    while (parent := os.path.dirname(here)) != here:
        here = parent
        if (identity := _identity(here)) is not None:
            found.append(identity)
    return frozenset(found)


def _is_missed(entry: os.DirEntry[str], *, recursive: bool) -> bool:
    """Whether an entry is a link that leads nowhere, under a name that a checkpoint or, where folders are looked into, a folder would have."""
    if not entry.is_symlink() or os.path.exists(entry.path) or is_temporary(entry.name):
        return False
    extension = os.path.splitext(entry.name)[1].lower()
    return extension in EXTENSIONS or shards.is_index(entry.name) or (recursive and not extension and entry.name not in _OWN)


def _nowhere(link: str) -> MissingError:
    try:
        target = os.readlink(link)
    except OSError:
        target = "?"
    return MissingError(f"is a link to {target}, which is not there", path=link, hint="get that file or folder again, or remove the link")


def _once(files: Sequence[str]) -> list[str]:
    """Files without the links to others of them; of a file whose own name does not say that it is a checkpoint, a link whose name does stays
    instead, as in the cache of Hugging Face.
    """
    links = {path: os.path.realpath(path) for path in files if os.path.islink(path)}
    if not links:
        return list(files)
    folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(path) for path in files}}
    real = {path: links.get(path) or os.path.join(folders[os.path.dirname(path)], os.path.basename(path)) for path in files}
    best: dict[str, str] = {}
    for path in sorted(files, key=lambda path: (os.path.splitext(path)[1].lower() not in EXTENSIONS, path in links)):
        best.setdefault(real[path], path)
    return [path for path in files if best[real[path]] == path]


def _why_skipped(name: str, beside: Sequence[os.DirEntry[str]], wanted: Wanted) -> str:
    """Why a folder is not looked into; empty where it is. `beside` is what lies in the same folder."""
    if name in COPY_FOLDERS:
        return "holds copies that other programs keep"
    if wanted != "saves":
        return ""
    names = {entry.name for entry in beside}
    if "GPT_SoVITS" in names and names & _WORKPLACE and not (name.lower().startswith("logs") or "weights" in name.lower()):
        return "a folder of GPT-SoVITS itself, of which only logs* and *weights* hold saves"
    return ""


def _features(folder: str, entries: Sequence[os.DirEntry[str]]) -> Features | None:
    """The features in a folder that is called as data preparation calls it and whose first file is one bare tensor; no other file is opened."""
    if os.path.basename(folder) not in FEATURES:
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


def list_url(folder: str, *, recursive: bool) -> Listing:
    from gsvckpt.files.remote.listing import list_files  # folders of this machine need nothing of it

    try:
        found = list_files(folder, recursive=recursive)
    except MissingError as error:
        return Listing(failures=(error,))
    inner = [(url, below(folder, url).split("/")) for url in found]
    return Listing(tuple(url for url, names in inner if not any(map(is_temporary, names)) and not _OWN.intersection(names)))


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:  # a folder that may be listed but not entered; opening the file tells of that
        return True
    except OSError:  # gone meanwhile, or a link to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and not is_link(entry.path)
    except OSError:
        return False


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and is_link(entry.path)
    except OSError:
        return False
