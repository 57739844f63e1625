r"""Plain values as JSON that any program reads alike, and back without a lost bit; and reading such JSON from anybody.

null, true, false, numbers and text stand for themselves. What JSON has no form for, or what some parser would spoil, is an object:

    {"bytes": base64}  {"name": [module, name]}  {"int": digits} where a double would round it
    {"float": "NaN" or "Infinity" or "-Infinity", "bits": hex} with the bits of a NaN that is not the usual one
    {"escaped": text} where it has halves of surrogate pairs, which are written as `\ud800`; a backslash is doubled
"""

from __future__ import annotations

import re
import struct
from binascii import a2b_base64, b2a_base64
from math import inf, isfinite, isnan, nan
from typing import TypeAlias

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files.budget import require_small
from gsvckpt.model import Global, Opaque, Storage, Tensor

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

PLAIN = {"bytes", "name", "int", "float", "escaped"}  # the first keys of the objects above
_SAFE = (1 << 53) - 1  # the largest integer that every parser keeps (RFC 8259, section 6)
_MAX_BITS, _MAX_DIGITS = 14_000, 4_300  # of an integer: more than the reader of pickles takes, no more than Python converts
_MAX_KEY = (1 << 61) - 1  # as in pickles.objects: larger integers can be made to collide in a dict
_KEYS = (str, int, float, bytes, Global, Opaque, Tensor, Storage)
_NAN = "7ff8000000000000"
_FLOATS = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}


def damaged(why: str) -> DamagedError:
    return DamagedError(why, where="metadata", check="container.header")


def write_json(tree: Json) -> str:
    """The text of `tree`, without a newline."""
    import json  # most runs need none

    try:
        return json.dumps(tree, ensure_ascii=False, allow_nan=False, check_circular=False)
    except RecursionError as error:  # near MAX_DEPTH when the caller's own stack is deep
        raise UnsupportedError("nested too deeply to be written") from error


def read_json(text: str) -> Json:
    """What `text` says. Raises DamagedError where it is no JSON, or where parsers might not agree on what it says, and
    UnsupportedError where its values would take too much memory.
    """
    import json  # most runs need none

    require_small(text)
    try:
        tree: Json = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise damaged("is nested too deeply") from error
    except ValueError as error:
        raise damaged(f"is not valid JSON ({str(error)[:80]})") from error
    return tree


def to_json(value: object) -> Json:
    """Raises UnsupportedError, without a place, for what is no plain value."""
    if value is None or value is True or value is False:
        return value
    if type(value) is str:
        return value if is_sound(value) else {"escaped": _escape(value)}
    if type(value) is int:
        if value.bit_length() > _MAX_BITS:
            raise UnsupportedError(f"an integer of {value.bit_length():,} bits cannot be written as JSON")
        try:
            return value if abs(value) <= _SAFE else {"int": str(value)}
        except ValueError as error:  # PYTHONINTMAXSTRDIGITS is below what Python allows of itself
            raise UnsupportedError(f"an integer cannot be written as JSON ({str(error)[:80]})") from error
    if type(value) is float:
        if isfinite(value):
            return value
        bits = struct.pack(">d", value).hex()
        kind = "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {"float": kind, "bits": bits} if isnan(value) and bits != _NAN else {"float": kind}
    if type(value) is bytes:
        return {"bytes": b2a_base64(value, newline=False).decode()}
    if isinstance(value, Global):
        if not is_sound(value.module + value.name):
            raise UnsupportedError("a class name with characters that cannot be written")
        return {"name": [value.module, value.name]}
    raise UnsupportedError(f"a {type(value).__name__} cannot be written as JSON")


def from_json(json: Json) -> object:
    """The value that `to_json` was given. Raises DamagedError for what it would not have returned, such as another spelling of the same value."""
    try:
        made = _make(json) if isinstance(json, dict) else json
        sound = to_json(made) == json
    except (ValueError, TypeError, KeyError, struct.error, UnsupportedError) as error:
        raise damaged(f"has a value of an unknown form ({str(error)[:80]})") from error
    if not sound:
        raise damaged("has a value of an unknown form")
    return made


def is_sound(text: str) -> bool:
    """Whether `text` can be written as UTF-8: halves of surrogate pairs cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def array_of(json: Json) -> list[Json]:
    if not isinstance(json, list):
        raise damaged("has something else where an array is expected")
    return json


def pairs_of(json: Json) -> list[list[Json]]:
    pairs = [array_of(pair) for pair in array_of(json)]
    if any(len(pair) != 2 for pair in pairs):
        raise damaged("has something else where a pair is expected")
    return pairs


def key_fault(key: object) -> str:
    """Why `key` may be none, "" if it may. As in pickles.objects: to hash what is crafted may recurse without end."""
    parts = key if isinstance(key, tuple) and len(key) <= 64 else (key,)
    if any(isinstance(part, int) and abs(part) > _MAX_KEY for part in parts):
        return "an integer key beyond 61 bits"
    odd = next((part for part in parts if part is not None and not isinstance(part, _KEYS)), None)
    return "" if odd is None else f"a {type(odd).__name__} as a key"


def _make(fields: dict[str, Json]) -> object:
    tag, content = next(iter(fields.items()))
    if tag == "name" and isinstance(content, list):
        module, name = content
        if isinstance(module, str) and isinstance(name, str):
            return Global(module, name)
    if not isinstance(content, str):
        raise TypeError(f"{tag} of something other than text")
    if tag == "int" and len(content) <= _MAX_DIGITS:
        return int(content)
    if tag == "float":
        bits = fields.get("bits")
        made: float = struct.unpack(">d", bytes.fromhex(bits))[0] if isinstance(bits, str) else _FLOATS[content]
        return made
    if tag == "bytes":
        return a2b_base64(content)
    if tag == "escaped":
        return re.sub(r"\\(?:\\|u([0-9a-f]{4}))", lambda found: chr(int(found[1], 16)) if found[1] else "\\", content)
    raise ValueError(tag[:40])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    if not is_sound("".join(entries)):
        raise ValueError("half a surrogate pair in a name")
    return entries


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > _SAFE:
        raise ValueError("an integer that parsers round")
    return int(digits)


def _finite(number: str) -> float:
    value = float(number)
    if not isfinite(value):
        raise ValueError("a number that is not finite")
    return value
