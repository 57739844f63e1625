"""A file before it is written: what lies where. Pure data, so that the plan, the dry run and the writer agree to the byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gsvckpt.model import Storage

Piece = tuple[int, bytes]


class Layout(NamedTuple):
    """`size` in bytes; `texts`, pieces known beforehand; `storages`, where each one's data go; `close`, the pieces that need their checksums."""

    size: int
    texts: tuple[Piece, ...]
    storages: tuple[tuple[Storage, int], ...]
    close: Callable[[Mapping[Storage, int]], tuple[Piece, ...]]

    def first(self, count: int) -> bytes:
        """The first bytes of the file, where checksums of storages count as zero: as near as can be known beforehand. GPT-SoVITS hashes 8 KiB."""
        out = bytearray(min(count, self.size))
        for offset, piece in (*self.texts, *self.close(dict.fromkeys((storage for storage, _ in self.storages), 0))):
            if offset < len(out):
                out[offset : offset + len(piece)] = piece[: len(out) - offset]
        return bytes(out[:count])
