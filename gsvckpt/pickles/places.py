"""Where the numbers and texts of a pickle stand, so that another pickle can be told to be the same but for some of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

_LONG1 = 0x8A
_FORBIDDEN = frozenset(b"012VSTUILFP\x94")  # what reorders the stack, or says the same in another way; torch writes none of it
_MEMO = {b"q"[0]: 1, b"r"[0]: 4, b"h"[0]: 1, b"j"[0]: 4}


class Place(NamedTuple):
    """Bytes of a pickle that are a value: a whole number (little-endian) or a text in UTF-8."""

    begin: int
    end: int
    form: Literal["unsigned", "signed", "text"] = "unsigned"

    def moved(self, by: int) -> Place:
        """The same place where the pickle begins at byte `by`."""
        return self._replace(begin=self.begin + by, end=self.end + by)

    def read(self, pickle: bytes | bytearray) -> int | str:
        """The value. Raises UnicodeDecodeError."""
        raw = pickle[self.begin : self.end]
        return raw.decode("utf-8") if self.form == "text" else int.from_bytes(raw, "little", signed=self.form == "signed")


class Places(NamedTuple):
    """Where all floats begin (8 bytes each), and by key the values of root entries that are whole numbers or texts."""

    floats: tuple[int, ...]
    values: Mapping[str, Place]


def find_places(pickle: bytes, keys: Collection[str]) -> Places | None:
    """Look through a pickle that was read already. A key counts where its text stands once, is not remembered for elsewhere, and a value follows.

    None for a pickle with opcodes that torch does not write, as then its order does not tell what belongs together.
    """
    floats: list[int] = []
    values: dict[str, Place] = {}
    memos: dict[str, int] = {}  # where the text of a key is remembered
    fetched: set[int] = set()
    seen: list[str] = []
    widths, position, key = _widths(), 0, ""
    wanted = {name.encode(): name for name in keys}
    while position < len(pickle):
        code = pickle[position]
        width = widths.get(code)
        if width is None or code in _FORBIDDEN:
            return None
        begin = position + 1
        if width >= 0:
            position = begin + width
            if code in _MEMO:
                number = int.from_bytes(pickle[begin:position], "little")
                if code in b"hj":
                    fetched.add(number)
                elif key:
                    memos[key] = number
                    continue  # the value is still to come
            elif code == b"G"[0]:
                floats.append(begin)
            elif key and code in b"KMJ":
                values[key] = Place(begin, position, "signed" if code == b"J"[0] else "unsigned")
            key = ""
        elif width == _LINES:
            position = pickle.index(b"\n", pickle.index(b"\n", begin) + 1) + 1
            key = ""
        else:
            count = int.from_bytes(pickle[begin : begin - width], "little")
            position = begin - width + count
            is_text = code in b"X\x8c\x8d"
            if key and (is_text or code == _LONG1):
                values[key] = Place(begin - width, position, "text" if is_text else "signed")
            key = wanted.get(pickle[begin - width : position], "") if is_text and not key else ""
            seen.append(key)
        if code == b"."[0]:
            break
    single = {name for name in values if seen.count(name) == 1 and memos.get(name) not in fetched}
    return Places(tuple(floats), {name: place for name, place in values.items() if name in single})


_LINES = -100  # two lines of text follow


def _widths() -> dict[int, int]:
    """By opcode: how many bytes follow; negative: the bytes of the count of those that follow."""
    import pickletools

    found: dict[int, int] = {}
    for opcode in pickletools.opcodes:
        argument = opcode.arg
        if argument is None:
            found[ord(opcode.code)] = 0
        elif argument.n >= 0:
            found[ord(opcode.code)] = argument.n
        elif argument.n == pickletools.TAKEN_FROM_ARGUMENT1:
            found[ord(opcode.code)] = -1
        elif argument.n in (pickletools.TAKEN_FROM_ARGUMENT4, pickletools.TAKEN_FROM_ARGUMENT4U):
            found[ord(opcode.code)] = -4
        elif argument.n == pickletools.TAKEN_FROM_ARGUMENT8U:
            found[ord(opcode.code)] = -8
        elif opcode.name == "GLOBAL":
            found[ord(opcode.code)] = _LINES
    return found
