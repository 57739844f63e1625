"""A checkpoint in several files with an index, as transformers writes large models: `NAME.safetensors.index.json`, `pytorch_model.bin.index.json`.

A zip of torch that was unpacked into a folder is read likewise (see torch_unpacked). Shards without an index are known by their names alone: they are
named as parts, and not read as one checkpoint.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from gsvckpt.errors import DamagedError, MissingError, UnsupportedError, as_error
from gsvckpt.files.budget import MOST_SHARDS, too_much
from gsvckpt.files.local import RestingSource, allow_open_files, make_source, read_bytes
from gsvckpt.files.paths import folder_of, is_url, join, name_of
from gsvckpt.formats import torch_distributed, torch_unpacked
from gsvckpt.formats.heads import HEADS
from gsvckpt.formats.json_values import read_json
from gsvckpt.formats.pickle.calls import calls_of, merge_calls
from gsvckpt.formats.safetensors_tree import HEAD, TREE, restore
from gsvckpt.model import Checkpoint, OpenSource, Source, Tensor, tensor_of

_INDEX = re.compile(r"\.index(?:\.[\w-]+)?\.json\Z")  # diffusers puts a variant between: `.index.fp16.json`
_PART = re.compile(r"(?<![0-9])([0-9]{1,6})([-_]of[-_])([0-9]{1,5})(?![0-9])")
_MOST_OPEN = 2_000  # files at a time
_LARGEST_INDEX = 1 << 26  # 200,000 names of 80 letters are 20 MB


class ShardedSource:
    """Several files as one: their bytes in a row. `path` is that of the index."""

    def __init__(self, path: str, parts: Sequence[OpenSource]) -> None:
        self.path = path
        self.parts = tuple(parts)
        self._begins = list(accumulate((part.size for part in parts), initial=0))
        self.size = self._begins[-1]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError where the files end before."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise DamagedError(f"the files end at byte {self.size:,}", path=self.path)
        done = 0
        while done < len(buffer):
            index = bisect_right(self._begins, offset + done) - 1
            part, inside = self.parts[index], offset + done - self._begins[index]
            count = min(part.size - inside, len(buffer) - done)
            part.read_into(inside, buffer[done : done + count])
            done += count

    def check_unchanged(self) -> None:
        """Raise ChangedError unless every file is what it was."""
        for part in self.parts:
            part.check_unchanged()


class Part(NamedTuple):
    """What `model-00002-of-00004.safetensors` says of itself: it is number 2 of 4."""

    before: str
    digits: str
    after: str
    total: int

    @property
    def number(self) -> int:
        return int(self.digits)

    def sibling(self, number: int) -> str:
        """The path of another part."""
        return f"{self.before}{number:0{len(self.digits)}}{self.after}"


def read_part(path: str) -> Part | None:
    """What a file's name says of the shards of one checkpoint; None where it does not say that it is one of them."""
    name = name_of(path)
    match = _PART.search(name)
    if match is None or not 1 <= int(match[3]) <= MOST_SHARDS or int(match[1]) > int(match[3]):
        return None
    before = path[: len(path) - len(name)] + name[: match.start(1)]
    return Part(before, match[1], name[match.end(1) :], int(match[3]))


class MissingParts(NamedTuple):
    """Shards that are not there, though `there` says by its name that they should be."""

    there: str
    total: int
    missing: tuple[str, ...]

    @property
    def why(self) -> str:
        """A sentence about the first of them."""
        more = len(self.missing) - 1
        others = "" if not more else f", as {name_of(self.missing[1])}" + (f" and {more - 1:,} more are" if more > 1 else " is")
        return f"there is no such file{others}, though {name_of(self.there)} is one of {self.total:,} parts: the checkpoint is incomplete"


_RANK = re.compile(r"(?<=zero_pp_rank_)([0-9]{1,6})(?=_mp_rank_)")  # DeepSpeed's `bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt`


