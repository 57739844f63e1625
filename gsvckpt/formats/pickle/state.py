"""The state of the pickle machine: data, stack with marks, memo, and limits that keep a crafted pickle small."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.model import Doubt, Global, Opaque

MAX_DOUBTS = 8  # told of one pickle; more would add nothing

Reduce = Callable[[Global, object], object]
Persist = Callable[[object], object]


class EndOfPickle(DamagedError):
    """The data ends before the pickle does."""


class State:
    """The state between two opcodes.

    `globals` holds every name met so far, `made` every Opaque, also those that are thrown away again, and `called` the names whose calls made
    something else; `frames` the first byte and the end of each frame, `start` is where the pickle begins; `containers` counts lists and dicts.
    Of the byte strings of Python 2 that are no ASCII, `utf8` counts those that were read as UTF-8, and `latin1` the others; with `all_latin1` none is
    read as UTF-8.
    """

    __slots__ = (
        *("all_latin1", "called", "comparisons", "containers", "copied", "data", "doubts", "frames", "globals", "heavy", "latin1", "letters", "made"),
        *("marks", "memo", "ordered", "persist", "rebuilt", "reduce", "stack", "start", "taken", "tensors", "tuples", "utf8"),
    )

    def __init__(self, data: bytes, reduce: Reduce, persist: Persist, start: int = 0, *, all_latin1: bool = False) -> None:
        self.data, self.start, self.all_latin1 = data, start, all_latin1
        self.doubts: list[Doubt] = []
        self.frames: list[tuple[int, int]] = []
        self.reduce, self.persist = reduce, persist
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[Global, Global] = {}
        self.made: list[Opaque] = []
        self.called: dict[Global, None] = {}
        self.ordered: Global | None = None  # the last name that made an OrderedDict, and a tensor: noted once, as there are many
        self.rebuilt: Global | None = None
        self.taken: dict[int, object] = {}  # by identity: what something was made from (see uses)
        self.comparisons = budget.Comparisons()
        self.containers = self.copied = self.heavy = self.letters = self.tensors = self.tuples = self.latin1 = self.utf8 = 0

    def take(self, position: int, count: int) -> bytes:
        """The next `count` bytes. Raises EndOfPickle when there are fewer."""
        end = position + count
        if end > len(self.data):
            raise EndOfPickle(f"the pickle ends early: {count:,} bytes announced, {len(self.data) - position:,} left")
        return self.data[position:end]

    def line(self, position: int) -> tuple[bytes, int]:
        """The rest of a text line, and the position behind it."""
        end = self.data.find(b"\n", position)
        if end < 0:
            raise EndOfPickle("the pickle ends early: an unfinished text line")
        return self.data[position:end], end + 1

    def pop_mark(self) -> list[object]:
        """Take everything above the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def named(self, module: str, name: str) -> Global:
        """Record a name, and return the one object that represents it."""
        if len(module) + len(name) > budget.LONGEST_NAME:
            raise DamagedError(f"names a class by {len(module) + len(name):,} characters")
        found = Global(module, name)
        known = self.globals.setdefault(found, found)
        if known is found and len(self.globals) > budget.MOST_CLASSES:
            raise budget.too_much("different classes", budget.MOST_CLASSES, check="pickle.bomb")
        return known

    def doubt(self, position: int, why: str, *, agreed: bool = False) -> None:
        """Note an opcode whose operand, which ends before `position`, is spelled as no known pickler spells it."""
        if len(self.doubts) < MAX_DOUBTS:
            self.doubts.append(Doubt(f"pickle byte {position:,}", why, agreed=agreed))

    def charge(self, count: int) -> None:
        """Count what calls copy: an honest pickle spells each item once, a crafted one calls again and again on the same list."""
        self.copied += count
        if self.copied > len(self.data):
            raise UnsupportedError("copies more than it holds: built to exhaust memory", check="pickle.bomb")

    def weigh(self, weight: int) -> None:
        """Count objects that take much more memory than the bytes that ask for them: about 150 bytes for each unit of `weight`."""
        self.heavy += weight
        if self.heavy > budget.MOST_HEAVY:
            raise budget.too_much("objects of the large kinds", budget.MOST_HEAVY, check="pickle.bomb")

    def decode(self, raw: bytes) -> str:
        """The text of a byte string of Python 2: torch reads it as UTF-8, and people who know of others pass it `encoding="latin1"`."""
        if raw.isascii():
            return raw.decode("ascii")
        if not self.all_latin1:
            with suppress(UnicodeDecodeError):
                text = raw.decode()
                self.utf8 += 1
                return text
        self.latin1 += 1
        return raw.decode("latin-1")

    def spell(self, count: int) -> None:
        """Count the characters of a long text."""
        self.letters += count
        if self.letters > budget.MOST_LETTERS:
            raise budget.too_much("characters in long texts", budget.MOST_LETTERS, check="pickle.bomb")

    def look_around(self) -> None:
        """Raise UnsupportedError where there is too much by now: looked at between many opcodes, each of which adds one at most, and at the end."""
        counts = {
            "containers open": (len(self.marks), budget.MOST_OPEN),
            "objects waiting": (len(self.stack) + sum(map(len, self.marks)), budget.MOST_WAITING),
            "objects remembered": (len(self.memo.keys()), budget.MOST_REMEMBERED),
            "lists and dicts": (self.containers, budget.MOST_CONTAINERS),
            "tuples": (self.tuples, budget.MOST_TUPLES),
            "tensors": (self.tensors, budget.MOST_TENSORS),
        }
        for what, (count, limit) in counts.items():
            if count > limit:
                raise budget.too_much(what, limit, check="pickle.bomb")


Handler = Callable[[State, int], int]  # gets the position behind its opcode, returns the position of the next one
