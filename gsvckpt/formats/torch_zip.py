"""torch's zip container (torch 1.6 and later): one pickle, and one stored record per storage (caffe2/serialize/inline_container.cc)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from zlib import crc32

from gsvckpt.errors import DamagedError, GsvError, NotCheckpointError, UnsupportedError
from gsvckpt.formats.torch_objects import StorageTable, rebuild
from gsvckpt.formats.zip_directory import Tail, read_records, require_plain
from gsvckpt.model import Checkpoint, Container, DType, Record, Source, Storage
from gsvckpt.pickles.machine import Machine

MAX_PICKLE = 1 << 27  # 200,000 tensors with optimizer state are about 25 MB


def read(source: Source, tail: Tail) -> Checkpoint:
    """Open a torch zip without reading tensor bytes.

    Raises NotCheckpointError for another kind of zip, DamagedError and UnsupportedError with the record in `where`; those carry the container's
    facts in `known`.
    """
    records = read_records(source, tail)
    prefix = _find_prefix(records)
    by_name = {record.name.removeprefix(prefix): record for record in records if record.name.startswith(prefix)}
    container = Container(
        format="torch-zip",
        records=len(records),
        head=_read(source, 0, 2).decode("latin-1"),
        prefix=prefix.rstrip("/"),
        byteorder=_byteorder(source, by_name),
        storages=sum(record.size for name, record in by_name.items() if name.startswith("data/")),
    )
    machine: Machine | None = None
    try:
        pickled = require_plain(by_name["data.pkl"])
        if pickled.size > MAX_PICKLE:
            raise UnsupportedError(f"a pickle of {pickled.size:,} bytes", where=pickled.name)
        table = StorageTable(lambda key, dtype, location, numel: _locate(source, by_name, key, dtype, location, numel))
        machine = Machine(_read(source, pickled.offset, pickled.size), reduce=rebuild, persist=table.persist)
        root = machine.run()
        if pickled.crc not in (0, crc32(machine.data)):  # behind the run, so that its names are known all the same
            raise DamagedError(
                "the stored bytes do not have the checksum that the zip states", where=pickled.name, hint="get the file again", check="record.crc"
            )
        return Checkpoint(source, replace(container, behind=pickled.size - machine.position), root, tuple(machine.globals), records)
    except GsvError as error:
        error.known = Checkpoint(source, container, None, tuple(machine.globals) if machine else (), records)
        raise


def _find_prefix(records: Sequence[Record]) -> str:
    """The folder that holds data.pkl. torch takes it from the first record's name; here any one folder will do, but only one."""
    names = [record.name for record in records]
    found = [name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise NotCheckpointError(
            "this is a TorchScript program, not a checkpoint",
            hint="torch.jit.load opens it; export the weights with .state_dict()",
            subject="torchscript",
        )
    if len(found) > 1:
        raise DamagedError(
            f"{len(found)} pickles named data.pkl; readers do not agree which one counts", where=found[1] + "data.pkl", check="container.duplicate"
        )
    if not found:
        raise NotCheckpointError(_name_zip(names), hint="unzip it and look inside for .pth, .ckpt or .safetensors files")
    return found[0]


def _name_zip(names: Sequence[str]) -> str:
    inside = f"{len(names):,} entries, first {names[0][:60]!r}" if names else "no entries"
    if names and all(name.endswith(".npy") for name in names):
        return f"this is a NumPy .npz archive, not a checkpoint ({inside})"
    if any(name.endswith((".pth", ".ckpt", ".pt", ".safetensors", ".bin")) for name in names):
        return f"this is a zip of files, not a checkpoint; a checkpoint is inside ({inside})"
    return f"this is a zip of something else, not a checkpoint ({inside})"


def _byteorder(source: Source, by_name: Mapping[str, Record]) -> str:
    record = by_name.get("byteorder")  # torch 2.1 and later; before that always little
    return _read(source, record.offset, min(record.size, 8)).decode("latin-1") if record else "little"


def _locate(source: Source, by_name: Mapping[str, Record], key: str, dtype: DType, location: str, numel: int) -> Storage:
    record = by_name.get(f"data/{key}")
    if record is None:
        raise DamagedError("its record is missing", where=f"storage {key}", check="tensor.bounds")
    require_plain(record)
    if record.size != numel * dtype.itemsize:
        raise DamagedError(f"{record.size:,} bytes stored where {numel:,} x {dtype.name} are announced", where=record.name, check="tensor.bounds")
    return Storage(key, dtype, numel, location, source, record.offset, record.crc or None)


def _read(source: Source, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)