def missing_parts(paths: Iterable[str]) -> list[MissingParts]:
    """The shards that the names of others promise and that are not among `paths`. Numbers begin at 0 or at 1."""
    families: dict[tuple[str, str], list[Part]] = {}
    ranks: dict[tuple[str, str], list[Part]] = {}
    for path in paths:
        if (part := read_part(path)) is not None:
            families.setdefault((part.before, part.after), []).append(part)
        elif (match := _RANK.search(path)) is not None:
            rank = Part(path[: match.start()], match[1], path[match.end() :], 0)
            ranks.setdefault((rank.before, rank.after), []).append(rank)
    found = []
    for parts in ranks.values():  # their names do not say how many there are: ranks between those that are there can be known to be missing
        numbers, last = {part.number for part in parts}, max(parts, key=lambda part: part.number)
        missing = tuple(last.sibling(number) for number in range(last.number) if number not in numbers)
        if missing and last.number < MOST_SHARDS:
            found.append(MissingParts(last.sibling(last.number), last.number + 1, missing))
    for parts in families.values():
        first, numbers = min(parts, key=lambda part: part.number), {part.number for part in parts}
        begin = min(first.number, 1)
        missing = tuple(first.sibling(number) for number in range(begin, begin + first.total) if number not in numbers)
        if missing:
            found.append(MissingParts(first.sibling(first.number), first.total, missing))
    return found


def find_index(folder: str) -> str | None:
    """The path of the one index in a folder, or of the pickle of a checkpoint that was unpacked into it; None where there is none.

    Raises UnsupportedError where there are several.
    """
    try:
        found = sorted(name for name in os.listdir(folder) if _INDEX.search(name) is not None)
    except OSError:
        return None
    if len(found) > 1:
        raise UnsupportedError(f"holds {len(found)} indexes: {', '.join(found[:3])}", path=folder, hint="name the one that is wanted")
    metadata = os.path.join(folder, torch_distributed.METADATA)
    if found:
        return os.path.join(folder, found[0])
    return metadata if torch_distributed.is_metadata(metadata) else torch_unpacked.find_pickle(folder)


def is_index(path: str) -> bool:
    """Whether a path stands for a checkpoint in several files: an index by its name, the pickle of an unpacked zip, or `.metadata` of torch's own."""
    return _INDEX.search(path) is not None or torch_unpacked.is_unpacked(path) or torch_distributed.is_metadata(path)


def indexed_name(index: str) -> str:
    """The path of an index without its ending, as `model.safetensors`."""
    return _INDEX.sub("", index)


def members(index: str) -> tuple[str, ...]:
    """The paths of the shards that an index names, there or not. Raises as `read` does for the index itself."""
    if torch_unpacked.is_unpacked(index):
        return torch_unpacked.files_of(index)[1:]
    if torch_distributed.is_metadata(index):
        return torch_distributed.parts_of(index)
    weight_map, _ = _read_index(index)
    return tuple(join(folder_of(index), name) for name in dict.fromkeys(weight_map.values()))


def read(index: str, read_shard: Callable[[Source], Checkpoint], stack: ExitStack, *, structure_only: bool = False) -> Checkpoint:
    """Open all shards as one flat state dict, or as the tree that the index holds; `stack` closes them. `structure_only`: see `make_source`.

    Raises MissingError for a shard that is not there, DamagedError where index and shards contradict each other, and what opening a shard raises.
    """
    if torch_unpacked.is_unpacked(index):
        return torch_unpacked.read(index, lambda files: _join_files(index, files, stack))
    if torch_distributed.is_metadata(index):
        return torch_distributed.read(index, lambda files: _join_files(index, files, stack))
    weight_map, metadata = _read_index(index)
    folder = folder_of(index)
    names = tuple(dict.fromkeys(weight_map.values()))
    rest = len(names) > _MOST_OPEN
    allow_open_files(0 if rest else len(names))
    sources: list[OpenSource] = []
    shards: dict[str, Checkpoint] = {}
    others = _other_shards(folder, names) if not is_url(index) else []
    for name in names:
        sources.append(_open(join(folder, name), stack, others, structure_only=structure_only, rest=rest))
        shards[name] = read_shard(sources[-1])
    tensors: dict[str, Tensor] = {}
    for name, shard in weight_map.items():
        tensor = tensor_of(shards[shard].root.get(name)) if isinstance(shards[shard].root, dict) else None  # type: ignore[attr-defined]
        if tensor is None:
            raise DamagedError(_why_elsewhere(name, shard, shards), where=name, path=index)
        tensors[name] = tensor
    for shard, opened in shards.items():
        unknown = next((key for key in opened.root if weight_map.get(str(key)) != shard), None) if isinstance(opened.root, dict) else None
        if unknown is not None:
            raise DamagedError(f"is in {shard}, but the index does not say so", where=str(unknown), path=index)
    source = ShardedSource(index, sources)
    first = next(iter(shards.values())).container
    counted = sum(opened.container.records for opened in shards.values())
    total = sum(opened.container.storages for opened in shards.values())
    container = replace(first, records=counted, storages=total, shards=len(shards), metadata=metadata, head=metadata.get(HEAD, first.head))
    if container.head is not None and container.head not in HEADS:
        raise DamagedError(f"names {container.head[:8]!r} as the first bytes of a zip", where="index", path=index)
    classes = tuple(dict.fromkeys(name for opened in shards.values() for name in opened.globals))
    doubts = tuple(doubt._replace(where=f"{shard}, {doubt.where}") for shard, opened in shards.items() for doubt in opened.doubts)
    calls = merge_calls(*(opened.calls for opened in shards.values()))
    if TREE in metadata:
        found = restore(tensors, metadata)
        if found.stale:
            return Checkpoint(source, replace(container, stale=found.stale), tensors, classes, doubts=doubts, calls=calls)
        every = tuple(dict.fromkeys((*classes, *found.names)))
        calls = merge_calls(calls, calls_of(found.root))
        return Checkpoint(source, container, found.root, every, doubts=doubts, calls=calls, views=found.views)
    return Checkpoint(source, container, tensors, classes, doubts=doubts, calls=calls)


