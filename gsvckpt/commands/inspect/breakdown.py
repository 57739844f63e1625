"""Where a checkpoint's bytes go, how many are wasted, and how many each command would save. No tensor bytes are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.engine.examine import Examination
from gsvckpt.model import Storage, Tensor, contiguous_stride, storages_of, walk
from gsvckpt.sovits.training_state import training_state
from gsvckpt.transforms.cast import select

_HALF = DTYPES["float16"]
_SMALL = 1024  # equal checksums of smaller storages are coincidence or step counters


class Account(NamedTuple):
    """Bytes of a file. `weights`, `optimizer` (all training state), `unused` (no tensor reaches them) and `other` add up to `file`.

    `duplicates`: storages with the size and checksum of an earlier one; `float64`: bytes of weights in double precision. `by_dtype` counts the
    model's tensors and bytes. `saves_fp16` and `saves_strip`: what the two commands would free.
    """

    file: int
    weights: int
    optimizer: int
    unused: int
    duplicates: int
    float64: int
    by_dtype: Mapping[str, tuple[int, int]]
    saves_fp16: int
    saves_strip: int

    @property
    def other(self) -> int:
        return max(self.file - self.weights - self.optimizer - self.unused, 0)


class TensorGroup(NamedTuple):
    """Tensors of the model that share the first parts of their names."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


def account(examination: Examination) -> Account:
    """Count. Each storage counts once, for the first section that holds it."""
    checkpoint = examination.checkpoint
    sections = _sections(examination)
    reached = {storage for group in sections.values() for storage in group}
    slack = _slack(checkpoint.root)
    counts: dict[str, tuple[int, int]] = {}
    for tensor in examination.state.values():
        tensors, size = counts.get(tensor.dtype.name, (0, 0))
        counts[tensor.dtype.name] = (tensors + 1, size + min(tensor.nbytes, tensor.storage.nbytes))
    weights = examination.weights
    chosen = {tensor.storage for tensor in select(checkpoint.root, weights, _HALF).chosen.values()}
    return Account(
        file=checkpoint.source.size,
        weights=_total(sections["weights"]),
        optimizer=_total(sections["optimizer"]),
        unused=max(checkpoint.container.storages - _total(reached), 0) + slack,
        duplicates=_duplicates(reached),
        float64=_total({tensor.storage for tensor in weights.values() if tensor.dtype is DTYPES["float64"]}),
        by_dtype=counts,
        saves_fp16=sum(storage.nbytes - storage.numel * _HALF.itemsize for storage in chosen),
        saves_strip=_total(_freed(examination)),
    )


def _sections(examination: Examination) -> dict[str, set[Storage]]:
    root = examination.checkpoint.root
    found: dict[str, set[Storage]] = {"weights": {t.storage for t in examination.weights.values()}, "optimizer": set(), "other": set()}
    if isinstance(root, dict):
        for key, role in examination.roles.items():
            section = role if role in ("weights", "other") else "optimizer"
            found[section] |= storages_of(root[key]) - found["weights"]
    else:
        found["other"] = storages_of(root) - found["weights"]
    return found


def _freed(examination: Examination) -> set[Storage]:
    root = examination.checkpoint.root
    gone = training_state(root, examination.identity.kind, known=examination.roles)
    if not gone or not isinstance(root, dict):
        return set()
    kept = storages_of({key: value for key, value in root.items() if key not in gone})
    return storages_of({key: root[key] for key in gone}) - kept


def _total(storages: Iterable[Storage]) -> int:
    return sum(storage.nbytes for storage in storages)


def _slack(root: object) -> int:
    """Bytes of referenced storages that no tensor covers: torch.save keeps the whole storage of a small view."""
    covered: dict[Storage, list[tuple[int, int]]] = {}
    for _, leaf in walk(root):
        if isinstance(leaf, Tensor):
            if leaf.stride == contiguous_stride(leaf.shape) and leaf.nbytes == leaf.storage.nbytes:
                covered[leaf.storage] = [(0, leaf.nbytes)]  # nearly all tensors
                continue
            covered.setdefault(leaf.storage, []).append((leaf.start * leaf.dtype.itemsize, (leaf.start + leaf.extent) * leaf.dtype.itemsize))
        elif isinstance(leaf, Storage):
            covered.setdefault(leaf, []).append((0, leaf.nbytes))
    slack = 0
    for storage, spans in covered.items():
        end = 0
        for begin, stop in sorted(spans):
            slack += max(begin - end, 0)
            end = max(end, stop)
        slack += max(storage.nbytes - end, 0)
    return slack


def _duplicates(storages: Iterable[Storage]) -> int:
    seen: set[tuple[int, int]] = set()
    size = 0
    for storage in storages:
        if storage.crc is None or storage.nbytes < _SMALL:
            continue
        mark = (storage.nbytes, storage.crc)
        size += storage.nbytes if mark in seen else 0
        seen.add(mark)
    return size


def group(state: Mapping[str, Tensor], depth: int) -> list[TensorGroup]:
    """The model's tensors by the first `depth` parts of their names, in order of appearance. A storage counts once, where it appears first."""
    groups: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        groups.setdefault(".".join(parts[: min(depth, max(len(parts) - 1, 1))]), []).append((name, tensor))
    seen: set[Storage] = set()
    found: list[TensorGroup] = []
    for name, members in groups.items():
        storages = {tensor.storage for _, tensor in members} - seen
        seen |= storages
        dtypes = dict.fromkeys(tensor.dtype.name for _, tensor in members)
        found.append(TensorGroup(name, len(members), sum(tensor.numel for _, tensor in members), _total(storages), tuple(dtypes)))
    return found


class Memory(NamedTuple):
    """Bytes of memory that a use of the file needs at its peak, for the weights alone; activations come on top."""

    torch_load: int
    load_state_dict: int
    inference_fp16: int
    inference_fp32: int
    resume_training: int | None


def estimate_memory(examination: Examination, counted: Account) -> Memory:
    """Estimate from sizes.

    torch.load holds every storage; GPT-SoVITS reads a file with a version head into bytes, joins it to `PK` (a second copy) and loads that (a
    third; process_ckpt.py:129-138). Resuming holds float32 weights, gradients and AdamW's two moments, 16 bytes a parameter, beside the loaded file.
    """
    parameters = sum(tensor.numel for tensor in examination.state.values())
    headed = examination.checkpoint.container.head not in (None, "PK")
    stored = examination.checkpoint.container.storages
    training = examination.identity.kind in ("gpt-training", "sovits-generator-training", "sovits-discriminator-training", "training")
    return Memory(
        torch_load=stored + 2 * counted.file if headed else stored,
        load_state_dict=sum(storage.nbytes for storage in {tensor.storage for tensor in examination.state.values()}),
        inference_fp16=_sized(examination.state.values(), 2),
        inference_fp32=_sized(examination.state.values(), 4),
        resume_training=stored + parameters * 16 if training else None,
    )


def _sized(tensors: Iterable[Tensor], width: int) -> int:
    def each(dtype: DType) -> int:
        return width if dtype.floating else dtype.itemsize

    return sum(tensor.numel * each(tensor.dtype) for tensor in tensors)
