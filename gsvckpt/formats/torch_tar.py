"""torch's container before 0.1.10, a tar of pickles. It is only recognised, because torch.load tries it right after its zip.

`torch.load` gives a file of its own that does not begin with a zip's first local header to `tarfile` (torch/serialization.py, `legacy_load`), which
asks for nothing but the checksum of the first block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gsvckpt.files.local import read_bytes
from gsvckpt.model import Source

BLOCK = 512


class Member(NamedTuple):
    """One entry of a tar: where its data begin, and how many bytes they are."""

    name: str
    offset: int
    size: int


def is_tar(head: bytes) -> bool:
    """Whether a file with these first bytes is a tar archive by its checksum, all that `tarfile` asks for."""
    return _read_header(head[:BLOCK]) is not None


def members(source: Source, most: int) -> Iterator[Member | None]:
    """The entries of a tar, one after another; at last None where they are more than `most`, or one cannot be read."""
    offset = 0
    for _ in range(most):
        if offset + BLOCK > source.size:
            return
        block = read_bytes(source, offset, BLOCK)
        if not any(block):  # the end of an archive
            return
        found = _read_header(block)
        if found is None or found[1] < 0:
            break
        name, size = found
        yield Member(name, offset + BLOCK, size)
        offset += BLOCK + size + -size % BLOCK
    yield None


def _may_be_number(checksum: bytes) -> bool:
    """Whether `tarfile` could read this field: octal digits up to a zero byte, or a binary number. Spares the import for nearly every file."""
    return checksum[0] in (0x80, 0xFF) or not checksum.partition(b"\0")[0].translate(None, b"01234567_+-oO \t\n\r\x0b\x0c")


def _read_header(block: bytes) -> tuple[str, int] | None:
    if len(block) < BLOCK or not _may_be_number(block[148:156]):
        return None
    import tarfile  # most runs never come here

    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    return found.name, found.size
