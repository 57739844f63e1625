"""The pickle virtual machine, without its dangerous half: names stay names, calls become recipes.

It understands every opcode of protocols 0 to 5 (CPython `Lib/pickletools.py`) except extension codes and out-of-band buffers. CPython's C unpickler
is not used: it allocates by memo index (nine bytes can cost 2 GiB) and runs `find_class` results; here memory is bounded by the pickle's length.
"""

from __future__ import annotations

import struct
from codecs import escape_decode  # undocumented, and what pickle itself uses
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NoReturn
from warnings import catch_warnings, simplefilter

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.model import Global, Opaque, Storage, Tensor

MAX_OPCODES = 20_000_000  # 200,000 tensors with optimizer state take about 7 million
_ROUND = 1 << 16  # opcodes between two looks at the stack
MAX_STACK = 2_000_000  # picklers flush containers every 1,000 items; only crafted files go near this
MAX_DIGITS = 4_096  # int() of a longer text is quadratic, and Python writes none beyond 4,300
MAX_LONG = MAX_DIGITS * 5 // 12  # as many digits, in bytes
MAX_KEY = (1 << 61) - 1  # larger ints can be made to collide in a dict, which makes filling it quadratic

MAX_NUMBER_TUPLES = 10_000  # keys like (1, 2) can be made to collide, too, so a dict may only begin with them

_ENCODE, _BYTES = Global("_codecs", "encode"), {Global("__builtin__", "bytes"), Global("builtins", "bytes")}
_SET, _FROZENSET, _BYTEARRAY = (Global("__builtin__", name) for name in ("set", "frozenset", "bytearray"))  # as protocol 2 spells them
_FLOAT, _U16, _U32, _I32, _U64 = (struct.Struct(code).unpack_from for code in (">d", "<H", "<I", "<i", "<Q"))

Reduce = Callable[[Global, object], object]
Persist = Callable[[object], object]


class EndOfPickle(DamagedError):
    """The data ends before the pickle does."""


def _refuse_persistent(_: object) -> NoReturn:
    raise DamagedError("refers to an object outside the pickle")


