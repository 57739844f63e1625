"""Limits on what one file may cost to read, and the error for a file that exceeds them.

For a file below 100 MB no command may take more than 10 seconds and 500 MB (`make bench`, "hostile files"; docs/reliability.md). What makes a file
expensive is not its size but the number of things in it, so those are counted where they arise: by the reader of pickles, of zips and of JSON. Every
limit stands here, with the largest honest file that it must admit. A file of a size that is honest and a structure that is not ends in `too_much`.
"""

from __future__ import annotations

from gsvckpt.errors import UnsupportedError

MOST_TENSORS = 105_000  # 100,000 in one file, of which each takes a command up to 100 microseconds and 4 kB
MOST_RECORDS = 110_000  # of a zip: one for each tensor, and a few more
MOST_DIRECTORY = 1 << 25  # bytes of a zip's directory: 100,000 records have about 8 MB
MOST_NAMES = 1 << 25  # characters in names of tensors: a header of 20 MB; one long key can be spelt once and stand in every name
MOST_SHARDS = 25_000  # files of one index

# Of one pickle.
MOST_PICKLE = 1 << 26  # bytes: 100,000 tensors are 20 MB, 2 million integers 10 MB; a reader holds them twice
MOST_OPCODES = 4_500_000  # 100,000 tensors are 3 million, 2 million integers 2 million; each takes about 0.4 microseconds
MOST_WAITING = 2_500_000  # objects on the stack: picklers flush containers every 1,000 items, but a list of 2 million may come at once
MOST_OPEN = 50_000  # containers that are not finished: one for each level of nesting
MOST_REMEMBERED = 1_500_000  # entries of the memo: 100,000 tensors have 900,000
MOST_HEAVY = 600_000  # objects that take much more memory than the bytes that ask for them, in units of about 150 bytes: 100,000 tensors have 200,000
MOST_CONTAINERS = 350_000  # lists and dicts: 300,000 names with a list each; each takes a command up to 25 microseconds
MOST_TUPLES = 600_000  # that are not empty: 100,000 tensors have 400,000
MOST_CLASSES = 5_000  # distinct classes and functions; a training file names 30
LONGEST_NAME = 4_096  # characters of a class's name: CPython's own are below 100
MOST_LETTERS = 1 << 25  # characters of long texts, each of which may take four bytes in memory
LONG_TEXT = 1 << 12  # characters from which on a text is long
MOST_COMPARISONS = 12_500_000  # of different keys with one hash: 5,000 of them in one dict; each copy costs them again

# Of JSON, and of text that people write.
MOST_JSON = 300_000_000  # bytes of memory that the values of a JSON text may take: a header with 100,000 tensors takes 110 million
DEEPEST_KEY = 32  # parts of a dotted TOML key, which take the square of their number in memory
MOST_TOML = 600_000  # values and tables of a TOML document: 10,000 recorded files have 60,000, their tensors with digests 50 each
LONGEST_LINE = 1 << 16  # bytes of a line of a table
MOST_CELLS = 2_000_000  # of a table: 500,000 lines of two columns, as each line counts for two more
MOST_LINES = 250_000  # of a list of digests: one for each file
PATIENCE = 5.0  # seconds that a user's rules may take on all names together; the presets take one on 100,000

_VALUE, _ENTRY, _CONTAINER, _TEXT = 40, 60, 64, 60  # bytes that Python takes for a number in a list, an entry of a dict, an empty dict, a short text
_AT_ONCE = 64  # bytes that are compared in the time of one small key
_COPIES, _WIDE = 3, 9  # bytes held for each byte of JSON, where all is ASCII and where one character may widen all others to four bytes


def too_much(what: str, limit: int, *, where: str = "", check: str = "container.unsupported") -> UnsupportedError:
    """The error for a file with more than `limit` of `what`, which no honest file has."""
    return UnsupportedError(f"too much for a checkpoint: more than {limit:,} {what}", where=where, check=check)


def require_small(json: bytes | str, where: str = "", most: int | None = None) -> None:
    """Raise UnsupportedError where the values of a JSON text would take too much memory, before any of them is made.

    Signs inside texts are counted as if they had a meaning, so that a text with a tree in it is estimated before it is opened as well.
    """
    comma, colon, brace, bracket, quote = (json.count(sign if isinstance(json, str) else sign.encode()) for sign in ',:{["')  # type: ignore[arg-type]  # of the same type
    memory = len(json) * (_COPIES if json.isascii() else _WIDE)
    memory += _VALUE * comma + _ENTRY * colon + _CONTAINER * (brace + bracket) + _TEXT * quote // 2
    most = MOST_JSON if most is None else most
    if memory > most:
        raise too_much(f"bytes of memory for the values of {len(json):,} bytes of JSON", most, where=where)


class Comparisons:
    """Counts what it takes to find the places of keys in the dicts of one file, beyond the one comparison that any key takes.

    The hashes of numbers, and of tuples of them, are no secret, so that a file can choose keys that all collide. Long texts are compared letter by
    letter with an equal one that was spelled elsewhere, each time that either is set.
    """

    __slots__ = ("_made", "_met")

    def __init__(self) -> None:
        self._made = 0
        self._met: dict[int, int] = {}  # how many keys of one hash one dict has

    def count(self, key: object, owner: object) -> None:
        """A key, which can be hashed without harm, is set in the dict `owner`. Raises UnsupportedError."""
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, (int, float)) for part in parts):
            place = hash(key) ^ id(owner)
            same = self._met.get(place, 0)
            self._met[place] = same + 1
            self._made += same
        self._made += sum(len(part) // _AT_ONCE for part in parts if isinstance(part, (str, bytes)))
        if self._made > MOST_COMPARISONS:
            raise too_much("comparisons of keys that collide", MOST_COMPARISONS, check="pickle.bomb")
