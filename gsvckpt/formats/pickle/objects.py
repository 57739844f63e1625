"""Opcodes that build containers and objects. Names stay names; a call becomes one of our own values or an Opaque."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.formats.pickle import uses
from gsvckpt.formats.pickle.state import Handler, State
from gsvckpt.model import Global, Opaque

_STEP = 3  # weight of a step, which every command looks at

_ENCODE, _BYTES = Global("_codecs", "encode"), {Global("__builtin__", "bytes"), Global("builtins", "bytes")}
_SET, _FROZENSET = (Global("__builtin__", name) for name in ("set", "frozenset"))  # as protocol 2 spells them


def op_empty_tuple(m: State, position: int) -> int:
    m.stack.append(())
    return position


def _tuple(m: State, count: int) -> None:
    if len(m.stack) < count:
        raise IndexError("stack")
    m.tuples += 1
    m.stack[-count:] = [tuple(m.stack[-count:])]


def op_tuple1(m: State, position: int) -> int:
    _tuple(m, 1)
    return position


def op_tuple2(m: State, position: int) -> int:
    _tuple(m, 2)
    return position


def op_tuple3(m: State, position: int) -> int:
    _tuple(m, 3)
    return position


def op_tuple(m: State, position: int) -> int:
    items = m.pop_mark()
    m.tuples += 1
    m.stack.append(tuple(items))
    return position


def op_empty_list(m: State, position: int) -> int:
    m.containers += 1
    m.stack.append([])
    return position


def op_list(m: State, position: int) -> int:
    items = m.pop_mark()
    m.containers += 1
    m.stack.append(items)
    return position


def op_empty_dict(m: State, position: int) -> int:
    m.containers += 1
    m.stack.append({})
    return position


def op_dict(m: State, position: int) -> int:
    items = m.pop_mark()
    m.containers += 1
    m.stack.append({})
    _set_items(m, m.stack[-1], items)
    return position


def op_append(m: State, position: int) -> int:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])
    return position


def op_appends(m: State, position: int) -> int:
    items = m.pop_mark()
    _extend(m, m.stack[-1], items)
    return position


def op_setitem(m: State, position: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, m.stack[-1], [key, value])
    return position


def op_setitems(m: State, position: int) -> int:
    items = m.pop_mark()
    _set_items(m, m.stack[-1], items)
    return position


def op_empty_set(m: State, position: int) -> int:  # kept as its recipe, as a set has no order to write back
    m.weigh(2)
    m.stack.append(Opaque(_SET, "reduce", ([],)))
    return position


def op_additems(m: State, position: int) -> int:
    items, target = m.pop_mark(), m.stack[-1]
    if not (isinstance(target, Opaque) and target.name == _SET and isinstance(target.args, tuple) and isinstance(target.args[0], list)):
        raise DamagedError("adds items to something that is not a set")
    if m.taken:
        uses.change(m, target)
    for item in items:
        uses.hash_key(m, item, target)
    target.args[0].extend(items)
    return position


def op_frozenset(m: State, position: int) -> int:
    m.weigh(2)
    items = m.pop_mark()
    for item in items:
        uses.hash_key(m, item, items)
    m.stack.append(Opaque(_FROZENSET, "reduce", (items,)))
    return position


def op_global(m: State, position: int) -> int:
    module, position = m.line(position)
    name, position = m.line(position)
    m.stack.append(m.named(module.decode(), name.decode()))
    return position


def op_stack_global(m: State, position: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise DamagedError("names a class by something that is not text")
    m.stack.append(m.named(module, name))
    return position


def _call(m: State, name: object, args: object) -> object:
    if not isinstance(name, Global):
        raise UnsupportedError("calls the result of another call")
    if not isinstance(args, tuple):
        raise DamagedError(f"calls {name} with arguments that are not a tuple")
    if name.name == "OrderedDict" and name.module == "collections" and len(args) <= 1:
        if m.ordered is not name:
            m.ordered = name
            m.called[name] = None
        ordered: OrderedDict[object, object] = OrderedDict()
        pairs = args[0] if args else []
        if not isinstance(pairs, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise DamagedError("an OrderedDict is made from something that is not a list of pairs")
        m.charge(len(pairs))
        m.weigh(1)
        _set_items(m, ordered, [part for pair in pairs for part in pair])
        return ordered
    if name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":  # how protocol 2 carries bytes
        m.charge(len(args[0]))
        m.called[name] = None
        return args[0].encode("latin-1")
    if name in _BYTES and not args:
        m.called[name] = None
        return b""
    made = m.reduce(name, args)
    if made is None:
        return _opaque(m, name, "reduce", args)
    if m.rebuilt is not name:
        m.rebuilt = name
        m.called[name] = None
    m.tensors += 1
    if len(args) > 5:  # its hooks, of which torch keeps the dict itself
        m.taken[id(args[5])] = args[5]
    return made


def _opaque(m: State, name: Global, how: Literal["reduce", "newobj", "newobj_ex"], args: object) -> Opaque:
    m.weigh(1)
    made = Opaque(name, how, args)
    m.made.append(made)
    uses.take(m, name, args)
    if name.name in ("set", "frozenset") and isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], (list, tuple)):
        for item in args[0]:
            uses.hash_key(m, item, made)
    return made


def op_reduce(m: State, position: int) -> int:
    args = m.stack.pop()
    m.stack[-1] = _call(m, m.stack[-1], args)
    return position


def op_newobj(m: State, position: int) -> int:
    args, name = m.stack.pop(), m.stack.pop()
    if not isinstance(name, Global) or not isinstance(args, tuple):
        raise DamagedError("makes an object of something that is not a class")
    m.stack.append(_opaque(m, name, "newobj", args))
    return position


def op_newobj_ex(m: State, position: int) -> int:
    keywords, args, name = m.stack.pop(), m.stack.pop(), m.stack.pop()
    if not isinstance(name, Global) or not isinstance(args, tuple) or not isinstance(keywords, dict):
        raise DamagedError("makes an object of something that is not a class")
    m.stack.append(_opaque(m, name, "newobj_ex", (args, keywords)))
    return position


def op_inst(m: State, position: int) -> int:
    module, position = m.line(position)
    name, position = m.line(position)
    args = tuple(m.pop_mark())
    m.stack.append(_instance(m, m.named(module.decode(), name.decode()), args))
    return position


def op_obj(m: State, position: int) -> int:
    name, *args = m.pop_mark()
    m.stack.append(_instance(m, name, tuple(args)))
    return position


def _instance(m: State, name: object, args: tuple[object, ...]) -> object:
    """What INST and OBJ make: without arguments, CPython calls no class but its `__new__` (Lib/pickle.py, _instantiate)."""
    return _call(m, name, args) if args or not isinstance(name, Global) else _opaque(m, name, "newobj", ())


def op_build(m: State, position: int) -> int:
    state = m.stack.pop()
    target = m.stack[-1]
    if m.taken:
        uses.change(m, target)
    if isinstance(target, Opaque):
        m.weigh(_STEP)
        target.steps.append(("build", state))
        uses.take(m, target.name, state)
    elif isinstance(target, OrderedDict):  # torch hangs `_metadata` on state dicts; any other attribute could shadow a method
        if not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise UnsupportedError("an OrderedDict with attributes that torch does not set")
        target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own (torch/nn/modules/module.py)
    else:
        raise DamagedError(f"sets attributes on {_kind(target)}")
    return position


def op_binpersid(m: State, position: int) -> int:
    m.stack[-1] = m.persist(m.stack[-1])
    return position


def op_persid(m: State, position: int) -> int:
    line, position = m.line(position)
    m.stack.append(m.persist(line.decode()))
    return position


def _kind(value: object) -> str:
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__}"


def _extend(m: State, target: object, items: list[object]) -> None:
    if m.taken:
        uses.change(m, target)
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Opaque):
        _add_step(m, target, "append", items)
    else:
        raise DamagedError(f"appends to {_kind(target)}")


def _add_step(m: State, target: Opaque, step: Literal["append", "setitem"], items: list[object]) -> None:
    """Record `items`; a run of equal steps is one step, however the pickler cut it, and none is no step."""
    if not items:
        return
    last = target.steps[-1] if target.steps else None
    if last is not None and last[0] == step and isinstance(last[1], list):
        last[1].extend(items)
    else:
        m.weigh(_STEP)
        target.steps.append((step, items))


def _set_items(m: State, target: object, flat: list[object]) -> None:
    """Set `flat` = [key, value, key, value, ...]. Keys are restricted: hashing a deep or shared tuple recurses in C without a guard."""
    if len(flat) % 2:
        raise DamagedError("a key without a value")
    if m.taken:
        uses.change(m, target)
    if isinstance(target, dict):
        for index in range(0, len(flat), 2):
            key = flat[index]
            if type(key) is not str or len(key) > budget.LONG_TEXT:
                uses.hash_key(m, key, target)
            target[key] = flat[index + 1]
    elif isinstance(target, Opaque):
        for index in range(0, len(flat), 2):
            uses.hash_key(m, flat[index], target)
        _add_step(m, target, "setitem", [(flat[index], flat[index + 1]) for index in range(0, len(flat), 2)])
    else:
        raise DamagedError(f"sets items of {_kind(target)}")


OBJECTS: Mapping[int, Handler] = {
    0x29: op_empty_tuple,
    0x50: op_persid,
    0x51: op_binpersid,
    0x52: op_reduce,
    0x5D: op_empty_list,
    0x61: op_append,
    0x62: op_build,
    0x63: op_global,
    0x64: op_dict,
    0x65: op_appends,
    0x69: op_inst,
    0x6C: op_list,
    0x6F: op_obj,
    0x73: op_setitem,
    0x74: op_tuple,
    0x75: op_setitems,
    0x7D: op_empty_dict,
    0x81: op_newobj,
    0x85: op_tuple1,
    0x86: op_tuple2,
    0x87: op_tuple3,
    0x8F: op_empty_set,
    0x90: op_additems,
    0x91: op_frozenset,
    0x92: op_newobj_ex,
    0x93: op_stack_global,
}
