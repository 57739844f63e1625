"""torch's zip container (torch 1.6 and later), both ways: one pickle, and one stored record a storage (caffe2/serialize/inline_container.cc)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

from gsvckpt.dtypes import UNTYPED, DType
from gsvckpt.errors import DamagedError, GsvError, NotCheckpointError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.torch_objects import REBUILD_V2, REBUILD_V3, StorageTable, rebuild
from gsvckpt.formats.torch_reader import BIG, LITTLE, find_folder, find_refusal, refuse_texts
from gsvckpt.formats.zip.directory import ENCRYPTED, Tail, first_name, read_records, require_plain
from gsvckpt.formats.zip.inflate import DEFLATED, Inflated
from gsvckpt.model import Checkpoint, Container, Global, Record, Source, Storage, Tensor

if TYPE_CHECKING:
    from gsvckpt.formats.layout import Layout
    from gsvckpt.formats.pickle.emitter import EmittedCall, Persistent

MAX_INFLATED_PICKLE = 1 << 22  # 20,000 tensors; a few kilobytes could become any size
PREFIX = "archive"  # torch's name for a file without one; GPT-SoVITS's own folder is the time of saving, different each time
PADDING = ".data/padding"  # an extra record that no reader asks for; it moves the file into the size window that GPT-SoVITS expects
_TEXT = 64  # bytes of a record that states one word or number
_SOUGHT = re.compile(r"data\.pkl|byteorder|(?:\.data/)?version|\.storage_alignment|data/.*", re.DOTALL)  # what torch looks for in its folder
_STORAGE = "storage"  # one object, so that the pickle spells it once


def read(source: Source, tail: Tail, *, inflate: bool = False) -> Checkpoint:
    """Open a torch zip without reading tensor bytes. `inflate` admits compressed records, which torch never writes, and counts them.

    Raises NotCheckpointError for another kind of zip, DamagedError and UnsupportedError with the record in `where`; those carry the container's
    facts in `known`.
    """
    return read_folder(source, read_records(source, tail), first_name(source, tail), inflate=inflate)


def read_folder(source: Source, records: tuple[Record, ...], first: str, *, inflate: bool = False) -> Checkpoint:
    """Read a checkpoint from records that were found in `source`; `first` is the name of the one that was listed first. Raises as `read` does."""
    prefix = _find_prefix(records, first)
    by_name = _by_name(records, prefix)
    opener = _Opener(source, by_name, inflate=inflate)
    container = Container(
        format="torch-zip",
        records=len(records),
        head=read_bytes(source, 0, min(2, source.size)).decode("latin-1"),
        prefix=prefix.rstrip("/"),
        byteorder=_byteorder(opener.text("byteorder")),
        storages=sum(record.size for name, record in by_name.items() if name.startswith("data/")),
        refused=find_refusal(first, prefix, (record.name for record in records), opener.text) or _backslashes(by_name),
    )
    machine: Machine | None = None
    try:
        opened = replace(opener, byteorder=container.byteorder)
        pickled = opened.record("data.pkl")
        most = budget.MOST_PICKLE if pickled.method == 0 else MAX_INFLATED_PICKLE
        if pickled.size > most:
            raise budget.too_much("bytes in a pickle", most, where=pickled.name, check="pickle.bomb")
        table = StorageTable(opened.locate)
        machine = Machine(read_bytes(*opened.place(pickled), pickled.size), reduce=rebuild, persist=table.persist)
        root = machine.run()
        if pickled.crc not in (0, crc32(machine.data)):  # behind the run, so that its names are known all the same
            raise DamagedError(
                "the stored bytes do not have the checksum that the zip states", where=pickled.name, hint="get the file again", check="record.crc"
            )
        container = replace(container, refused=container.refused or refuse_texts(machine.latin1))
        container = replace(container, trailing=pickled.size - machine.position, compressed=sum(record.method != 0 for record in records))
        doubts = tuple(doubt._replace(where=f"{pickled.name}, {doubt.where}") for doubt in machine.doubts)
        return Checkpoint(source, container, root, tuple(machine.globals), records, doubts, machine.calls)
    except GsvError as error:
        error.known = Known(source.size, container, tuple(machine.globals) if machine else (), machine.calls if machine else (), tuple(records))
        raise


def _find_prefix(records: Sequence[Record], first: str) -> str:
    """The folder that holds data.pkl. torch takes that of the `first` entry in the directory; here any one folder will do, but only one.

    torch looks names up without regard to case (miniz, mz_zip_reader_locate_file), and so is it done here.
    """
    names = [_with_slashes(record.name) for record in records]
    found = [name[: -len("data.pkl")] for name in names if fold(name) == "data.pkl" or fold(name).endswith("/data.pkl")]
    if found and any(name in names for name in (f"{found[0]}constants.pkl", f"{find_folder(first)}constants.pkl")):
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


def _with_slashes(name: str) -> str:
    """A record's name as zip spells it; some archivers on Windows write backslashes."""
    return name.replace("\\", "/")


