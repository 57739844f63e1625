"""Writing a tree back as a protocol 2 pickle, opcode by opcode, as CPython's C pickler would (Modules/_pickle.c): names need not be importable.

Same tree, same bytes, on every Python. An untouched tree that torch pickled comes out as torch wrote it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gsvckpt.errors import UnsupportedError
from gsvckpt.model import MAX_DEPTH, Global, Opaque, Path, Storage, Tensor, format_path, state_dict_metadata

_ORDERED_DICT = Global("collections", "OrderedDict")
_ENCODE, _BYTES = Global("_codecs", "encode"), Global("__builtin__", "bytes")  # how protocol 2 carries bytes
_BATCH = 1_000  # items per APPENDS or SETITEMS, as CPython batches


class EmittedCall(NamedTuple):
    """Emit as `name(*args)`."""

    name: Global
    args: tuple[object, ...]


class Persistent(NamedTuple):
    """Emit as a persistent id."""

    pid: tuple[object, ...]


Describe = Callable[[Tensor | Storage], EmittedCall | Persistent]


def emit(root: object, describe: Describe) -> bytes:
    """Return the pickle of `root`. `describe` says how a container refers to tensors and storages.

    Raises UnsupportedError, naming the place in the tree, for what protocol 2 cannot carry and for trees deeper than MAX_DEPTH.
    """
    emitter = _Emitter(describe)
    try:
        emitter.save(root)
    except RecursionError as error:  # a few levels before MAX_DEPTH when the caller's own stack is deep
        raise UnsupportedError("nested too deeply to be written", where=emitter.place()) from error
    return bytes(emitter.out) + b"."


class _Emitter:
    def __init__(self, describe: Describe) -> None:
        self.out = bytearray(b"\x80\x02")
        self._describe = describe
        self._memo: dict[int, int] = {}
        self._names: dict[Global, int] = {}
        self._alive: list[object] = []  # an id stays taken only as long as its object lives
        self._path: Path = ()

    def save(self, value: object) -> None:
        index = self._names.get(value) if isinstance(value, Global) else self._memo.get(id(value))
        if index is not None:
            self.out += b"h%c" % index if index < 256 else b"j" + struct.pack("<I", index)
        elif value is None or value is True or value is False:
            self.out += b"N" if value is None else b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self._save_int(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            text = value.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(text)) + text
            self._remember(value)
        elif isinstance(value, Global):
            self._save_name(value)
        else:
            self._save_object(value)

    def place(self) -> str:
        return format_path(self._path[:4]) + ("/..." if len(self._path) > 4 else "")

    def _save_name(self, value: Global) -> None:
        try:
            text = f"{value.module}\n{value.name}\n".encode()
        except UnicodeEncodeError:
            text = b""
        if text.count(b"\n") != 2:  # protocol 2 ends names by line ends: one inside a name would be read as opcodes
            raise UnsupportedError("a class name with characters that cannot be written", where=self.place())
        self.out += b"c" + text
        self._names[value] = self._next()

    def _save_object(self, value: object) -> None:
        if isinstance(value, tuple):
            self._save_tuple(value)
        elif isinstance(value, list):
            self.out += b"]"
            self._remember(value)
            self._save_batches(value, b"a", b"e", exact=True)
        elif isinstance(value, dict):
            self._save_dict(value)
        elif isinstance(value, bytes):
            self._reduce(EmittedCall(_ENCODE, (value.decode("latin-1"), "latin1")) if value else EmittedCall(_BYTES, ()), value)
        elif isinstance(value, Opaque):
            self._save_opaque(value)
        elif isinstance(value, (Tensor, Storage)):
            self._save_leaf(value)
        else:
            raise UnsupportedError(f"a {type(value).__name__} cannot be written", where=format_path(self._path))

    def _save_leaf(self, value: Tensor | Storage) -> None:
        recipe = self._describe(value)
        if isinstance(recipe, EmittedCall):
            self._reduce(recipe, value)
        else:
            self._alive.append(recipe)
            self.save(recipe.pid)
            self.out += b"Q"

    def _save_dict(self, value: dict[object, object]) -> None:
        if isinstance(value, OrderedDict):
            self._reduce(EmittedCall(_ORDERED_DICT, ()), value)
        else:
            self.out += b"}"
            self._remember(value)
        self._save_batches(value.items(), b"s", b"u", pairs=True, exact=type(value) is dict)
        metadata = state_dict_metadata(value)
        if metadata is not None:
            self._build({"_metadata": metadata})

    def _save_opaque(self, value: Opaque) -> None:
        if value.how == "newobj_ex":
            raise UnsupportedError(f"a {value.name} made with keywords cannot be written in pickle protocol 2", where=format_path(self._path))
        self.save(value.name)
        self._step("<args>", value.args)
        self.out += b"R" if value.how == "reduce" else b"\x81"
        self._remember(value)
        for step, payload in value.steps:
            if step == "build":
                self._build(payload)
            elif isinstance(payload, list):
                self._save_batches(payload, *((b"a", b"e", False) if step == "append" else (b"s", b"u", True)))

    def _build(self, state: object) -> None:
        self._alive.append(state)
        self._step("<build>", state)
        self.out += b"b"

    def _reduce(self, call: EmittedCall, value: object) -> None:
        self._alive.append(call)
        self.save(call.name)
        self.save(call.args)
        self.out += b"R"
        self._remember(value)

    def _save_tuple(self, value: tuple[object, ...]) -> None:
        if not value:
            self.out += b")"
            return
        if len(value) > 3:
            self.out += b"("
        for index, item in enumerate(value):
            self._step(index, item)
        if id(value) in self._memo:  # a tuple inside itself (through a list): its items wrote it already
            raise UnsupportedError("a tuple that contains itself cannot be written", where=format_path(self._path))
        self.out += (b"\x85", b"\x86", b"\x87")[len(value) - 1] if len(value) <= 3 else b"t"
        self._remember(value)

    def _save_batches(self, items: Iterable[object], one: bytes, many: bytes, pairs: bool = False, exact: bool = False) -> None:
        """Batches as CPython cuts them: a plain list or dict (`exact`) ends in no single item, and a dict of full batches in an empty one."""
        everything = list(items)
        count = len(everything)
        stop = count + 1 if exact and pairs and count and count % _BATCH == 0 else count
        for start in range(0, stop, _BATCH):
            batch = everything[start : start + _BATCH]
            several = len(batch) != 1 or (exact and count > 1)
            if several:
                self.out += b"("
            for index, item in enumerate(batch, start):
                if pairs and isinstance(item, tuple):
                    self.save(item[0])
                    self._step(item[0], item[1])
                else:
                    self._step(index, item)
            self.out += many if several else one

    def _step(self, key: object, value: object) -> None:
        """Save a child, keeping track of where we are."""
        outer = self._path
        if len(outer) > MAX_DEPTH:
            raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels", where=self.place())
        self._path = (*outer, key)
        self.save(value)
        self._path = outer

    def _save_int(self, value: int) -> None:
        if 0 <= value < 0x100:
            self.out += b"K%c" % value
        elif 0 <= value < 0x10000:
            self.out += b"M" + struct.pack("<H", value)
        elif -0x80000000 <= value < 0x80000000:
            self.out += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if value < 0 and len(raw) > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:  # the shortest two's complement, as CPython writes
                raw = raw[:-1]
            self.out += (b"\x8a%c" % len(raw) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))) + raw

    def _next(self) -> int:
        index = len(self._memo) + len(self._names)
        self.out += b"q%c" % index if index < 256 else b"r" + struct.pack("<I", index)
        return index

    def _remember(self, value: object) -> None:
        index = self._next()
        self._memo[id(value)] = index
        self._alive.append(value)
