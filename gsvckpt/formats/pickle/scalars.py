"""Opcodes that put plain values on the stack or move what is there: integers, floats, text, bytes, and the memo.

Readers part over numbers in text: CPython's C unpickler reads INT as C does (`010` is 8), its Python twin as Python does, others as decimals. So a
number is without doubt only as CPython itself writes it (Lib/pickle.py, Modules/_pickle.c; cPickle of Python 2 writes large integers as text in
every protocol). Binary forms wider than needed are read alike by all, but no known pickler writes them, except eight-byte LONG1 (torch's C++ pickler,
torch/csrc/jit/serialization/pickler.cpp).
"""

from __future__ import annotations

import re
import struct
from codecs import escape_decode  # undocumented, and what pickle itself uses
from collections.abc import Mapping
from warnings import catch_warnings, simplefilter

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files.budget import LONG_TEXT
from gsvckpt.formats.pickle.state import Handler, State
from gsvckpt.model import Global, Opaque

MAX_DIGITS = 4_096  # int() of a longer text is quadratic, and Python writes none beyond 4,300
MAX_TEXT = 1 << 24  # bytes of UTF-8, which may take four times as many in memory
MAX_LONG = MAX_DIGITS * 5 // 12  # as many digits, in bytes
# Patterns of numbers and texts as text. They are compiled when they are first needed, which most files never do.
_DECIMAL = rb"-?[1-9][0-9]*|0"
_REAL = rb"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|inf|nan)"  # repr of a float
_OCTAL = rb"([+-]?)0([0-7]+)"
_QUOTED = rb"""(?s)'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_TORCH_LONG = 8  # bytes
_WIDE = "a number in more bytes than it needs, as no pickler writes it"
_BYTEARRAY = Global("__builtin__", "bytearray")  # as protocol 2 spells it
_FLOAT, _U16, _U32, _I32, _U64 = (struct.Struct(code).unpack_from for code in (">d", "<H", "<I", "<i", "<Q"))


def op_proto(m: State, position: int) -> int:
    if m.data[position] > 5:
        raise UnsupportedError(f"pickle protocol {m.data[position]}; the highest is 5")
    if position != m.start + 1:  # from there on, names are looked up by other rules
        m.doubt(position, "a protocol is stated inside the pickle")
    return position + 1


def op_frame(m: State, position: int) -> int:
    begin = position + len(m.take(position, 8))
    m.frames.append((position - 1, begin + _U64(m.data, position)[0]))  # what it covers is compared with it at the end (see frames)
    return begin


def op_mark(m: State, position: int) -> int:
    m.marks.append(m.stack)
    m.stack = []
    return position


def op_pop(m: State, position: int) -> int:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()
    return position


def op_pop_mark(m: State, position: int) -> int:
    m.pop_mark()
    return position


def op_dup(m: State, position: int) -> int:
    m.stack.append(m.stack[-1])
    return position


def op_binput(m: State, position: int) -> int:
    m.memo[m.data[position]] = m.stack[-1]
    return position + 1


def op_long_binput(m: State, position: int) -> int:
    number = _U32(m.data, position)[0]
    if number < 256:
        m.doubt(position, _WIDE, agreed=True)
    m.memo[number] = m.stack[-1]
    return position + 4


def op_put(m: State, position: int) -> int:
    line, position = m.line(position)
    m.memo[_integer(m, position, line)] = m.stack[-1]
    return position


def op_memoize(m: State, position: int) -> int:
    m.memo[len(m.memo)] = m.stack[-1]
    return position


def op_binget(m: State, position: int) -> int:
    m.stack.append(m.memo[m.data[position]])
    return position + 1


def op_long_binget(m: State, position: int) -> int:
    number = _U32(m.data, position)[0]
    if number < 256:
        m.doubt(position, _WIDE, agreed=True)
    m.stack.append(m.memo[number])
    return position + 4


def op_get(m: State, position: int) -> int:
    line, position = m.line(position)
    m.stack.append(m.memo[_integer(m, position, line)])
    return position


def op_none(m: State, position: int) -> int:
    m.stack.append(None)
    return position


def op_newtrue(m: State, position: int) -> int:
    m.stack.append(True)
    return position


def op_newfalse(m: State, position: int) -> int:
    m.stack.append(False)
    return position


def op_binint1(m: State, position: int) -> int:
    m.stack.append(m.data[position])
    return position + 1


def op_binint2(m: State, position: int) -> int:
    value = _U16(m.data, position)[0]
    if value < 256:
        m.doubt(position, _WIDE, agreed=True)
    m.stack.append(value)
    return position + 2


def op_binint(m: State, position: int) -> int:
    value = _I32(m.data, position)[0]
    if 0 <= value < 65_536:
        m.doubt(position, _WIDE, agreed=True)
    m.stack.append(value)
    return position + 4


def op_int(m: State, position: int) -> int:  # "00" and "01" are the booleans of protocol 0
    line, position = m.line(position)
    m.stack.append(line == b"01" if line in (b"00", b"01") else _integer(m, position, line, octal=True))
    return position


def op_long_text(m: State, position: int) -> int:
    line, position = m.line(position)
    m.stack.append(_integer(m, position, line.removesuffix(b"L")))
    return position


def _long(m: State, position: int, count: int) -> int:
    if count > MAX_LONG:
        raise UnsupportedError(f"an integer of {count:,} bytes")
    value = int.from_bytes(m.take(position, count), "little", signed=True)
    if count > 1 and count != _TORCH_LONG and (value + (value < 0)).bit_length() < 8 * count - 8:
        m.doubt(position, _WIDE, agreed=True)
    m.stack.append(value)
    return position + count


def op_long1(m: State, position: int) -> int:
    return _long(m, position + 1, m.data[position])


def op_long4(m: State, position: int) -> int:
    count = _U32(m.data, position)[0]
    if count < 256:
        m.doubt(position, _WIDE, agreed=True)
    return _long(m, position + 4, count)


def op_float(m: State, position: int) -> int:
    line, position = m.line(position)
    value = float(line)
    if not re.fullmatch(_REAL, line):
        m.doubt(position, f"a float spelled {_shown(line)}, which readers read differently")
    m.stack.append(value)
    return position


def op_binfloat(m: State, position: int) -> int:
    m.stack.append(_FLOAT(m.data, position)[0])
    return position + 8


def _text(m: State, position: int, count: int) -> int:
    raw = m.take(position, count)
    if count > MAX_TEXT:
        raise UnsupportedError(f"a text of {count:,} bytes: built to exhaust memory", check="pickle.bomb")
    if count > LONG_TEXT:
        m.spell(count)
    m.stack.append(raw.decode("utf-8", "surrogatepass"))
    return position + count


def op_binunicode(m: State, position: int) -> int:
    return _text(m, position + 4, _U32(m.data, position)[0])


def op_short_binunicode(m: State, position: int) -> int:
    return _text(m, position + 1, m.data[position])


def op_binunicode8(m: State, position: int) -> int:
    count = _U64(m.data, position)[0]
    m.doubt(position, "a text with a length of eight bytes, as picklers write it from 4 GiB on", agreed=True)
    return _text(m, position + 8, count)


def op_unicode(m: State, position: int) -> int:
    line, position = m.line(position)
    if len(line) > LONG_TEXT:
        m.spell(len(line))
    m.stack.append(line.decode("raw-unicode-escape"))
    return position


def op_string(m: State, position: int) -> int:  # the repr of a Python 2 str
    line, position = m.line(position)
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise DamagedError("a text without quotes")
    if not re.fullmatch(_QUOTED, line):
        m.doubt(position, "a text with its own quotes inside, as no pickler writes it", agreed=True)
    if b"\\" not in line:  # next to nothing, where entering catch_warnings takes microseconds
        m.stack.append(m.decode(line[1:-1]))
        return position
    with catch_warnings():
        simplefilter("ignore")  # Python warns of escapes that repr never writes
        m.stack.append(m.decode(escape_decode(line[1:-1])[0]))
    return position


def _byte_string(m: State, position: int, count: int) -> int:
    raw = m.take(position, count)
    if count > MAX_TEXT:
        raise UnsupportedError(f"a text of {count:,} bytes: built to exhaust memory", check="pickle.bomb")
    if count > LONG_TEXT:
        m.spell(count)
    m.stack.append(m.decode(raw))
    return position + count


def op_binstring(m: State, position: int) -> int:
    return _byte_string(m, position + 4, _U32(m.data, position)[0])


def op_short_binstring(m: State, position: int) -> int:
    return _byte_string(m, position + 1, m.data[position])


def _bytes(m: State, position: int, count: int) -> int:
    m.stack.append(m.take(position, count))
    return position + count


def op_binbytes(m: State, position: int) -> int:
    return _bytes(m, position + 4, _U32(m.data, position)[0])


def op_short_binbytes(m: State, position: int) -> int:
    return _bytes(m, position + 1, m.data[position])


def op_binbytes8(m: State, position: int) -> int:
    m.doubt(position, "bytes with a length of eight bytes, as picklers write it from 4 GiB on", agreed=True)
    return _bytes(m, position + 8, _U64(m.data, position)[0])


def op_bytearray8(m: State, position: int) -> int:  # the one form that a bytearray has
    position = _bytes(m, position + 8, _U64(m.data, position)[0])
    m.stack[-1] = Opaque(_BYTEARRAY, "reduce", (m.stack[-1],))
    return position


def _integer(m: State, position: int, line: bytes, *, octal: bool = False) -> int:
    """The value that CPython's C unpickler gives it; `octal` where that reads a leading zero as C does (INT)."""
    if len(line) > MAX_DIGITS:
        raise UnsupportedError(f"an integer of {len(line):,} digits")
    if re.fullmatch(_DECIMAL, line):
        return int(line)
    eight = re.fullmatch(_OCTAL, line) if octal else None
    value = int(eight[1] + eight[2], 8) if eight else int(line, 0)
    m.doubt(position, f"an integer spelled {_shown(line)}, which readers read differently")
    return value


