"""Check that the frames of protocols 4 and 5 cover what a pickler puts into them (PEP 3154; CPython `Lib/pickle.py`, class `_Framer`).

CPython's C unpickler reads a frame as a whole. If a frame ends inside an opcode's operand, it drops the rest and reads the operand from after the
frame; if a frame continues after the pickle, the next pickle in the file begins after the frame. Its Python twin does neither. The frames of a
pickler begin and end between opcodes, follow one another, and the last one ends with the pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gsvckpt.model import Doubt

_FRAME = 0x95
_LINE, _LINES = -100, -101  # one line of text, two
# The bytes of operands, by opcode (CPython `Lib/pickletools.py`); negative: of the count of bytes that follow.
_WIDTHS: dict[int, int] = {
    **dict.fromkeys(b"FILSVPpg", _LINE),
    **dict.fromkeys(b"ci", _LINES),
    **dict.fromkeys(b"Khq\x80\x82", 1),
    **dict.fromkeys(b"M\x83", 2),
    **dict.fromkeys(b"Jjr\x84", 4),
    **dict.fromkeys(b"G\x95", 8),
    **dict.fromkeys(b"UC\x8a\x8c", -1),
    **dict.fromkeys(b"TXB\x8b", -4),
    **dict.fromkeys(b"\x8d\x8e\x96", -8),
}
_TABLE = [_WIDTHS.get(code, 0) for code in range(256)]


def find_doubts(data: bytes, frames: Sequence[tuple[int, int]], stop: int) -> Iterator[Doubt]:
    """What no pickler would do, of the `frames` (first byte of the opcode, end of the frame) of a pickle whose STOP stands at `stop`."""
    covered = 0
    for begin, end in frames:
        where = f"pickle byte {begin:,}"
        if begin < covered:
            yield Doubt(where, "a frame begins inside another")
        elif end > stop + 1:
            yield Doubt(
                where, f"a frame of {end - begin - 9:,} bytes is longer than what is left of the pickle; readers continue at different places"
            )
        elif not _is_boundary(data, begin + 9, end):
            yield Doubt(where, "a frame ends inside an opcode; readers continue at different places")
        covered = max(covered, end)


def _is_boundary(data: bytes, position: int, end: int) -> bool:
    """Whether an opcode begins at `end`, or the pickle ends there; one begins at `position`. Everything up to there was run before."""
    while position < end:
        code = data[position]
        width = _TABLE[code]
        position += 1
        if width >= 0:
            position += width
        elif width in (_LINE, _LINES):
            for _ in range(1 if width == _LINE else 2):
                position = data.index(b"\n", position) + 1
        else:
            position += int.from_bytes(data[position : position - width], "little") - width
    return position == end
