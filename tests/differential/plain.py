"""What a pickle says as plain text, from any reader: CPython's with inert stand-ins, torch's, or gsvckpt's machine.

Two readers that got the same from a pickle give the same text, down to which lists and dicts are one object and to the bits of floats.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable

MAX_DEPTH = 200
_MADE = {"__builtin__.set", "__builtin__.frozenset", "__builtin__.bytearray"}


class Recipe:
    """An object that was not made: the name that was called, how, with what, and what was done to it."""

    def __init__(self, name: str, how: str, args: object) -> None:
        self.name, self.how, self.args = name, how, args
        self.steps: list[tuple[str, object]] = []

    def note(self, step: str, items: list[object]) -> None:
        if not items:
            return
        if self.steps and self.steps[-1][0] == step:
            self.steps[-1][1].extend(items)
        else:
            self.steps.append((step, items))

    def append(self, item: object) -> None:
        self.note("append", [item])

    def extend(self, items: object) -> None:
        self.note("append", list(items))

    def __setitem__(self, key: object, value: object) -> None:
        self.note("setitem", [(key, value)])

    def __setstate__(self, state: object) -> None:
        self.steps.append(("build", state))


class Named:
    """A class or function that is only a name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and (self.module, self.name) == (other.module, other.name)

    def __hash__(self) -> int:
        return hash((self.module, self.name))


class Outside:
    """What a persistent id stands for."""

    def __init__(self, pid: object) -> None:
        self.pid = pid


class TooDeep(Exception):
    """A value that nests deeper than anybody compares."""


def tell(value: object, seen: dict[int, int] | None = None, depth: int = 0, other: Callable[[object], str | None] = lambda _value: None) -> str:
    """The text; `other` tells of what only its caller knows. Raises TooDeep."""
    known = {} if seen is None else seen
    text = other(value)
    if text is not None:
        return text
    if depth > MAX_DEPTH:
        raise TooDeep
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, float):
        return f"float {struct.pack('>d', value).hex()}"
    if isinstance(value, Named):
        return f"name {value.module}.{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(tell(item, known, depth + 1, other) for item in value)})"
    if isinstance(value, bytearray):
        return tell_recipe("__builtin__.bytearray", "reduce", (bytes(value),), [], known, depth, other)
    if isinstance(value, (set, frozenset)):
        return tell_recipe(f"__builtin__.{type(value).__name__}", "reduce", (list(value),), [], known, depth, other)
    if isinstance(value, Recipe) and value.name in _MADE:  # which CPython makes by an opcode, so that some have a set where others have a recipe
        return tell_recipe(value.name, value.how, value.args, value.steps, known, depth, other)
    if id(value) in known:
        return f"#{known[id(value)]}"
    known[id(value)] = len(known)
    if isinstance(value, list):
        return f"[{', '.join(tell(item, known, depth + 1, other) for item in value)}]"
    if isinstance(value, dict):
        kind = "ordered" if isinstance(value, OrderedDict) else ""
        pairs = ", ".join(f"{tell(key, known, depth + 1, other)}: {tell(item, known, depth + 1, other)}" for key, item in value.items())
        metadata = vars(value).get("_metadata") if kind else None
        return f"{kind}{{{pairs}}}" + (f" metadata {tell(metadata, known, depth + 1, other)}" if metadata is not None else "")
    if isinstance(value, Outside):
        return f"outside {tell(value.pid, known, depth + 1, other)}"
    assert isinstance(value, Recipe), type(value)
    return tell_recipe(value.name, value.how, value.args, value.steps, known, depth, other)


def tell_recipe(name: str, how: str, args: object, steps: list[tuple[str, object]], known: dict[int, int], depth: int, other) -> str:
    if (
        name in {"__builtin__.set", "__builtin__.frozenset"}
        and isinstance(args, tuple)
        and len(args) == 1
        and isinstance(args[0], list)
        and not steps
    ):
        return f"{name} {sorted({tell(item, known, depth + 1, other) for item in args[0]})}"
    done = "".join(f" {step} {tell(payload, known, depth + 1, other)}" for step, payload in steps)
    return f"<{name} {how} {tell(args, known, depth + 1, other)}{done}>"