class Machine:
    """One run over one pickle.

    `reduce(name, args)` may turn a call into a value of ours and returns None to keep it as an Opaque; `persist(pid)` resolves persistent ids. After
    `run`, `position` is the first byte behind the pickle. `globals` holds every name met, also when `run` failed.
    """

    def __init__(self, data: bytes, *, reduce: Reduce, persist: Persist = _refuse_persistent, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.globals: dict[Global, Global] = {}
        self._reduce, self._persist = reduce, persist
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._copied = 0

    def run(self) -> object:
        """Return the pickled value. Raises DamagedError (EndOfPickle at the end of the data) or UnsupportedError with the byte in `where`."""
        table = [getattr(self, f"_op_{code:02x}", self._unknown) for code in range(256)]
        data, position = self.data, self.position
        try:
            for _ in range(MAX_OPCODES // _ROUND):
                for _ in range(_ROUND):
                    code = data[position]
                    if code == 0x2E:  # STOP
                        return self._finish(position)
                    position = table[code](position + 1)
                if len(self._stack) > MAX_STACK:
                    break
            raise UnsupportedError(f"more than {MAX_OPCODES:,} opcodes, or {MAX_STACK:,} objects waiting: built to exhaust memory")
        except (DamagedError, UnsupportedError) as error:
            error.where = error.where or f"pickle byte {position:,}"
            raise
        except (IndexError, struct.error) as error:
            ended = position >= len(data) - 9  # no fixed-size operand is longer than 8 bytes
            failure, why = (
                (EndOfPickle, "the pickle ends early") if ended else (DamagedError, "the pickle takes more from its stack than it put there")
            )
            raise failure(why, where=f"pickle byte {position:,}") from error
        except (KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, AttributeError) as error:
            why = f"the pickle is damaged ({type(error).__name__}: {str(error)[:80]})"
            raise DamagedError(why, where=f"pickle byte {position:,}") from error

    def _finish(self, position: int) -> object:
        self.position = position + 1
        if self._marks:
            raise DamagedError("stops inside an unfinished container")
        return self._stack.pop()

    # --- operands -----------------------------------------------------------------------------------------------------------------------------

    def _take(self, position: int, count: int) -> bytes:
        end = position + count
        if end > len(self.data):
            raise EndOfPickle(f"the pickle ends early: {count:,} bytes announced, {len(self.data) - position:,} left")
        return self.data[position:end]

    def _line(self, position: int) -> tuple[bytes, int]:
        end = self.data.find(b"\n", position)
        if end < 0:
            raise EndOfPickle("the pickle ends early: an unfinished text line")
        return self.data[position:end], end + 1

    def _pop_mark(self) -> list[object]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _named(self, module: str, name: str) -> Global:
        found = Global(module, name)
        return self.globals.setdefault(found, found)

    def _unknown(self, position: int) -> int:
        raise DamagedError(f"0x{self.data[position - 1]:02x} is no pickle opcode")

    def _unsupported(self, _position: int) -> int:
        raise UnsupportedError("uses extension codes or out-of-band buffers, which no checkpoint does")

    _op_82 = _op_83 = _op_84 = _op_97 = _op_98 = _unsupported  # EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER

    # --- frame and stack ----------------------------------------------------------------------------------------------------------------------

    def _op_80(self, position: int) -> int:  # PROTO
        if self.data[position] > 5:
            raise UnsupportedError(f"pickle protocol {self.data[position]}; the highest there is is 5")
        return position + 1

    def _op_95(self, position: int) -> int:  # FRAME
        return position + len(self._take(position, 8))

    def _op_28(self, position: int) -> int:  # MARK
        self._marks.append(self._stack)
        self._stack = []
        return position

    def _op_30(self, position: int) -> int:  # POP
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()
        return position

    def _op_31(self, position: int) -> int:  # POP_MARK
        self._pop_mark()
        return position

    def _op_32(self, position: int) -> int:  # DUP
        self._stack.append(self._stack[-1])
        return position

    # --- memo ---------------------------------------------------------------------------------------------------------------------------------

    def _op_71(self, position: int) -> int:  # BINPUT
        self._memo[self.data[position]] = self._stack[-1]
        return position + 1

    def _op_72(self, position: int) -> int:  # LONG_BINPUT
        self._memo[_U32(self.data, position)[0]] = self._stack[-1]
        return position + 4

    def _op_70(self, position: int) -> int:  # PUT
        line, position = self._line(position)
        self._memo[_integer(line)] = self._stack[-1]
        return position

    def _op_94(self, position: int) -> int:  # MEMOIZE
        self._memo[len(self._memo)] = self._stack[-1]
        return position

    def _op_68(self, position: int) -> int:  # BINGET
        self._stack.append(self._memo[self.data[position]])
        return position + 1

    def _op_6a(self, position: int) -> int:  # LONG_BINGET
        self._stack.append(self._memo[_U32(self.data, position)[0]])
        return position + 4

    def _op_67(self, position: int) -> int:  # GET
        line, position = self._line(position)
        self._stack.append(self._memo[_integer(line)])
        return position

    # --- scalars ------------------------------------------------------------------------------------------------------------------------------

    def _op_4e(self, position: int) -> int:  # NONE
        self._stack.append(None)
        return position

    def _op_88(self, position: int) -> int:  # NEWTRUE
        self._stack.append(True)
        return position

    def _op_89(self, position: int) -> int:  # NEWFALSE
        self._stack.append(False)
        return position

    def _op_4b(self, position: int) -> int:  # BININT1
        self._stack.append(self.data[position])
        return position + 1

    def _op_4d(self, position: int) -> int:  # BININT2
        self._stack.append(_U16(self.data, position)[0])
        return position + 2

    def _op_4a(self, position: int) -> int:  # BININT
        self._stack.append(_I32(self.data, position)[0])
        return position + 4

    def _op_49(self, position: int) -> int:  # INT: "00" and "01" are the booleans of protocol 0
        line, position = self._line(position)
        self._stack.append(line == b"01" if line in (b"00", b"01") else _integer(line))
        return position

    def _op_4c(self, position: int) -> int:  # LONG
        line, position = self._line(position)
        self._stack.append(_integer(line.removesuffix(b"L")))
        return position

    def _long(self, position: int, count: int) -> int:
        if count > MAX_LONG:
            raise UnsupportedError(f"an integer of {count:,} bytes")
        self._stack.append(int.from_bytes(self._take(position, count), "little", signed=True))
        return position + count

    def _op_8a(self, position: int) -> int:  # LONG1
        return self._long(position + 1, self.data[position])

    def _op_8b(self, position: int) -> int:  # LONG4
        return self._long(position + 4, _U32(self.data, position)[0])

    def _op_46(self, position: int) -> int:  # FLOAT
        line, position = self._line(position)
        self._stack.append(float(line))
        return position

    def _op_47(self, position: int) -> int:  # BINFLOAT
        self._stack.append(_FLOAT(self.data, position)[0])
        return position + 8

    # --- text and bytes -----------------------------------------------------------------------------------------------------------------------

    def _text(self, position: int, count: int) -> int:
        self._stack.append(self._take(position, count).decode("utf-8", "surrogatepass"))
        return position + count

    def _op_58(self, position: int) -> int:  # BINUNICODE
        return self._text(position + 4, _U32(self.data, position)[0])

    def _op_8c(self, position: int) -> int:  # SHORT_BINUNICODE
        return self._text(position + 1, self.data[position])

    def _op_8d(self, position: int) -> int:  # BINUNICODE8
        return self._text(position + 8, _U64(self.data, position)[0])

    _op_54, _op_55 = _op_58, _op_8c  # BINSTRING and SHORT_BINSTRING: text of Python 2, which torch reads as UTF-8

    def _op_56(self, position: int) -> int:  # UNICODE
        line, position = self._line(position)
        self._stack.append(line.decode("raw-unicode-escape"))
        return position

    def _op_53(self, position: int) -> int:  # STRING: the repr of a Python 2 str
        line, position = self._line(position)
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
            raise DamagedError("a text without quotes")
        with catch_warnings():
            simplefilter("ignore")  # Python warns of escapes that repr never writes
            self._stack.append(escape_decode(line[1:-1])[0].decode())
        return position

    def _bytes(self, position: int, count: int) -> int:
        self._stack.append(self._take(position, count))
        return position + count

    def _op_42(self, position: int) -> int:  # BINBYTES
        return self._bytes(position + 4, _U32(self.data, position)[0])

    def _op_43(self, position: int) -> int:  # SHORT_BINBYTES
        return self._bytes(position + 1, self.data[position])

    def _op_8e(self, position: int) -> int:  # BINBYTES8
        return self._bytes(position + 8, _U64(self.data, position)[0])

    def _op_96(self, position: int) -> int:  # BYTEARRAY8
        position = self._op_8e(position)
        self._stack[-1] = Opaque(_BYTEARRAY, "reduce", (self._stack[-1],))
        return position

    # --- containers ---------------------------------------------------------------------------------------------------------------------------

    def _op_29(self, position: int) -> int:  # EMPTY_TUPLE
        self._stack.append(())
        return position

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("stack")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _op_85(self, position: int) -> int:  # TUPLE1
        self._tuple(1)
        return position

    def _op_86(self, position: int) -> int:  # TUPLE2
        self._tuple(2)
        return position

    def _op_87(self, position: int) -> int:  # TUPLE3
        self._tuple(3)
        return position

    def _op_74(self, position: int) -> int:  # TUPLE
        items = self._pop_mark()
        self._stack.append(tuple(items))
        return position

    def _op_5d(self, position: int) -> int:  # EMPTY_LIST
        self._stack.append([])
        return position

    def _op_6c(self, position: int) -> int:  # LIST
        items = self._pop_mark()
        self._stack.append(items)
        return position

    def _op_7d(self, position: int) -> int:  # EMPTY_DICT
        self._stack.append({})
        return position

    def _op_64(self, position: int) -> int:  # DICT
        items = self._pop_mark()
        self._stack.append({})
        _set_items(self._stack[-1], items)
        return position

    def _op_61(self, position: int) -> int:  # APPEND
        value = self._stack.pop()
        _extend(self._stack[-1], [value])
        return position

    def _op_65(self, position: int) -> int:  # APPENDS
        items = self._pop_mark()
        _extend(self._stack[-1], items)
        return position

    def _op_73(self, position: int) -> int:  # SETITEM
        value, key = self._stack.pop(), self._stack.pop()
        _set_items(self._stack[-1], [key, value])
        return position

    def _op_75(self, position: int) -> int:  # SETITEMS
        items = self._pop_mark()
        _set_items(self._stack[-1], items)
        return position

    def _op_8f(self, position: int) -> int:  # EMPTY_SET: kept as its recipe, as a set has no order to write back
        self._stack.append(Opaque(_SET, "reduce", ([],)))
        return position

    def _op_90(self, position: int) -> int:  # ADDITEMS
        items, target = self._pop_mark(), self._stack[-1]
        if not (isinstance(target, Opaque) and target.name == _SET and isinstance(target.args, tuple) and isinstance(target.args[0], list)):
            raise DamagedError("adds items to something that is no set")
        target.args[0].extend(items)
        return position

    def _op_91(self, position: int) -> int:  # FROZENSET
        items = self._pop_mark()
        self._stack.append(Opaque(_FROZENSET, "reduce", (items,)))
        return position

    # --- names and calls ----------------------------------------------------------------------------------------------------------------------

    def _op_63(self, position: int) -> int:  # GLOBAL
        module, position = self._line(position)
        name, position = self._line(position)
        self._stack.append(self._named(module.decode(), name.decode()))
        return position

    def _op_93(self, position: int) -> int:  # STACK_GLOBAL
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise DamagedError("names a class by something that is no text")
        self._stack.append(self._named(module, name))
        return position

    def _call(self, name: object, args: object) -> object:
        if not isinstance(name, Global):
            raise UnsupportedError("calls the result of another call")
        if not isinstance(args, tuple):
            raise DamagedError(f"calls {name} with arguments that are no tuple")
        if name.name == "OrderedDict" and name.module == "collections" and len(args) <= 1:
            ordered: OrderedDict[object, object] = OrderedDict()
            pairs = args[0] if args else []
            if not isinstance(pairs, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
                raise DamagedError("an OrderedDict is made from something that is no list of pairs")
            self._charge(len(pairs))
            _set_items(ordered, [part for pair in pairs for part in pair])
            return ordered
        if name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":  # how protocol 2 carries bytes
            self._charge(len(args[0]))
            return args[0].encode("latin-1")
        if name in _BYTES and not args:
            return b""
        made = self._reduce(name, args)
        return Opaque(name, "reduce", args) if made is None else made

    def _charge(self, count: int) -> None:
        """Count what calls copy: an honest pickle spells each item once, a crafted one calls again and again on the same list."""
        self._copied += count
        if self._copied > len(self.data):
            raise UnsupportedError("copies more than it holds: built to exhaust memory")

    def _op_52(self, position: int) -> int:  # REDUCE
        args = self._stack.pop()
        self._stack[-1] = self._call(self._stack[-1], args)
        return position

    def _op_81(self, position: int) -> int:  # NEWOBJ
        args, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, Global) or not isinstance(args, tuple):
            raise DamagedError("makes an object of something that is no class")
        self._stack.append(Opaque(name, "newobj", args))
        return position

    def _op_92(self, position: int) -> int:  # NEWOBJ_EX
        keywords, args, name = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if not isinstance(name, Global) or not isinstance(args, tuple) or not isinstance(keywords, dict):
            raise DamagedError("makes an object of something that is no class")
        self._stack.append(Opaque(name, "newobj_ex", (args, keywords)))
        return position

    def _op_69(self, position: int) -> int:  # INST
        module, position = self._line(position)
        name, position = self._line(position)
        args = tuple(self._pop_mark())
        self._stack.append(self._call(self._named(module.decode(), name.decode()), args))
        return position

    def _op_6f(self, position: int) -> int:  # OBJ
        name, *args = self._pop_mark()
        self._stack.append(self._call(name, tuple(args)))
        return position

    def _op_62(self, position: int) -> int:  # BUILD
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.steps.append(("build", state))
        elif isinstance(target, OrderedDict):  # torch hangs `_metadata` on state dicts; any other attribute could shadow a method
            if not isinstance(state, dict) or set(state) != {"_metadata"}:
                raise UnsupportedError("an OrderedDict with attributes that torch does not set")
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own (torch/nn/modules/module.py)
        else:
            raise DamagedError(f"sets attributes on {_kind(target)}")
        return position

    def _op_51(self, position: int) -> int:  # BINPERSID
        self._stack[-1] = self._persist(self._stack[-1])
        return position

    def _op_50(self, position: int) -> int:  # PERSID
        line, position = self._line(position)
        self._stack.append(self._persist(line.decode()))
        return position


def _integer(line: bytes) -> int:
    if len(line) > MAX_DIGITS:
        raise UnsupportedError(f"an integer of {len(line):,} digits")
    return int(line)


def _kind(value: object) -> str:
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__}"


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Opaque):
        _add_step(target, "append", items)
    else:
        raise DamagedError(f"appends to {_kind(target)}")


