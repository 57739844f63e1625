"""Read the numbers of a big-endian machine as little-endian ones, so that everything behind the reader knows one byte order."""

from __future__ import annotations

from array import array

from gsvckpt.dtypes import DType
from gsvckpt.model import Source

_CODES = {2: "H", 4: "I", 8: "Q"}
_WINDOW = 1 << 20  # bytes turned round at a time, as `array` copies what it turns
_COMPLEX = ("complex128", "complex64", "complex32")  # two numbers, each turned round by itself


class Swapped:
    """The bytes of one storage, each of its numbers turned round. Reads at any place, from several threads."""

    def __init__(self, source: Source, offset: int, dtype: DType, size: int) -> None:
        self.path = source.path
        self.size = size
        self._source = source
        self._offset = offset
        self._width = dtype.itemsize // 2 if dtype.name in _COMPLEX else dtype.itemsize

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError where the file ends before."""
        if self._width == 1:
            self._source.read_into(self._offset + offset, buffer)
            return
        done = 0
        while done < len(buffer):
            begin = (offset + done) // self._width * self._width
            end = min(begin + _WINDOW, -(-(offset + len(buffer)) // self._width) * self._width)
            values = array(_CODES[self._width], bytes(end - begin))
            raw = memoryview(values).cast("B")
            self._source.read_into(self._offset + begin, raw)
            values.byteswap()
            part = raw[offset + done - begin : offset + len(buffer) - begin]
            buffer[done : done + len(part)] = part
            done += len(part)

    def check_unchanged(self) -> None:
        """Check the file that it is read from."""
        check = getattr(self._source, "check_unchanged", None)
        if check is not None:
            check()
