"""Recognise a save of a known run by the beginning of its pickle, without unpickling it.

Saves of one run hold the same things with different numbers: up to the place that states the progress, their pickles are equal. Comparing 100 KB
takes a thousandth of the time of unpickling them, which matters because prune looks at thousands of files. What it keeps is read completely
afterwards, and what it removes can be brought back. (inspect shows everything in a file, so it requires all bytes to be equal: that takes several
times as long, and no two files of Lightning are equal. See its known_structure.)
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from gsvckpt.errors import GsvError
from gsvckpt.files.local import open_source
from gsvckpt.model import OpenSource

_FURTHEST = 160 << 10  # bytes of a file in which its progress must stand
_APART = 1 << 16  # by so many bytes saves of one run may differ in size: Lightning's callbacks and texts grow
_LOCAL, _END = struct.Struct("<2s2x22xHH"), struct.Struct("<4s4xHHIIH")
_ZIP64 = 76  # bytes of the two records that torch writes before the last one
# Root entries that tell progress, in the order in which they stand, and an entry behind which nothing is looked at.
_FORMS: tuple[tuple[str, tuple[bytes, ...], bytes], ...] = (
    ("training", (b"iteration",), b""),  # utils.py:75-90
    ("lightning", (b"epoch", b"global_step"), b"loops"),
    ("small", (b"info",), b""),  # process_ckpt.py:41-60
)
_NAMES = (b"name", b"exp_name")  # in the configs of S2 and S1 (sovits/training_run.py)


class KnownBeginning(NamedTuple):
    """What saves of one model have in common: the first two bytes, the number of records, and the pickle between the scalars.

    `names` is the key in the config under which the run's name stands, and whatever else the config says is not compared: each voice has its own.
    """

    form: str
    head: bytes
    records: int
    size: int
    literals: tuple[bytes, ...]
    names: bytes = b""


class Told(NamedTuple):
    """The training progress and the run's name, as far as the beginning of a file states them; the known file has such a name as well."""

    root: dict[str, object]
    identity: str | None = None


class Beginning(NamedTuple):
    """The beginning of a torch zip's pickle, and facts of the zip."""

    head: bytes
    records: int
    size: int
    pickle: bytes
    prefix: str = ""


def read_beginning(path: str) -> Beginning | None:
    """The beginning of a torch zip that has its end; None for any other file, and for one that cannot be read."""
    try:
        with open_source(path) as source:
            return _read(source)
    except GsvError:
        return None


def split_beginning(beginning: Beginning, identity: str = "") -> KnownBeginning | None:
    """What others have in common with a file, whose run is called so; None where nothing can be said."""
    config = beginning.pickle.find(_token(b"config"))
    for names in _NAMES if identity and config >= 0 else ():
        known = KnownBeginning("small", beginning.head, beginning.records, beginning.size, (beginning.pickle[:config],), names)
        told = read_scalars(known, beginning)
        if told is not None and told.identity == identity:
            return known
    for form, keys, last in _FORMS:
        literals = _divide(beginning.pickle, keys, last)
        if literals:
            return KnownBeginning(form, beginning.head, beginning.records, beginning.size, literals)
    return None


def read_scalars(known: KnownBeginning, beginning: Beginning) -> Told | None:
    """The values in a file that begins like the known one except for these; None if it begins differently."""
    same = (beginning.head, beginning.records) == (known.head, known.records)
    if not same or abs(beginning.size - known.size) > _APART:
        return None
    if known.names:
        return _read_weights(known, beginning.pickle)
    values: list[int | str] = []
    place = 0
    for number, literal in enumerate(known.literals):
        if not beginning.pickle.startswith(literal, place):
            return None
        place += len(literal)
        if number < len(_keys(known.form)):
            found = _scalar(beginning.pickle, place)
            if found is None:
                return None
            values.append(found[0])
            place = found[1]
    return Told(_root(known.form, values))


