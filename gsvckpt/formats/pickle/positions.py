"""Find where the numbers, texts and objects of a pickle are, so that pickles that differ only in some of them can be recognised.

The pickle is run without values: an object on the stack is the bytes that spell it. So what belongs to what is known, not guessed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

_PUT = {b"q"[0]: 1, b"r"[0]: 4}  # by opcode, the bytes that follow
_GET = {b"h"[0]: 1, b"j"[0]: 4}
_TEXTS = {b"X"[0]: -4, 0x8C: -1, 0x8D: -8}  # negative: the bytes of the count of those that follow
_NUMBERS: Mapping[int, tuple[int, Literal["unsigned", "signed"]]] = {
    b"K"[0]: (1, "unsigned"),
    b"M"[0]: (2, "unsigned"),
    b"J"[0]: (4, "signed"),
    0x8A: (-1, "signed"),
}
_LINES = -100  # two lines of text follow
_FLOAT, _GLOBAL = b"Gc"
_PUSHES = {
    **dict.fromkeys(b"N)}]\x88\x89", 0),
    **{code: width for code, (width, _) in _NUMBERS.items()},
    **_TEXTS,
    **_GET,
    _FLOAT: 8,
    _GLOBAL: _LINES,
    0x8B: -4,
    b"C"[0]: -1,
    b"B"[0]: -4,
}
_JOINS = {b"Q"[0]: 1, b"R"[0]: 2, 0x81: 2, 0x85: 1, 0x86: 2, 0x87: 3, b"b"[0]: 2, b"a"[0]: 2, b"s"[0]: 3}  # so many objects become one
_MARK, _TUPLE, _SETITEMS, _APPENDS, _BUILD, _APPEND, _SETITEM, _PROTO, _STOP, _LIST = b"(tuebas\x80.]"


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


class Passage(NamedTuple):
    """The opcodes that make one object, which nothing behind them changes or refers to; and the texts from before, by number, that it refers to."""

    begin: int
    end: int
    texts: tuple[tuple[int, str], ...]


class Places(NamedTuple):
    """Where floats begin (8 bytes each) that are values of dicts, or items of lists that are; by key values of the root that are numbers or texts,
    and passages of values; and how many objects are made.
    """

    floats: tuple[int, ...]
    values: Mapping[str, Place]
    passages: Mapping[str, Passage]
    objects: int


class _PickledObject(NamedTuple):
    """An object: the bytes that spell it, whether they are one opcode, and where the float is that it is, or those are that are items of a list."""

    begin: int
    end: int
    single: bool = False
    floats: Sequence[int] = ()


class _Put(NamedTuple):
    """Where an object is remembered, and as what."""

    place: int
    number: int
    item: _PickledObject


def find_places(pickle: bytes, keys: Collection[str], others: Collection[str] = (), longest: int = 0) -> Places | None:
    """Look through a pickle that was read already, whose root is a dict: values by `keys` that are numbers or texts, passages of up to `longest`
    bytes by `others`. Takes about 200 bytes of memory for each opcode.

    A key counts where its text stands once and is not referred to elsewhere, and its value neither. None for a pickle with opcodes that torch does
    not write.
    """
    scan = _Scan(pickle, {*keys, *others})
    try:
        if not scan.run():
            return None
    except (IndexError, ValueError):
        return None
    values = {key: place for key, item in scan.entries(keys) if item.single and (place := scan.place(item)) is not None and scan.is_apart(item)}
    passages = {key: passage for key, item in scan.entries(others) if (passage := scan.passage(item, longest)) is not None}
    return Places(tuple(sorted(scan.floats())), values, passages, scan.objects)


class _Scan:
    """One run. `pairs` are the entries of the dict at the bottom of the stack, in the end the root."""

    def __init__(self, pickle: bytes, wanted: Collection[str]) -> None:
        self.pickle = pickle
        self.stack: list[_PickledObject] = []
        self.marks: list[tuple[list[_PickledObject], int]] = []
        self.pairs: list[tuple[_PickledObject, _PickledObject]] = []
        self.puts: list[_Put] = []
        self.gets: list[tuple[int, int]] = []
        self.set: list[_PickledObject] = []  # values of dicts with floats in them
        self.objects = 0
        self.seen: Counter[bytes] = Counter()
        self.wanted = {key.encode() for key in wanted}

    def run(self) -> bool:
        """Whether there was nothing but what torch writes, and one object in the end."""
        pickle, position, puts, gets = self.pickle, 0, self.puts, self.gets
        while True:
            begin, code = position, pickle[position]
            position += 1
            if code in _PUT:
                position += _PUT[code]
                item = self.stack[-1]
                puts.append(_Put(begin, int.from_bytes(pickle[begin + 1 : position], "little"), item))
                self.stack[-1] = _PickledObject(item.begin, position, item.single, item.floats)
            elif code in _PUSHES:
                position = self._end(position, _PUSHES[code])
                if code in _GET:
                    gets.append((begin, int.from_bytes(pickle[begin + 1 : position], "little")))
                elif code in _TEXTS and (text := pickle[begin + 1 - _TEXTS[code] : position]) in self.wanted:
                    self.seen[text] += 1
                self._make(_PickledObject(begin, position, True, (begin + 1,) if code == _FLOAT else ()))
            elif code == _MARK:
                self.marks.append((self.stack, begin))
                self.stack = []
            elif code in (_TUPLE, _SETITEMS, _APPENDS):
                items, (self.stack, begin) = self.stack, self.marks.pop()
                if code == _TUPLE:
                    self._make(_PickledObject(begin, position))
                else:
                    self._add(items, position, pairs=code == _SETITEMS)
            elif code in _JOINS:
                count = _JOINS[code]
                if count > len(self.stack):
                    return False
                items = self.stack[-count:]
                if code in (_SETITEM, _APPEND, _BUILD):
                    del self.stack[1 - count :]
                    self._add(items[1:] if code != _BUILD else [], position, pairs=code == _SETITEM)
                else:
                    del self.stack[-count:]
                    self._make(_PickledObject(items[0].begin, position))
            elif code == _PROTO and begin == 0:
                position += 1
            else:
                return code == _STOP and len(self.stack) == 1 and not self.marks

    def _end(self, position: int, width: int) -> int:
        if width >= 0:
            return position + width
        if width == _LINES:
            return self.pickle.index(b"\n", self.pickle.index(b"\n", position) + 1) + 1
        return position - width + int.from_bytes(self.pickle[position : position - width], "little")

    def _make(self, item: _PickledObject) -> None:
        self.objects += 1
        if not self.stack and not self.marks:
            self.pairs.clear()
        self.stack.append(item)

    def _add(self, items: list[_PickledObject], end: int, *, pairs: bool) -> None:
        """Give items to the object on top: keys and values, or what a list is extended by."""
        target = self.stack[-1]
        if not pairs:
            floats = target.floats if isinstance(target.floats, list) else []  # grows in place, as a list may be given one item at a time
            if self.pickle[target.begin] == _LIST:  # and none from before
                floats.extend(place for item in items if item.single for place in item.floats)
            self.stack[-1] = _PickledObject(target.begin, end, False, floats)
            return
        set_now = list(zip(items[::2], items[1::2], strict=True))
        self.set.extend(value for _, value in set_now if value.floats)
        if len(self.stack) == 1 and not self.marks:
            self.pairs.extend(set_now)
        self.stack[-1] = _PickledObject(target.begin, end, False, target.floats)

    def entries(self, keys: Collection[str]) -> Iterator[tuple[str, _PickledObject]]:
        """Those of the root whose keys nothing else can be set by."""
        wanted = {key.encode(): key for key in keys}
        for key, value in self.pairs:
            place = self.place(key) if key.single else None
            if place is None or place.form != "text" or key.end != value.begin:
                continue
            text = self.pickle[place.begin : place.end]
            if text in wanted and self.seen[text] == 1 and self.is_apart(key):
                yield wanted[text], value

    def place(self, item: _PickledObject) -> Place | None:
        """The value that a single opcode spells, if it is a whole number or a text."""
        code, begin = self.pickle[item.begin], item.begin + 1
        if code in _TEXTS:
            return Place(begin - _TEXTS[code], self._end(begin, _TEXTS[code]), "text")
        if code not in _NUMBERS:
            return None
        width, form = _NUMBERS[code]
        return Place(begin if width > 0 else begin - width, self._end(begin, width), form)

    def is_apart(self, item: _PickledObject) -> bool:
        """Whether nothing behind an object refers to any part of it."""
        numbers = {put.number for put in self.puts if item.begin <= put.place < item.end}
        return not any(place >= item.end and number in numbers for place, number in self.gets)

    def passage(self, item: _PickledObject, longest: int) -> Passage | None:
        if item.end - item.begin > longest or not self.is_apart(item):
            return None
        latest = {put.number: put.item for put in self.puts if put.place < item.begin}
        inside = [put for put in self.puts if item.begin <= put.place < item.end]
        texts: dict[int, str] = {}
        for place, number in self.gets:
            if item.begin <= place < item.end and not any(put.number == number and put.place < place for put in inside):
                before = latest[number]
                found = self.place(before) if before.single else None
                if found is None or found.form != "text":
                    return None
                texts[number] = self.pickle[found.begin : found.end].decode("utf-8", "surrogatepass")
        return Passage(item.begin, item.end, tuple(texts.items()))

    def floats(self) -> Iterator[int]:
        """Those in values of dicts that cannot come to stand elsewhere, as in a key."""
        fetched = {number for _, number in self.gets}
        shared = [put.place for put in self.puts if put.number in fetched]
        for item in self.set:
            first = bisect_left(shared, item.begin)
            if first == len(shared) or shared[first] >= item.end:
                yield from item.floats