def _join_files(path: str, files: Sequence[str], stack: ExitStack) -> tuple[ShardedSource, tuple[int, ...]]:
    rest = len(files) > _MOST_OPEN
    allow_open_files(0 if rest else len(files))
    sources = [_open(file, stack, (), structure_only=False, rest=rest) for file in files]
    return ShardedSource(path, sources), tuple(source.size for source in sources)


def _why_elsewhere(name: str, said: str, shards: Mapping[str, Checkpoint]) -> str:
    """What is wrong with a tensor that is not in the shard that the index names."""
    real = next((shard for shard, opened in shards.items() if isinstance(opened.root, dict) and name in opened.root), None)
    if real is None:
        return f"should be in {said}, but no file of this checkpoint has it"
    return f"is in {real}, but the index says that it is in {said}"


def _other_shards(folder: str, names: Sequence[str]) -> list[str]:
    """The shards in a folder of this machine that an index does not name; none where it names any that is there."""
    try:
        there = set(os.listdir(folder or os.curdir))
    except OSError:
        return []
    return [] if there & set(names) else sorted(name for name in there if read_part(name) is not None)


def _open(path: str, stack: ExitStack, others: Sequence[str], *, structure_only: bool, rest: bool) -> OpenSource:
    if not is_url(path) and not os.path.lexists(path):
        why, hint = "there is no such file, though the index names it: the checkpoint is incomplete", "get it again, into the same folder"
        if others:
            why = f"there is no such file, and the folder holds {others[0]}, which the index does not name: it is the index of another save"
            hint = "get the index of the shards that are there, into the same folder"
        raise MissingError(why, path=path, hint=hint, check="container.truncated")
    source = RestingSource(path) if rest and not is_url(path) else make_source(path, structure_only=structure_only)
    stack.callback(source.close)
    return source


def _read_file(path: str) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):
        raise MissingError("is not a regular file", path=path)
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_INDEX + 1)
    except OSError as error:
        raise as_error(error, path, MissingError) from error


def _read_url(path: str) -> bytes:
    with closing(make_source(path, structure_only=True)) as source:
        return read_bytes(source, 0, min(source.size, _LARGEST_INDEX + 1))


def _read_index(path: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    text = _read_url(path) if is_url(path) else _read_file(path)
    if len(text) > _LARGEST_INDEX:
        raise UnsupportedError(f"an index of more than {_LARGEST_INDEX:,} bytes", path=path)
    try:
        found = read_json(text.decode("utf-8"))
    except (UnicodeDecodeError, DamagedError) as error:
        raise DamagedError("is not valid JSON", where="index", path=path) from error
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedError("has no weight_map", where="index", path=path)
    names: dict[str, str] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or os.path.basename(shard) != shard or shard in {"", ".", ".."} or "\\" in shard:
            raise DamagedError("is listed in a file outside the folder", where=name[:80], path=path)
        names[name] = shard
    if len(set(names.values())) > MOST_SHARDS:
        raise too_much("shards", MOST_SHARDS, where="index")
    metadata = found.get("metadata") if isinstance(found, dict) else None
    known = metadata if isinstance(metadata, dict) else {}
    return names, {key: value for key, value in known.items() if isinstance(value, str)}
