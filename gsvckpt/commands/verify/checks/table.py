"""Check a checkpoint that was opened: one table of all its checks, with the ids that each row answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gsvckpt.commands.verify.checks import containers, layouts, officials, pickles, readers, tensors, versions, zip_bytes
from gsvckpt.commands.verify.checks.answer import Answer, Answered, Skipped
from gsvckpt.commands.verify.findings import CHECKS, family
from gsvckpt.commands.verify.phases import Contents
from gsvckpt.commands.verify.result import Asked
from gsvckpt.engine.examine import Examination
from gsvckpt.files.local import LocalSource
from gsvckpt.model import Distant

_NO_ZIP = Skipped("only a torch zip has this")
_SHARDS = Skipped("each shard is checked by itself")
_UNPACKED = Skipped("its records are files, which state no checksum; gsvckpt migrate makes a checkpoint of them")
_PART = Skipped("the names and shapes of a shard are checked with those of the whole checkpoint")
_ZIP = (
    *("container.directory", "container.headers", "container.duplicate", "container.overlap", "container.range"),
    *("container.compressed", "container.encrypted", "container.gap"),
)


class Check(NamedTuple):
    """One row: `ask` answers the checks of `ids`. Without ids it is asked whatever was selected."""

    ids: tuple[str, ...]
    ask: Callable[[Examination, Contents, Asked], Answer]


def ask_all(examination: Examination, contents: Contents, asked: Asked) -> list[Answered]:
    """The answers to all checks that were selected."""
    selected = asked.options.checks
    return [Answered(row.ids, row.ask(examination, contents, asked)) for row in TABLE if not row.ids or selected.intersection(row.ids)]


def _opening(_: Examination, __: Contents, ___: Asked) -> Answer:
    """What had to be so for the file to be opened at all."""
    return []


def _opening_zip(examination: Examination, _: Contents, __: Asked) -> Answer:
    if _is_sharded(examination):
        return _by_parts(examination)
    return [] if examination.checkpoint.records else _NO_ZIP


def _header(examination: Examination, _: Contents, __: Asked) -> Answer:
    if _format(examination) != "safetensors":
        return Skipped("only a safetensors file has this header")
    return containers.stale(examination.checkpoint)


def _library(examination: Examination, _: Contents, __: Asked) -> Answer:
    source = examination.checkpoint.source
    if _format(examination) != "safetensors":
        return Skipped("only a safetensors file is read by that package")
    if _is_sharded(examination):
        return _by_parts(examination)
    return containers.library(source) if isinstance(source, LocalSource) else Skipped("the package opens only files of this machine")


def _pickle(examination: Examination, _: Contents, __: Asked) -> Answer:
    return Skipped("a safetensors file has no pickle") if _format(examination) == "safetensors" else []


def _safety(examination: Examination, _: Contents, __: Asked) -> Answer:
    return pickles.safety(examination.safety)


def _doubts(examination: Examination, _: Contents, __: Asked) -> Answer:
    return pickles.doubts(examination.safety)


def _head(examination: Examination, _: Contents, __: Asked) -> Answer:
    return containers.head(examination) if examination.checkpoint.records else _NO_ZIP


def _refused(examination: Examination, _: Contents, __: Asked) -> Answer:
    checkpoint = examination.checkpoint
    if checkpoint.records or checkpoint.container.refused or checkpoint.container.format in ("torch-tar", "torch-distributed"):
        return containers.refused(checkpoint)
    return _by_parts(examination) if _is_sharded(examination) else _NO_ZIP


def _rest(examination: Examination, _: Contents, __: Asked) -> Answer:
    """All bytes that are no data: of a zip everywhere, else behind the end."""
    checkpoint = examination.checkpoint
    if _is_sharded(examination):
        return _by_parts(examination)
    return zip_bytes.look(checkpoint.source, checkpoint.records) if checkpoint.records else containers.trailing(checkpoint)


def _local_headers(examination: Examination, _: Contents, __: Asked) -> Answer:
    """What `_rest` leaves out of a file on another machine."""
    source = examination.checkpoint.source
    if isinstance(source, Distant) and source.structure_only:
        return Skipped("--quick does not read between the tensors of a file on another machine")
    return []


def _checksums(examination: Examination, contents: Contents, asked: Asked) -> Answer:
    checkpoint = examination.checkpoint
    if not checkpoint.records and not _is_sharded(examination):
        return Skipped("only a torch zip has checksums")
    if contents.crcs is None:
        return _unread(examination, contents, asked)
    return containers.checksums(checkpoint.root, contents.crcs)


def _stated_checksums(_: Examination, contents: Contents, __: Asked) -> Answer:
    crcs = contents.crcs or {}
    unknown = sum(record.crc == 0 and crc != 0 for record, crc in crcs.items())
    return Skipped(f"{unknown:,} of {len(crcs):,} records state no checksum") if unknown else []


def _bounds(examination: Examination, contents: Contents, _: Asked) -> Answer:
    return _by_parts(examination) if _is_sharded(examination) else tensors.bounds(contents.bombs)


def _finite(examination: Examination, contents: Contents, asked: Asked) -> Answer:
    if contents.extremes is None:
        return _unread(examination, contents, asked)
    kept = [name for name in contents.extremes if examination.roles.get(name.partition("/")[0]) == "optimizer"]
    ours = examination.identity.family in ("gpt", "sovits-generator", "sovits-discriminator")
    return tensors.finite(examination.weights, contents.extremes, frozenset(kept), ours=ours)


def _range(examination: Examination, contents: Contents, asked: Asked) -> Answer:
    return _unread(examination, contents, asked) if contents.extremes is None else tensors.ranges(examination.weights, contents.extremes)


def _bombs(_: Examination, contents: Contents, __: Asked) -> Answer:
    return Skipped("tensors that claim more than the file has were not read") if contents.bombs else []


def _layout(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else layouts.compare(examination, asked.options.layout)


def _config(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else layouts.config(examination)


def _detection(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else versions.detection(examination)


def _claims(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else versions.claims(examination)


def _name(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else versions.name(examination)


def _official(examination: Examination, contents: Contents, _: Asked) -> Answer:
    if _is_sharded(examination):
        return _by_parts(examination)
    return officials.identify(examination.checkpoint.source.path, contents.digests.get("sha256"))


def _against(examination: Examination, _: Contents, asked: Asked) -> Answer:
    if asked.options.against is None:
        return Skipped("--against was not given")
    if asked.expected.part:
        return _PART
    from gsvckpt.commands.verify.checks.against import compare_with  # NumPy is not needed for anything else

    return compare_with(examination, asked.options.against, asked.jobs, asked.progress)


def _resume(_: Examination, __: Contents, asked: Asked) -> Answer:
    return Skipped("reported for the folder of the training run" if asked.options.resume else "--resume was not given")


def _by_parts(examination: Examination) -> Skipped:
    """Why a check of one file's bytes is left out for a checkpoint in several files."""
    return _UNPACKED if examination.checkpoint.container.refused else _SHARDS