def _by_name(records: Sequence[Record], prefix: str) -> dict[str, Record]:
    """The records of the folder by their names in it, as torch compares them. Where a name is there with slashes and with backslashes, torch finds
    the former.
    """
    named = [(fold(_with_slashes(record.name)), record) for record in sorted(records, key=lambda record: "\\" not in record.name)]
    return {name[len(fold(prefix)) :]: record for name, record in named if name.startswith(fold(prefix))}


def _backslashes(by_name: Mapping[str, Record]) -> str:
    wrong = next((record.name for name, record in by_name.items() if "\\" in record.name and _SOUGHT.fullmatch(name)), None)
    return f"{wrong[:60]} has backslashes for slashes in its name" if wrong is not None else ""


def _name_zip(names: Sequence[str]) -> str:
    count = "1 entry" if len(names) == 1 else f"{len(names):,} entries, first"
    inside = f"{count} {names[0][:60]!r}" if names else "no entries"
    if names and all(name.endswith(".npy") for name in names):
        return f"this is a NumPy .npz archive, not a checkpoint ({inside})"
    if "[Content_Types].xml" in names:
        return f"this is an Office document, not a checkpoint ({inside})"
    inner = [name for name in names if name.endswith((".pth", ".ckpt", ".pt", ".safetensors", ".bin")) and not _is_aside(name)]
    if inner:
        more = f"{len(inner):,} checkpoints are inside, the first {inner[0][:60]}" if len(inner) > 1 else f"a checkpoint is inside: {inner[0][:60]}"
        return f"this is a zip archive of files, not a checkpoint; {more}"
    return f"this is a zip of something else, not a checkpoint ({inside})"


def _is_aside(name: str) -> bool:
    """Whether macOS's archiver put an entry into a zip beside the real one."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _byteorder(text: bytes | None) -> str:
    """What the record says. Torch 2.1 and later write it; before that it was always little."""
    return text.decode("latin-1") if text is not None else LITTLE


def fold(name: str) -> str:
    """A record's name as torch compares it: without regard to the case of ASCII letters, and of no others."""
    return name.lower() if name.isascii() else name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class _Opener:
    """Where the contents of records are: in the file, or for compressed ones behind an inflater."""

    source: Source
    by_name: Mapping[str, Record]
    inflate: bool
    byteorder: str = LITTLE

    def text(self, name: str) -> bytes | None:
        """The beginning of a small record; None where there is no such record, or it is compressed and that is not asked for."""
        record = self.by_name.get(name)
        if record is None or (record.method != 0 and not self._inflates(record)):
            return None
        return read_bytes(*self.place(record), min(record.size, _TEXT))

    def record(self, name: str) -> Record:
        record = self.by_name[name]
        return record if self._inflates(record) else require_plain(record)

    def _inflates(self, record: Record) -> bool:
        return self.inflate and record.method == DEFLATED and not record.flags & ENCRYPTED

    def place(self, record: Record) -> tuple[Source, int]:
        return (self.source, record.offset) if record.method != DEFLATED or not self.inflate else (Inflated(self.source, record), 0)

    def locate(self, key: str, dtype: DType, location: str, numel: int) -> Storage:
        if f"data/{key}" not in self.by_name:
            said = f"PytorchStreamReader failed locating file data/{key}: file not found"
            raise DamagedError("its record is missing", where=f"storage {key}", check="tensor.bounds", torch=said)
        record = self.record(f"data/{key}")
        if record.size != numel * dtype.itemsize:
            raise DamagedError(f"{record.size:,} bytes stored where {numel:,} x {dtype.name} are announced", where=record.name, check="tensor.bounds")
        source, offset = self.place(record)
        if self.byteorder != BIG:  # another word is refused by torch, and nearly certainly a damaged `little`
            return Storage(key, dtype, numel, location, source, offset, record.crc or None)
        if dtype is UNTYPED and numel:
            why = "holds raw bytes of a big-endian machine, which torch itself does not turn round"
            raise UnsupportedError(why, where=record.name, hint="load it on such a machine, and save it there as another type")
        from gsvckpt.formats.byteswap import Swapped  # such files are rare

        return Storage(key, dtype, numel, location, Swapped(source, offset, dtype, record.size), 0)  # the stated checksum is of the other order


