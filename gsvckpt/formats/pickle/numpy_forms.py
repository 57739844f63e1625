"""How NumPy pickles dtypes, arrays, scalars and random generators. Anything else is refused: what NumPy is given here becomes addresses in memory.

A dtype whose flags were cleared makes NumPy take the bytes of an array of objects for pointers; a position beyond a generator's table reads behind
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeGuard

from gsvckpt.model import Global, Opaque

_DTYPE = r"([biufcmMOSUV])([0-9]{1,9})?"
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8, 12, 16), "c": (8, 16, 24, 32), "O": (4, 8)}
_OBJECT_FLAGS, _TEXT_FLAGS = 63, 8  # numpy/core/include/numpy/ndarraytypes.h
_REFCOUNT, _INHERITED, _NEEDS_PYAPI, _ALIGNED = 1, 1 | 2 | 8, 16, 128
_UNITS = frozenset([b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as", b"generic", b"B"])
_DEEPEST = 8  # structured dtypes inside others
_LARGEST = 1 << 31
_NDARRAY = Global("numpy", "ndarray")
_DTYPE_NAME = Global("numpy", "dtype")
_RECONSTRUCT = frozenset(Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core"))
_FROM_BUFFER = frozenset(Global(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core"))
_BYTEARRAY = frozenset([Global("builtins", "bytearray"), Global("__builtin__", "bytearray")])
GENERATORS = {"MT19937": "_mt19937", "PCG64": "_pcg64", "PCG64DXSM": "_pcg64", "Philox": "_philox", "SFC64": "_sfc64"}
_BIT_GENERATOR = Global("numpy.random._pickle", "__bit_generator_ctor")
_TABLE, _BUFFER = 624, 4  # numbers in the state of MT19937 and in Philox's buffer


class _ElementKind(NamedTuple):
    """What an element of an array is: its bytes, and NumPy's flags for it."""

    size: int
    flags: int

    @property
    def holds_objects(self) -> bool:
        return bool(self.flags & _REFCOUNT)


def dtype(made: Opaque) -> bool:
    """Whether NumPy made this dtype."""
    return _kind(made) is not None


def array(made: Opaque) -> bool:
    """Whether NumPy made this array: `_reconstruct(ndarray, (0,), b"b")`, then its state."""
    args = _args(made, 3)
    if args is None or args[0] != _NDARRAY or args[1] != (0,) or args[2] not in (b"b", "b"):
        return False
    if len(made.steps) != 1 or made.steps[0][0] != "build":
        return not made.steps
    state = made.steps[0][1]
    if not isinstance(state, tuple) or len(state) != 5 or state[0] not in (0, 1) or not isinstance(state[3], (bool, int)):
        return False
    kind, shape, data = _kind(state[2]), state[1], state[4]
    if kind is None or not _is_shape(shape):
        return False
    if kind.holds_objects:
        return isinstance(data, list) and len(data) == prod(shape)
    return isinstance(data, (bytes, str)) and len(data) == prod(shape) * kind.size


def scalar(made: Opaque) -> bool:
    """Whether NumPy made this scalar: a dtype without objects, and its bytes."""
    args = _args(made, 2)
    kind = _kind(args[0]) if args is not None else None
    if args is None or kind is None or kind.holds_objects or made.steps:
        return False
    return isinstance(args[1], (bytes, str)) and len(args[1]) == kind.size


def buffer(made: Opaque) -> bool:
    """Whether NumPy made this array, as it does in protocol 5: bytes, a dtype without objects, a shape and an order."""
    args = _args(made, 4)
    kind = _kind(args[1]) if args is not None else None
    if args is None or kind is None or kind.holds_objects or made.steps or args[3] not in ("C", "F"):
        return False
    shape = args[2]
    if not _is_shape(shape):
        return False
    return (isinstance(args[0], bytes) and len(args[0]) == prod(shape) * kind.size) or (isinstance(args[0], Opaque) and args[0].name in _BYTEARRAY)