def _shown(line: bytes) -> str:
    return ascii(line[:20].decode("latin-1"))


SCALARS: Mapping[int, Handler] = {
    0x28: op_mark,
    0x30: op_pop,
    0x31: op_pop_mark,
    0x32: op_dup,
    0x42: op_binbytes,
    0x43: op_short_binbytes,
    0x46: op_float,
    0x47: op_binfloat,
    0x49: op_int,
    0x4A: op_binint,
    0x4B: op_binint1,
    0x4C: op_long_text,  # LONG
    0x4D: op_binint2,
    0x4E: op_none,
    0x53: op_string,
    0x54: op_binstring,  # BINSTRING and SHORT_BINSTRING: the text of Python 2
    0x55: op_short_binstring,
    0x56: op_unicode,
    0x58: op_binunicode,
    0x67: op_get,
    0x68: op_binget,
    0x6A: op_long_binget,
    0x70: op_put,
    0x71: op_binput,
    0x72: op_long_binput,
    0x80: op_proto,
    0x88: op_newtrue,
    0x89: op_newfalse,
    0x8A: op_long1,
    0x8B: op_long4,
    0x8C: op_short_binunicode,
    0x8D: op_binunicode8,
    0x8E: op_binbytes8,
    0x94: op_memoize,
    0x95: op_frame,
    0x96: op_bytearray8,
}
