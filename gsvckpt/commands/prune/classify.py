"""Classify one file for retention: by its content, by a similar file, or by its name if it cannot be read."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import xxhash

from gsvckpt.commands.prune.known_beginning import Beginning, KnownBeginning, read_beginning, read_scalars, split_beginning
from gsvckpt.engine.examine import examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.pool.run import Load, run_each
from gsvckpt.engine.saves import Facts, SaveFile
from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Progress, Silent
from gsvckpt.formats import shards
from gsvckpt.model import Tensor
from gsvckpt.sovits.names import folder_rank, parse
from gsvckpt.sovits.training_progress import read_progress
from gsvckpt.sovits.training_run import identity_of

_KEPT = 8  # files that others are compared with: kinds and versions stand in turns
_BY_TENSORS = ("v1", "v2", "v2Pro", "v2ProPlus")  # versions that tensors tell, whatever the folder; v3 and v4 have the same
_CLOCK = r"[12][0-9]{9}(?:\.[0-9]{1,18})?"  # the folder in the zip that `my_save` writes: the time of saving (process_ckpt.py:12-17)
_FORMS = {
    "gpt-training": "gpt-training",
    "generator": "sovits-generator-training",
    "discriminator": "sovits-discriminator-training",
    "gpt-weights": "gpt-weights",
    "sovits-weights": "sovits-weights",
}


class BeginningCache:
    """Beginnings of files that were read, by which other files are recognised: in the same folder, or anywhere where the tensors tell the version."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[KnownBeginning, Facts]]] = {}

    def get(self, path: str, beginning: Beginning) -> Facts | None:
        """Classify a file that begins like a known one except for its numbers."""
        for known, facts in (*self._known.get(os.path.dirname(path), []), *self._known.get("", [])):
            found = read_scalars(known, beginning)
            if found is not None:
                progress, told = read_progress(found.root, path), read_progress(found.root, "")[:2]
                identity = facts.identity if found.identity is None else found.identity
                saved = _saved(beginning.prefix)
                with suppress(OSError):
                    here = measure(path)
                    return facts._replace(file=here, epoch=progress.epoch, step=progress.step, told=told, identity=identity, saved=saved)
        return None

    def add(self, path: str, beginning: Beginning, facts: Facts) -> None:
        """Keep the beginning of a file that was read, if others can have it."""
        known = split_beginning(beginning, facts.identity) if not facts.damaged and not facts.parts else None
        told_behind = known is not None and known.form == "lightning" and facts.kind == "training" and bool(facts.identity)
        if known is not None and not told_behind and read_scalars(known, beginning) is not None:
            anywhere = known.form == "training" and facts.version in _BY_TENSORS
            kept = self._known.setdefault("" if anywhere else os.path.dirname(path), [])
            kept.insert(0, (known, facts))
            del kept[_KEPT:]


def look_through(paths: Sequence[str], cache: BeginningCache) -> list[Facts | None]:
    """What files are, in the order of their paths. One that begins as another in all but its numbers is not read as a pickle again."""
    found: list[Facts | None] = []
    for path in paths:
        beginning = read_beginning(path)
        facts = cache.get(path, beginning) if beginning is not None else None
        if facts is None:
            facts = look(path)
            if facts is not None and beginning is not None:
                cache.add(path, beginning, facts)
        found.append(facts)
    return found


def look(path: str) -> Facts | None:
    """Classify one file. None if it has disappeared meanwhile."""
    try:
        file = measure(path)
        parts = tuple(measure(shard) for shard in shards.members(path)) if shards.is_index(path) else ()
    except OSError:
        return None
    except GsvError as error:
        return Facts(file, why=error.why, damaged=True)
    try:
        with open_checkpoint(path) as checkpoint:
            found = examine(checkpoint)
    except GsvError as error:
        return _by_name(file, parts, error)
    identity = found.identity
    if found.safety.verdict == "unsafe":
        return _by_name(file, parts, GsvError("holds code that would run when it is loaded"))
    trained = any(role == "optimizer" for role in found.roles.values()) and _has_state(checkpoint.root, found.roles)
    known = found.official.file.name if found.official is not None else None
    lora = identity.lora_rank is not None
    return Facts(
        file,
        parts,
        identity.kind,
        identity.version,
        identity.progress.epoch,
        identity.progress.step,
        trained,
        lora,
        known,
        _layout(found.state),
        told=read_progress(checkpoint.root, "", checkpoint.container.metadata)[:2],
        identity=identity_of(checkpoint),
        saved=_saved(checkpoint.container.prefix or ""),
        bare=isinstance(checkpoint.root, Tensor),
    )


def _saved(prefix: str) -> float | None:
    """When a file was saved, in seconds since 1970, where the folder in its zip tells it."""
    return float(prefix) if re.fullmatch(_CLOCK, prefix) else None


def _layout(state: Mapping[str, Tensor]) -> str:
    return xxhash.xxh3_64_hexdigest("\n".join(f"{name}{tensor.shape}" for name, tensor in sorted(state.items())).encode("utf-8", "surrogatepass"))


def _has_state(root: object, roles: Mapping[object, str]) -> bool:
    """Whether there is optimizer state in it, and not only the place for it that stripping leaves."""
    return isinstance(root, dict) and any(root.get(key) for key, role in roles.items() if role == "optimizer")


def _by_name(file: SaveFile, parts: tuple[SaveFile, ...], error: GsvError) -> Facts:
    said = parse(file.path)
    kind = _FORMS.get(said.form or "", "unknown")
    if kind == "sovits-weights" and said.rank is not None:
        kind = "sovits-lora"
    lora = folder_rank(file.path) is not None
    return Facts(file, parts, kind, epoch=said.epoch, step=said.step, lora=lora, why=error.why, damaged=True)


def measure(path: str) -> SaveFile:
    """A file as it is now. Raises OSError."""
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("not a regular file")
    return SaveFile(path, facts.st_size, facts.st_mtime_ns, (facts.st_dev, facts.st_ino), facts.st_nlink)


_PER_LOOK = 0.0004  # seconds that it takes to see what a file is


_CHUNK = 256  # files that a process looks at in one go


class Chunk(NamedTuple):
    """Files that one process classifies together, because the files of a run are alike."""

    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.paths[0]


class Look:
    """The job of prune: classify files. Each process keeps what it has learnt from one chunk to the next."""

    def __init__(self, cache: BeginningCache) -> None:
        self._cache = cache

    def __reduce__(self) -> tuple[Callable[[], Look], tuple[()]]:
        return _look_on, ()

    def __call__(self, item: Chunk, jobs: int, progress: Progress) -> list[Facts | None]:  # noqa: ARG002 - as Job has it
        return look_through(item.paths, self._cache)

    def fail(self, item: Chunk, error: GsvError) -> list[Facts | None]:  # noqa: ARG002 - as Job has it
        raise error


_beginnings = BeginningCache()  # of a process that looks at many chunks


def _look_on() -> Look:
    return Look(_beginnings)


def look_files(paths: Sequence[str], jobs: int) -> list[Facts | None]:
    """What each file is, for retention, in the order of the paths; in processes where there are many, as that is Python and little reading."""
    chunks = [Chunk(tuple(paths[begin : begin + _CHUNK])) for begin in range(0, len(paths), _CHUNK)]
    load = Load(_PER_LOOK * _CHUNK)
    return [facts for found in run_each(Look(BeginningCache()), chunks, load, jobs, Silent()) for facts in found]