def lay_out(root: object, dtype_of: Callable[[Storage], DType], head: str = "PK", padding: int | None = None) -> Layout:
    """Plan the zip of `root`: records in torch's order under PREFIX, storages numbered as the pickle meets them. Pure.

    `dtype_of` says what each storage becomes, `head` replaces the first two bytes, `padding` adds a record of that many zero bytes. Raises
    UnsupportedError for what cannot be written back exactly.
    """
    from gsvckpt.formats.layout import Layout  # what writes is imported when something is written: most runs only read
    from gsvckpt.formats.pickle.emitter import emit
    from gsvckpt.formats.zip import writer

    keys: dict[Storage, str] = {}

    def describe(leaf: Tensor | Storage) -> EmittedCall | Persistent:
        if isinstance(leaf, Tensor):
            return describe_tensor(leaf)
        return describe_storage(leaf, dtype_of(leaf), keys.setdefault(leaf, str(len(keys))))

    opening = {"data.pkl": emit(root, describe), ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    closing = {"version": b"3\n"} | ({PADDING: bytes(padding)} if padding is not None else {})
    sizes = [(name, len(text)) for name, text in opening.items()]
    sizes += [(f"data/{key}", storage.numel * dtype_of(storage).itemsize) for storage, key in keys.items()]
    sizes += [(name, len(text)) for name, text in closing.items()]
    records = writer.lay_out((f"{PREFIX}/{name}", size) for name, size in sizes)
    texts = opening | closing
    places = {record.name.removeprefix(f"{PREFIX}/"): record for record in records}
    owners = {f"{PREFIX}/data/{key}": storage for storage, key in keys.items()}

    def close(checksums: Mapping[Storage, int]) -> tuple[tuple[int, bytes], ...]:
        final = [record._replace(crc=_checksum(record, owners, checksums, texts)) for record in records]
        headers = [(record.header, writer.local_header(record)) for record in final]
        headers[0] = (0, head.encode("latin-1") + headers[0][1][2:])
        end = final[-1].offset + final[-1].size
        return (*headers, (end, writer.directory(final)))

    end, text = close(dict.fromkeys(keys, 0))[-1]
    size = end + len(text)
    return Layout(
        size,
        tuple((places[name].offset, text) for name, text in texts.items()),
        tuple((storage, places[f"data/{key}"].offset) for storage, key in keys.items()),
        close,
    )


def _checksum(record: Record, owners: Mapping[str, Storage], checksums: Mapping[Storage, int], texts: Mapping[str, bytes]) -> int:
    storage = owners.get(record.name)
    return crc32(texts[record.name.removeprefix(f"{PREFIX}/")]) if storage is None else checksums[storage]


def describe_tensor(tensor: Tensor) -> EmittedCall:
    """The call that torch would pickle for `tensor`."""
    from gsvckpt.formats.pickle.emitter import EmittedCall

    args = (tensor.storage, tensor.start, tensor.shape, tensor.stride, tensor.requires_grad, OrderedDict[object, object]())
    if tensor.storage.dtype is UNTYPED:
        return EmittedCall(REBUILD_V3, (*args, Global("torch", tensor.dtype.name)))
    return EmittedCall(REBUILD_V2, args)


def describe_storage(storage: Storage, dtype: DType, key: str) -> Persistent:
    """The persistent id that torch would pickle for `storage` as `dtype` under `key`."""
    from gsvckpt.formats.pickle.emitter import Persistent

    module = "torch.storage" if dtype is UNTYPED else "torch"
    return Persistent((_STORAGE, Global(module, dtype.storage), key, storage.location, storage.numel))
