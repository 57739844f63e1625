"""A plan: what will be written. Sizes, tables and the dry run are computed from it before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from gsvckpt.dtypes import DType
from gsvckpt.model import Checkpoint, OriginalView, Source, Storage, Tensor, storages_of

ContainerFormat = Literal["torch-zip", "safetensors"]


class Change(NamedTuple):
    """One line of what a plan does: `step` at `where`, from what to what. `bytes` is what it frees."""

    step: str
    where: str
    before: str
    after: str
    bytes: int = 0


class Product(NamedTuple):
    """How a matrix is computed in float32: `base + up @ down`, of shapes [m, n], [m, rank] and [rank, n]. All are contiguous."""

    base: Tensor
    up: Tensor
    down: Tensor

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(part.storage.source for part in self)


@dataclass(frozen=True, slots=True)
class Plan:
    """A tree, what becomes of its storages, and the container it goes into.

    `casts` names the storages that change their dtype, `products` those that are computed from others (as float32, before a cast); all others keep
    their bytes. `window` is the range of file sizes, [low, high), within which GPT-SoVITS detects the right version; the writer pads up to `low`.
    `metadata` is what a safetensors header says besides. With `shard_size`, the output is a folder of files of at most so many bytes;
    with `over`, a copy of that checkpoint's own bytes in which only tensor data are others. `views` says how tensors that were separated for
    safetensors lay before.
    """

    checkpoint: Checkpoint
    root: object
    container: ContainerFormat
    head: str = "PK"
    window: tuple[int, int] | None = None
    casts: Mapping[Storage, DType] = field(default_factory=dict)
    products: Mapping[Storage, Product] = field(default_factory=dict)
    clamp: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    shard_size: int | None = None
    over: Checkpoint | None = None
    views: Mapping[Tensor, OriginalView] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    def dtype_of(self, storage: Storage) -> DType:
        return self.casts.get(storage, storage.dtype)

    def without_casts(self, storages: frozenset[Storage]) -> Plan:
        """The same plan, but these storages keep their dtype."""
        return replace(self, casts={storage: dtype for storage, dtype in self.casts.items() if storage not in storages})

    def with_root(self, root: object, *changes: Change) -> Plan:
        """The same plan for another tree: what is said of storages that it does not refer to any more is forgotten."""
        alive = storages_of(root)
        casts = {storage: dtype for storage, dtype in self.casts.items() if storage in alive}
        products = {storage: product for storage, product in self.products.items() if storage in alive}
        return replace(self, root=root, casts=casts, products=products, changes=(*self.changes, *changes))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every file that bytes come from, each once, the checkpoint's own first."""
        found = {id(self.checkpoint.source): self.checkpoint.source}
        if self.over is not None:
            found.setdefault(id(self.over.source), self.over.source)
        for storage in storages_of(self.root):
            for source in self.products[storage].sources if storage in self.products else (storage.source,):
                found.setdefault(id(source), source)
        return tuple(found.values())


def begin(checkpoint: Checkpoint) -> Plan:
    """The plan that writes the checkpoint back as it is: its own container (a stream becomes a zip), its own head, its own metadata."""
    container = checkpoint.container
    kind: ContainerFormat = "safetensors" if container.format == "safetensors" else "torch-zip"
    return Plan(checkpoint, checkpoint.root, kind, container.head or "PK", metadata=container.metadata, views=checkpoint.views)