def _is_sharded(examination: Examination) -> bool:
    return examination.checkpoint.container.shards > 0


def _format(examination: Examination) -> str:
    return examination.checkpoint.container.format


def _unread(examination: Examination, contents: Contents, asked: Asked) -> Skipped:
    """Why the bytes of tensors were not read."""
    if _is_sharded(examination):
        return _by_parts(examination)
    if asked.options.quick:
        return Skipped("--quick reads no tensor bytes")
    return Skipped(f"the bytes cannot be read: {contents.error.why}" if contents.error is not None else "no numbers were read")


# In the order in which findings of one severity are told.
def _readers(examination: Examination, _: Contents, asked: Asked) -> Answer:
    return _PART if asked.expected.part else readers.readers(examination, asked.options.checks)


TABLE = (
    Check((), _doubts),
    Check(("container.kind", "container.truncated", "container.unsupported"), _opening),
    Check(_ZIP, _opening_zip),
    Check(("container.header",), _header),
    Check(("container.library",), _library),
    Check(("pickle.encoding", "pickle.damaged", "pickle.bomb"), _pickle),
    Check(("pickle.safety",), _safety),
    Check(("container.head",), _head),
    Check(("container.torch",), _refused),
    Check(("container.directory", "container.headers", "container.gap", "container.trailing"), _rest),
    Check(("container.headers", "container.gap"), _local_headers),
    Check(("tensor.bounds",), _bounds),
    Check(("layout.missing", "layout.extra", "layout.shape", "layout.dtype"), _layout),
    Check(("layout.config",), _config),
    Check(("version.upstream",), _detection),
    Check(("version.claims",), _claims),
    Check(("version.name",), _name),
    Check(("record.crc",), _checksums),
    Check(("record.crc",), _stated_checksums),
    Check(("tensor.finite",), _finite),
    Check(("tensor.range",), _range),
    Check(("tensor.finite", "tensor.range"), _bombs),
    Check(tuple(readers.CHECKS.values()), _readers),
    Check(("official.digest",), _official),
    Check(("against.missing", "against.extra", "against.shape", "against.dtype", "against.values"), _against),
    Check(tuple(check for check in CHECKS if family(check) == "resume"), _resume),
)
