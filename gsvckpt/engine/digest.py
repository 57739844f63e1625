"""Read a checkpoint once and compute checksums of its records, digests of its tensors and of the file, and counts of NaN and infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import xxhash

from gsvckpt.devices.device import Device, Extremes
from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.engine.single_pass import SweepSpan, sweep
from gsvckpt.engine.strided_read import logical_bytes
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import Buffers, Stopped, for_each, read_chunks
from gsvckpt.model import Checkpoint, Record, Source, Tensor, contiguous_stride

_PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}  # complex numbers are looked at part by part


class Digest(Protocol):
    """A running digest, of hashlib or xxhash."""

    def update(self, data: memoryview | bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class ContentDigests(NamedTuple):
    """What was learnt, by record and by the tensors' names; empty where it was not asked for."""

    crcs: Mapping[Record, int]
    extremes: Mapping[str, Extremes]
    digests: Mapping[str, str]
    file: Mapping[str, str]


def read_contents(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    device: Device | None,
    wanted: frozenset[str],
    *,
    checksums: bool,
    jobs: int,
    progress: Progress,
) -> ContentDigests:
    """Read a checkpoint once. `device` looks at numbers, None where they are not asked for; `wanted` are digests of the file: xxh3_128,
    content, sha256, md5.

    Raises DamagedError where bytes cannot be read.
    """
    content = "content" in wanted
    spans: dict[tuple[int, int], SweepSpan] = {}
    records = {record: SweepSpan(record.offset, record.size, crc=True) for record in checkpoint.records if record.method == 0} if checksums else {}
    for span in records.values():
        spans[span[:2]] = span
    plain: dict[str, tuple[int, int]] = {}
    odd: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not content and device is None:
            continue
        is_all = tensor.storage.source is checkpoint.source and tensor.nbytes == tensor.storage.nbytes
        if not is_all or tensor.stride != contiguous_stride(tensor.shape):
            odd[name] = tensor
            continue
        place = plain[name] = tensor.storage.offset, tensor.nbytes
        known = spans.get(place)
        dtype = _numbers(tensor.dtype) if device is not None else None
        spans[place] = SweepSpan(*place, crc=known is not None and known.crc, digest=content, dtype=dtype)
    swept = sweep(checkpoint.source, list(spans.values()), device, entire_file="xxh3_128" in wanted, jobs=jobs, progress=progress)
    extremes = {name: swept.extremes[spans[place]] for name, place in plain.items() if spans[place] in swept.extremes}
    digests = {name: swept.digests[spans[place]].hex() for name, place in plain.items() if spans[place] in swept.digests}
    looked = _read_odd(odd, device, jobs, progress)
    extremes |= {name: found for name, (found, _) in looked.items() if found is not None}
    digests |= {name: digest for name, (_, digest) in looked.items()} if content else {}
    crcs = {record: swept.crcs[spans[span[:2]]] for record, span in records.items()}
    file = {"xxh3_128": swept.file} if swept.file is not None else {}
    file |= digest_file(checkpoint.source, wanted & {"sha256", "md5"}, jobs, progress)
    if content:
        file["content"] = _content(tensors, digests)
    return ContentDigests(crcs, extremes, digests, file)


def _numbers(dtype: DType) -> DType | None:
    """The type as which values of this one are looked at; None for types without NaN and infinity."""
    if dtype.name in _PARTS:
        return DTYPES[_PARTS[dtype.name]]
    return dtype if dtype.floating or dtype.name.startswith("float8") else None


def _content(tensors: Mapping[str, Tensor], digests: Mapping[str, str]) -> str:
    """A digest over names, dtypes, shapes and values, in the order of the names: the container leaves no trace in it."""
    total = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype.name}\0{list(tensor.shape)}\0{digests[name]}\n".encode("utf-8", "surrogatepass"))
    return str(total.hexdigest())


class _Odd(NamedTuple):
    """A tensor that is not the whole of its storage in row-major order, or whose bytes are not those of the file."""

    name: str
    nbytes: int


def _read_odd(tensors: Mapping[str, Tensor], device: Device | None, jobs: int, progress: Progress) -> dict[str, tuple[Extremes | None, str]]:
    def look(odd: _Odd, buffers: Buffers) -> tuple[Extremes | None, str]:
        tensor = tensors[odd.name]
        dtype = _numbers(tensor.dtype)
        digest = xxhash.xxh3_128()
        extremes = Extremes()
        for data in logical_bytes(tensor):
            if buffers.stop.is_set():
                raise Stopped
            digest.update(data)
            if device is not None and dtype is not None:
                extremes += device.extremes(data, dtype)
            buffers.progress.advance(len(data))
        return extremes if device is not None and dtype is not None else None, digest.hexdigest()

    pieces = [_Odd(name, tensor.nbytes) for name, tensor in tensors.items()]
    progress.expect(sum(piece.nbytes for piece in pieces))
    return {piece.name: found for piece, found in for_each(pieces, look, jobs=jobs, progress=progress).items()}


class _Algorithm(NamedTuple):
    """A digest to compute over a whole file, on a thread of its own: these are slower than reading."""

    name: str
    nbytes: int = 1 << 30


def digest_file(source: Source, names: frozenset[str], jobs: int, progress: Progress) -> dict[str, str]:
    """Digests of all bytes of a file, in hex, by name: those of hashlib, and xxh32, xxh64, xxh3_64, xxh3_128."""

    def run(algorithm: _Algorithm, buffers: Buffers) -> str:
        digest = new_digest(algorithm.name)
        for _, chunk in read_chunks(source, memory=buffers.raw):
            if buffers.stop.is_set():
                raise Stopped
            digest.update(chunk)
            buffers.progress.advance(len(chunk))
        return str(digest.hexdigest())

    progress.expect(source.size * len(names))
    done = for_each([_Algorithm(name) for name in sorted(names)], run, jobs=jobs, progress=progress)
    return {algorithm.name: digest for algorithm, digest in done.items()}


def new_digest(name: str) -> Digest:
    """A running digest of this name."""
    if name.startswith("xxh"):
        made: Callable[[], Digest] = getattr(xxhash, name)
        return made()
    import hashlib  # OpenSSL takes 4 ms to load

    return hashlib.new(name, usedforsecurity=False)