def bit_generator(made: Opaque) -> bool:
    """Whether NumPy made this bit generator: of a class or name that it has itself, as it calls what it is given."""
    args = _args(made, 1)
    if args is None or not _is_generator(args[0]):
        return False
    return all(step == "build" and _is_generator_state(state) for step, state in made.steps)


def generator(made: Opaque) -> bool:
    """Whether NumPy made this Generator or RandomState, around a bit generator."""
    args = made.args
    if made.how != "reduce" or not isinstance(args, tuple) or len(args) not in (1, 2):
        return False
    inside = isinstance(args[0], Opaque) and args[0].name == _BIT_GENERATOR
    if not (inside or (isinstance(args[0], str) and args[0] in GENERATORS)) or (len(args) == 2 and args[1] != _BIT_GENERATOR):
        return False
    return all(step == "build" and (state is None or _is_generator_state(state)) for step, state in made.steps)


def seed_sequence(made: Opaque) -> bool:
    """Whether NumPy made this SeedSequence."""
    args = _args(made, 3)
    if args is None or args[0] != Global("numpy.random.bit_generator", "SeedSequence") or not isinstance(args[1], int):
        return False
    states = [state for step, state in made.steps if step == "build"]
    states += [args[2]] if args[2] is not None else []
    return len(states) == 1 and len(made.steps) <= 1 and _is_seed_state(states[0])


def _is_seed_state(state: object) -> bool:
    return isinstance(state, tuple) and len(state) in (5, 6) and is_array(state[2]) and state[3] == 4


def _is_generator(value: object) -> bool:
    if isinstance(value, str):
        return value in GENERATORS
    return isinstance(value, Global) and GENERATORS.get(value.name, "") == value.module.removeprefix("numpy.random.")


def _is_generator_state(value: object) -> bool:
    """A dict as `bit_generator.state` has it, alone or with the seed behind it; positions inside their tables."""
    state = value[0] if isinstance(value, tuple) and len(value) == 2 else value
    if not isinstance(state, dict):
        return False
    name, inner = state.get("bit_generator"), state.get("state")
    if not isinstance(name, str) or name not in GENERATORS or not isinstance(inner, dict):
        return False
    if name == "MT19937":
        return is_array(inner.get("key")) and _within(inner.get("pos"), _TABLE)
    if name == "Philox":
        return all(map(is_array, (inner.get("counter"), inner.get("key"), state.get("buffer")))) and _within(state.get("buffer_pos"), _BUFFER)
    return is_array(inner.get("state")) if name == "SFC64" else all(type(inner.get(key)) is int for key in ("state", "inc"))


def is_array(value: object) -> bool:
    """Whether a value is an array as NumPy pickles one, of protocol 5 or below."""
    if not isinstance(value, Opaque):
        return False
    return array(value) if value.name in _RECONSTRUCT else value.name in _FROM_BUFFER and buffer(value)


def _kind(value: object, depth: int = 0) -> _ElementKind | None:
    """What a dtype says of its elements; None unless its arguments and state are such as NumPy writes."""
    args = _args(value, 3)
    if args is None or not isinstance(value, Opaque) or value.name != _DTYPE_NAME or depth > _DEEPEST or args[2] not in (True, 1):
        return None  # the third argument asks for a copy: without it a state would change NumPy's own dtype
    found = re.fullmatch(_DTYPE, args[0]) if isinstance(args[0], str) else None
    if found is None or args[1] not in (False, 0, True, 1):
        return None
    letter, size = found[1], int(found[2] or 0)
    if size not in _SIZES.get(letter, (size,)) or (letter in "mM" and size not in (0, 8)) or size >= _LARGEST:
        return None
    states = [state for step, state in value.steps if step == "build"]
    if len(states) != len(value.steps) or len(states) > 1:
        return None
    if not states:
        usual = {"O": _ElementKind(size, _OBJECT_FLAGS), "U": _ElementKind(4 * size, _TEXT_FLAGS), "m": _ElementKind(8, 0), "M": _ElementKind(8, 0)}
        return usual.get(letter, _ElementKind(size, 0))
    return _kind_by_state(letter, size, states[0], depth)