def _read_weights(known: KnownBeginning, pickle: bytes) -> Told | None:
    """The info and the run's name of weights whose tensors are the known ones. Each must stand there once, behind them."""
    begin = len(known.literals[0])
    if not pickle.startswith(known.literals[0]):
        return None
    info = _text_behind(pickle, b"info", begin)
    identity = _text_behind(pickle, known.names, begin)
    return Told(_root("small", [info]), identity) if info is not None and identity else None


def _text_behind(pickle: bytes, key: bytes, begin: int) -> str | None:
    """The text that stands behind a key; None where the key is not there once, or no text follows."""
    token = _token(key)
    at = pickle.find(token, begin)
    if at < 0 or pickle.find(token, at + 1) >= 0:
        return None
    found = _scalar(pickle, _behind_memo(pickle, at + len(token)))
    return found[0] if found is not None and isinstance(found[0], str) else None


def _token(key: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(key)) + key


def _keys(form: str) -> tuple[bytes, ...]:
    return next(keys for name, keys, _ in _FORMS if name == form)


def _root(form: str, values: list[int | str]) -> dict[str, object]:
    """As much of the root as tells progress."""
    if form == "training":
        return {"model": None, "iteration": values[0], "learning_rate": None}
    if form == "lightning":
        return {"pytorch-lightning_version": "", "epoch": values[0], "global_step": values[1]}
    return {"info": values[0]}


def _divide(pickle: bytes, keys: tuple[bytes, ...], last: bytes) -> tuple[bytes, ...]:
    """The pickle's parts before, between and behind the scalars of these keys; empty where they do not stand there once, in this order."""
    literals = []
    place = 0
    for key in keys:
        token = _token(key)
        at = pickle.find(token)
        if at < place or pickle.find(token, at + 1) >= 0:
            return ()
        begin = _behind_memo(pickle, at + len(token))
        found = _scalar(pickle, begin)
        if found is None:
            return ()
        literals.append(pickle[place:begin])
        place = found[1]
    if last:
        end = pickle.find(_token(last), place)
        if end < 0:
            return ()
        literals.append(pickle[place:end])
    return tuple(literals)


def _behind_memo(pickle: bytes, place: int) -> int:
    """Behind BINPUT or LONG_BINPUT, with which the pickler remembers a text."""
    return place + {b"q": 2, b"r": 5}.get(pickle[place : place + 1], 0)


def _scalar(pickle: bytes, place: int) -> tuple[int | str, int] | None:
    """A whole number or a text, and where the next opcode stands."""
    code, rest = pickle[place : place + 1], pickle[place + 1 : place + 1024]
    try:
        if code in (b"K", b"M", b"J"):
            form = {b"K": "<B", b"M": "<H", b"J": "<i"}[code]
            return struct.unpack_from(form, rest)[0], place + 1 + struct.calcsize(form)
        if code == b"\x8a" and len(rest) > rest[0]:
            return int.from_bytes(rest[1 : 1 + rest[0]], "little", signed=True), place + 2 + rest[0]
        if code == b"X":
            (count,) = struct.unpack_from("<I", rest)
            text = rest[4 : 4 + count]
            return (text.decode("utf-8"), place + 5 + count) if len(text) == count else None
    except (struct.error, UnicodeDecodeError, IndexError):
        pass
    return None


def _read(source: OpenSource) -> Beginning | None:
    begin = bytearray(min(source.size, _FURTHEST))
    end = bytearray(_END.size)
    if source.size < len(end) + _LOCAL.size:
        return None
    source.read_into(0, memoryview(begin))
    source.read_into(source.size - len(end), memoryview(end))
    head, name_length, extra_length = _LOCAL.unpack_from(begin)
    signature, _, records, size, offset, comment = _END.unpack(end)
    whole = signature == b"PK\x05\x06" and not comment and source.size - size - offset in (len(end), len(end) + _ZIP64)
    name = bytes(begin[_LOCAL.size : _LOCAL.size + name_length])
    if not whole or bytes(begin[2:4]) != b"\x03\x04" or os.path.basename(name) != b"data.pkl":
        return None
    prefix = name.decode("utf-8", "replace").rpartition("/")[0]
    return Beginning(head, records, source.size, bytes(begin[_LOCAL.size + name_length + extra_length :]), prefix)
