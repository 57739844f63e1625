"""A plan: what will be written, before anything is. Sizes, tables and the dry run come from it; writing it adds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from gsvckpt.model import Checkpoint, DType, Storage


class Change(NamedTuple):
    """One line of what a plan does: `step` at `where`, from what to what. `bytes` is what it frees."""

    step: str
    where: str
    before: str
    after: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A tree, what becomes of its storages, and the container it goes into.

    `casts` names the storages that change their dtype; all others keep their bytes. `window` is the range of file sizes, [low, high), within which
    GPT-SoVITS detects the right version; the writer pads up to `low`.
    """

    checkpoint: Checkpoint
    root: object
    container: Literal["torch-zip", "safetensors"]
    head: str = "PK"
    window: tuple[int, int] | None = None
    casts: Mapping[Storage, DType] = field(default_factory=dict)
    clamp: bool = False
    changes: tuple[Change, ...] = ()

    def dtype_of(self, storage: Storage) -> DType:
        return self.casts.get(storage, storage.dtype)

    def without_casts(self, storages: frozenset[Storage]) -> Plan:
        """The same plan, but these storages keep their dtype."""
        return replace(self, casts={storage: dtype for storage, dtype in self.casts.items() if storage not in storages})


def begin(checkpoint: Checkpoint) -> Plan:
    """The plan that writes the checkpoint back as it is: its own container (a stream becomes a zip) and its own head."""
    container = checkpoint.container
    kind: Literal["torch-zip", "safetensors"] = "safetensors" if container.format == "safetensors" else "torch-zip"
    return Plan(checkpoint, checkpoint.root, kind, container.head or "PK")
