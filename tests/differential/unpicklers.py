"""CPython's own unpicklers over many pickles, in a process of their own: `python -m differential.unpicklers IN OUT`.

IN holds pickled lists of pickles, OUT gets for each the names that were asked for and what was read. `find_class` gives stand-ins that do nothing,
so that nothing in a pickle runs. The process may take little memory: nine bytes can ask the C unpickler for gigabytes.
"""

from __future__ import annotations

import io
import pickle
import resource
import sys
import tempfile
from collections import OrderedDict
from typing import NamedTuple

from .plain import Named, Outside, Recipe, TooDeep, tell

LIMIT = 1 << 29  # bytes of memory


class Reading(NamedTuple):
    """What one reader made of one pickle. `value` is None where it failed; `end` is where it stopped reading."""

    names: tuple[str, ...]
    value: str | None
    end: int
    error: str = ""


class _Standing(type):
    """A class that stands for a name: a call gives a recipe, but for what gsvckpt takes for plain values."""

    def __call__(cls, *args: object) -> object:
        name = (cls.module, cls.called)
        if name == ("collections", "OrderedDict") and len(args) <= 1:
            return OrderedDict(*args)
        if name == ("_codecs", "encode") and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":
            return args[0].encode("latin-1")
        if name in {("__builtin__", "bytes"), ("builtins", "bytes")} and not args:
            return b""
        return Recipe(".".join(name), "reduce", args)


def stand_for(module: str, name: str) -> type:
    """A class, as NEWOBJ wants one."""

    def new(_cls: type, *args: object, **keywords: object) -> Recipe:
        return Recipe(f"{module}.{name}", "newobj", args) if not keywords else Recipe(f"{module}.{name}", "newobj_ex", (args, keywords))

    return _Standing("Inert", (), {"module": module, "called": name, "__new__": new})


class _Inert:
    """What both unpicklers share."""

    def begin(self) -> None:
        self.asked: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.asked:
            self.asked[module, name] = stand_for(module, name)
        return self.asked[module, name]


class Inert(_Inert, pickle.Unpickler):
    """One to which torch gives a `persistent_load` of its own."""


class C(_Inert, pickle.Unpickler):
    """Modules/_pickle.c."""

    def persistent_load(self, pid: object) -> object:
        return Outside(pid)


class Python(_Inert, pickle._Unpickler):
    """Lib/pickle.py."""

    def persistent_load(self, pid: object) -> object:
        return Outside(pid)


def read(reader: type, data: bytes, file: io.BufferedIOBase) -> Reading:
    unpickler = reader(file, encoding="utf-8")
    unpickler.begin()
    try:
        value = unpickler.load()
        return Reading(names_of(unpickler), tell(name_classes(value)), file.tell())
    except TooDeep:
        return Reading(names_of(unpickler), None, file.tell(), "too deep to compare")
    except Exception as error:  # noqa: BLE001 - damaged pickles raise nearly anything
        return Reading(names_of(unpickler), None, 0, f"{type(error).__name__}: {error}"[:200])


def names_of(unpickler: _Inert) -> tuple[str, ...]:
    return tuple(".".join(name) for name in unpickler.asked)


def name_classes(value: object) -> object:
    """The value with stand-in classes as names. In place, as what is shared must stay shared."""
    done: dict[int, object] = {}

    def of(item: object, depth: int = 0) -> object:
        if depth > 190:
            raise TooDeep
        if isinstance(item, _Standing):
            return Named(item.module, item.called)
        if isinstance(item, tuple):
            return tuple(of(part, depth + 1) for part in item)
        if id(item) in done or not isinstance(item, (list, dict, set, frozenset, Recipe, Outside)):
            return item
        done[id(item)] = item
        if isinstance(item, list):
            item[:] = [of(part, depth + 1) for part in item]
        elif isinstance(item, dict):
            pairs = [(of(key, depth + 1), of(part, depth + 1)) for key, part in item.items()]
            metadata = vars(item) if isinstance(item, OrderedDict) else {}
            item.clear()
            item.update(pairs)
            for key, part in metadata.items():
                setattr(item, key, of(part, depth + 1))
        elif isinstance(item, (set, frozenset)):
            return type(item)(of(part, depth + 1) for part in item)
        elif isinstance(item, Outside):
            item.pid = of(item.pid, depth + 1)
        else:
            item.args = of(item.args, depth + 1)
            item.steps = [(step, of(payload, depth + 1)) for step, payload in item.steps]
        return item

    return of(value)


def read_all(data: bytes, folder: str) -> dict[str, Reading]:
    found = {"C, memory": read(C, data, io.BytesIO(data)), "Python": read(Python, data, io.BytesIO(data))}
    with open(f"{folder}/pickle", "wb") as file:
        file.write(data)
    with open(f"{folder}/pickle", "rb") as file:
        found["C, file"] = read(C, data, file)
    return found


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    sys.setrecursionlimit(1500)
    with open(sys.argv[1], "rb") as given, open(sys.argv[2], "wb") as out, tempfile.TemporaryDirectory() as folder:
        for data in pickle.load(given):
            pickle.dump({name: tuple(reading) for name, reading in read_all(data, folder).items()}, out)


if __name__ == "__main__":
    main()