def _kind_by_state(letter: str, size: int, state: object, depth: int) -> _ElementKind | None:
    if not isinstance(state, tuple) or (len(state), state[0]) not in ((8, 3), (9, 4)) or state[1] not in ("<", ">", "|", "="):
        return None
    sub, names, fields, nbytes, alignment, flags = state[2:8]
    if any(type(number) is not int for number in (nbytes, alignment, flags)):
        return None
    extra = state[8] if len(state) == 9 else None
    if letter in "mM":
        if not _is_unit(extra):
            return None
    elif extra is not None and not isinstance(extra, dict):
        return None
    if letter == "V" and nbytes == size and 0 < alignment <= 64:
        if sub is not None:
            return _subarray(sub, size, flags, depth) if names is None and fields is None else None
        if names is not None:
            return _structure(names, fields, size, flags, depth)
    if (sub, names, fields) != (None, None, None):
        return None
    expected = {"S": (size, 1, 0), "U": (4 * size, 4, _TEXT_FLAGS), "V": (size, 1, 0), "O": (-1, -1, _OBJECT_FLAGS)}.get(letter, (-1, -1, 0))
    if (nbytes, alignment, flags) != expected:
        return None
    return _ElementKind(8 if letter in "mM" else max(nbytes, size), flags)


def _subarray(sub: object, size: int, flags: int, depth: int) -> _ElementKind | None:
    if not isinstance(sub, tuple) or len(sub) != 2:
        return None
    base, shape = _kind(sub[0], depth + 1), (sub[1],) if isinstance(sub[1], int) else sub[1]
    if base is None or not _is_shape(shape) or base.size * prod(shape) != size or flags & _INHERITED != base.flags & _INHERITED:
        return None
    return _ElementKind(size, flags)


def _structure(names: object, fields: object, size: int, flags: int, depth: int) -> _ElementKind | None:
    """Fields inside the structure; those with objects apart from all others; and flags that tell of every field's."""
    if not isinstance(names, tuple) or not isinstance(fields, dict) or not all(isinstance(name, str) and name in fields for name in names):
        return None
    if len(set(names)) != len(names) or len(fields) > 2 * len(names):
        return None
    found: list[tuple[int, _ElementKind]] = []
    for name, field in fields.items():
        if not isinstance(field, tuple) or len(field) not in (2, 3) or type(field[1]) is not int:
            return None
        kind = _kind(field[0], depth + 1)
        if kind is None or field[1] < 0 or field[1] + kind.size > size:
            return None
        if name in names:
            found.append((field[1], kind))
        elif len(field) != 3 or field[2] != name or field not in [fields[told] for told in names]:  # a title: its field once more
            return None
    inherited = 0
    for _, kind in found:
        inherited |= kind.flags & _INHERITED
    if flags & ~(_NEEDS_PYAPI | _ALIGNED) != inherited or (inherited & _REFCOUNT and (not flags & _NEEDS_PYAPI or _overlap(found))):
        return None
    return _ElementKind(size, flags)


def _overlap(found: list[tuple[int, _ElementKind]]) -> bool:
    places = sorted(found, key=lambda field: field[0])
    return any(begin + kind.size > behind for (begin, kind), (behind, _) in pairwise(places))


def _args(value: object, count: int) -> tuple[object, ...] | None:
    """The arguments of a plain call with so many of them."""
    if isinstance(value, Opaque) and value.how == "reduce" and isinstance(value.args, tuple) and len(value.args) == count:
        return value.args
    return None


def _is_unit(extra: object) -> bool:
    """`({}, (b"ns", 1, 1, 1))`: what a time counts."""
    if not isinstance(extra, tuple) or len(extra) != 2 or not (extra[0] is None or isinstance(extra[0], Mapping)):
        return False
    unit = extra[1]
    if not isinstance(unit, tuple) or len(unit) != 4 or not all(type(n) is int and 0 < n < _LARGEST for n in unit[1:]):
        return False
    name = unit[0].encode("latin-1", "replace") if isinstance(unit[0], str) else unit[0]
    return isinstance(name, bytes) and name in _UNITS


def _is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and len(value) <= 64 and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _within(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