def _add_step(target: Opaque, step: Literal["append", "setitem"], items: list[object]) -> None:
    """Record `items`; a run of equal steps is one step, however the pickler cut it."""
    last = target.steps[-1] if target.steps else None
    if last is not None and last[0] == step and isinstance(last[1], list):
        last[1].extend(items)
    else:
        target.steps.append((step, items))


def _set_items(target: object, flat: list[object]) -> None:
    """Set `flat` = [key, value, key, value, ...]. Keys are restricted: hashing a deep or shared tuple recurses in C without a guard."""
    if len(flat) % 2:
        raise DamagedError("a key without a value")
    if isinstance(target, dict):
        for index in range(0, len(flat), 2):
            key = flat[index]
            if type(key) is not str:
                _check_key(key, len(target))
            target[key] = flat[index + 1]
    elif isinstance(target, Opaque):
        _add_step(target, "setitem", [(flat[index], flat[index + 1]) for index in range(0, len(flat), 2)])
    else:
        raise DamagedError(f"sets items of {_kind(target)}")


def _check_key(key: object, size: int) -> None:
    parts = key if isinstance(key, tuple) and len(key) <= 64 else (key,)
    if parts is key and size > MAX_NUMBER_TUPLES and any(isinstance(part, (int, float)) for part in parts):
        raise UnsupportedError(f"a dict of more than {MAX_NUMBER_TUPLES:,} keys with tuples of numbers among them")
    for part in parts:
        if isinstance(part, int) and abs(part) > MAX_KEY:
            raise UnsupportedError("an integer key beyond 61 bits")
        if part is not None and not isinstance(part, (str, int, float, bytes, Global, Opaque, Tensor, Storage)):
            raise UnsupportedError(f"{_kind(part)} as a key")
