"""The layout of a file before it is written. Pure data, so that the plan, the dry run and the writer agree to the byte."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gsvckpt.model import Storage

Piece = tuple[int, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A piece of a file that is not a storage's data, compared by identity as storages are."""

    offset: int
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


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

    @property
    def needs_checksums(self) -> bool:
        """Whether the file states the checksums of its storages."""
        return bool(self.close(dict.fromkeys((storage for storage, _ in self.storages), 0)))

    def in_order(self, checksums: Mapping[Storage, int]) -> list[Text | Storage]:
        """Everything that is to be written, from the beginning of the file to its end, each byte once. `checksums` may lack what is not needed."""
        texts = {offset: bytearray(piece) for offset, piece in self.texts}
        begins = sorted(texts)
        for offset, piece in self.close(checksums):
            around = begins[max(bisect_right(begins, offset) - 1, 0)]
            inside = offset - around
            if 0 <= inside < len(texts[around]):  # a checksum in the middle of what was known beforehand
                texts[around][inside : inside + len(piece)] = piece
            else:
                texts[offset] = bytearray(piece)
        placed: list[tuple[int, Text | Storage]] = [(offset, Text(offset, bytes(text))) for offset, text in texts.items()]
        placed += [(offset, storage) for storage, offset in self.storages]
        return [piece for _, piece in sorted(placed, key=lambda pair: (pair[0], pair[1].nbytes))]
