"""The container that migrate writes, and its head: the first two bytes of a zip, or the metadata of a safetensors header."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from gsvckpt.errors import UsageError
from gsvckpt.sovits import upstream
from gsvckpt.sovits.config import find_config, plain
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.versions import HEADS
from gsvckpt.transforms.plan import Change, Plan

if TYPE_CHECKING:
    from gsvckpt.engine.contiguous import Separated

OWN = "gsvckpt."  # what the writer of safetensors adds and takes away itself
_READABLE = ("format", "config", "info")


def contain(plan: Plan, to: Literal["torch", "safetensors"] | None, shard_size: int | None, *, compact: bool) -> Plan:
    """Today's containers. What was a stream or had compressed records changes by being written. `compact` leaves out bytes that no tensor reaches,
    which a safetensors file never has.
    """
    before = plan.checkpoint.container
    wanted = {"torch": "torch-zip", "safetensors": "safetensors", None: plan.container}[to]
    if wanted != before.format:
        plan = replace(plan, changes=(*plan.changes, Change("to", "container", before.format, wanted)))
    if before.shards or shard_size is not None:
        was = f"{before.shards} files" if before.shards else "one file"
        now = f"files of at most {shard_size:,} bytes" if shard_size is not None else "one file"
        plan = replace(plan, changes=(*plan.changes, Change("to", "shards", was, now)))
    if before.compressed:
        plan = replace(plan, changes=(*plan.changes, Change("to", f"{before.compressed:,} records", "compressed", "stored")))
    if before.refused and wanted == before.format:
        plan = replace(plan, changes=(*plan.changes, Change("to", "container", "a file that torch refuses", wanted)))
    if before.stale:
        plan = replace(plan, changes=(*plan.changes, Change("to", "metadata", "the tree of an older state", "the tensors as they are")))
    if before.byteorder != "little":
        plan = replace(plan, changes=(*plan.changes, Change("to", "byte order", before.byteorder, "little")))
    if wanted == "safetensors":
        from gsvckpt.engine.contiguous import separate  # a torch file keeps its storages as they are

        separated = separate(plan)
        plan = replace(separated.plan, changes=(*separated.plan.changes, *_tell(separated)))
        return replace(plan, container="safetensors", metadata=_readable(plan), shard_size=shard_size)
    plan = _lay_out(plan, compact=compact and plan.over is None)
    if shard_size is not None:
        raise UsageError("shards are safetensors files", where="--max-shard-size", hint="--to safetensors")
    lost = [key for key in plan.metadata if key not in _READABLE and not key.startswith(OWN)]
    changes = [Change("to", "metadata", ", ".join(lost), "dropped: a torch file has no place for it")] if lost else []
    return replace(plan, container="torch-zip", metadata={}, changes=(*plan.changes, *changes))


def _lay_out(plan: Plan, *, compact: bool) -> Plan:
    """Storages as they lay before the file was a safetensors file; `compact` leaves out what no tensor reaches."""
    if not compact and not plan.views:
        return plan
    from gsvckpt.engine.contiguous import Separated, rejoin, separate

    separated = separate(plan, compact=True) if compact else Separated(plan)
    left_out = [change for change in _tell(separated) if change.bytes]
    plan = rejoin(separated.plan if left_out or plan.views else plan)
    return replace(plan, changes=(*plan.changes, *left_out))


def _tell(separated: Separated) -> list[Change]:
    """What changes by giving every tensor a storage of its own."""
    ties, rest = separated.repeated, separated.unreached
    told = [Change("to", "tied tensors", f"{ties:,} bytes shared", "written once for each name")] if ties else []
    return told + ([Change("to", "bytes that no tensor reaches", f"{rest:,}", "left out", rest)] if rest else [])


def _readable(plan: Plan) -> dict[str, str]:
    """What a header tells other programs: where the tensors come from (`pt`, as they expect), and the config and `info` of the model."""
    others = {key: value for key, value in plan.metadata.items() if not key.startswith(OWN)}
    if plan.checkpoint.container.stale:
        return others  # they may be all that is left of the config
    if plan.checkpoint.container.format == "safetensors" and not any(key.startswith(OWN) for key in plan.metadata):
        return others
    import json

    config, info = plain(find_config(plan.root)), plan.root.get("info") if isinstance(plan.root, dict) else None
    others = {key: value for key, value in others.items() if key not in _READABLE}
    told = {"format": "pt"} | ({"config": json.dumps(config, ensure_ascii=False)} if config is not None else {})
    return others | told | ({"info": info} if isinstance(info, str) else {})


def set_head(plan: Plan, identity: Identity, wanted: str) -> Plan:
    """The head that was asked for; `auto` is the one that upstream would write. Raises UsageError where the container has none."""
    if plan.container != "torch-zip":
        if wanted != "auto":
            raise UsageError("only torch's zip has such a head", where="--head")
        return plan
    before = plan.checkpoint.container.head
    head = wanted if wanted != "auto" else _best_head(plan.head, identity)
    if head != (before or "PK"):
        plan = replace(plan, changes=(*plan.changes, Change("head", "first two bytes", before or "none", head)))
    size = plan.checkpoint.source.size
    padded = upstream.padded_size(identity.version, size, base=identity.kind == "sovits-generator-base")
    if not plan.changes and head == "PK" and upstream.applies(identity.kind) and padded is not None:
        plan = replace(plan, changes=(Change("size", "file", f"{size:,} bytes", f"{padded:,} bytes, as GPT-SoVITS expects"),))
    return replace(plan, head=head)


def _best_head(head: str, identity: Identity) -> str:
    """The head that upstream would write. One of the right version that upstream does not know stays: it stops there, while it would take a
    PK file for v3 and sound wrong.
    """
    if not upstream.applies(identity.kind):
        return "PK" if identity.kind != "unknown" else head
    meant = HEADS.get(head)
    is_right = meant is not None and meant.upstream is None and meant.version == identity.version
    if identity.version is None or identity.kind == "sovits-generator-base" or is_right:
        return head
    return upstream.head_for(identity.version, identity.kind == "sovits-lora")
