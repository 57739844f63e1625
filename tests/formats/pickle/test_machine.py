"""The machine against CPython's own unpickler: for plain data both must say the same, for every protocol."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from collections import OrderedDict
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.formats.pickle import objects, scalars
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.safety import judge
from gsvckpt.formats.pickle.state import EndOfPickle
from gsvckpt.model import Global, Opaque

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), st.text(max_size=8), st.binary(max_size=8)
)
KEYS = st.one_of(st.text(max_size=5), st.integers(-(1 << 60), 1 << 60), st.tuples(st.text(max_size=3), st.integers(0, 9)))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=5),
        st.lists(st.tuples(KEYS, inner), max_size=4).map(OrderedDict),
    ),
    max_leaves=25,
)


def run(data: bytes) -> object:
    return Machine(data, reduce=lambda name, args: None).run()


class Innocent(pickle.Unpickler):
    """CPython's unpickler with nothing to call but what plain data needs."""

    def find_class(self, module: str, name: str) -> object:
        assert (module, name) in {("collections", "OrderedDict"), ("_codecs", "encode"), ("builtins", "bytes"), ("__builtin__", "bytes")}
        return super().find_class(module, name)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(TREES, st.integers(0, 5))
def test_agrees_with_cpython(tree: object, protocol: int) -> None:
    data = pickle.dumps(tree, protocol)
    ours = run(data)
    assert ours == Innocent(io.BytesIO(data)).load() == tree
    assert repr(ours) == repr(tree)  # types as well: 1 is True for ==


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{1, 2}, frozenset([1]), bytearray(b"xy"), 1 + 2j, range(3)], ids=repr)
def test_builtin_objects_stay_recipes(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = run(data)
    assert isinstance(found, Opaque)
    assert (found.name.name.removeprefix("x"), found.how) == (type(value).__name__, "reduce")  # range was xrange up to protocol 2
    assert judge(found.name) == "safe"


def test_shared_nodes_are_shared() -> None:
    one: list[object] = []
    both = run(pickle.dumps([one, one, [one]]))
    assert both[0] is both[1] is both[2][0]


def test_a_dict_of_dicts_in_one_pickle_knows_each_name_once() -> None:
    machine = Machine(b"\x80\x02](cutils\nHParams\ncutils\nHParams\n\x8c\x05utils\x8c\x07HParams\x93e.", reduce=lambda name, args: None)
    one, two, three = machine.run()
    assert one is two is three == Global("utils", "HParams")
    assert list(machine.globals) == [one]


def test_position_is_behind_the_pickle() -> None:
    machine = Machine(b"xxN.yy", reduce=lambda name, args: None, position=2)
    assert machine.run() is None
    assert machine.position == 4


def test_reduce_may_make_values_of_ours() -> None:
    machine = Machine(b"cm\nf\nK\x07\x85R.", reduce=lambda name, args: ("made", name.name, *args))
    assert machine.run() == ("made", "f", 7)


def test_metadata_of_state_dicts() -> None:
    tree = OrderedDict(a=1)
    tree._metadata = OrderedDict([("", {"version": 1})])
    found = run(pickle.dumps(tree, 2))
    assert (found, found._metadata) == (tree, tree._metadata)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-7\n.", -7),
        (b"L12L\n.", 12),
        (b"F1.5\n.", 1.5),
        (b"S'a\\x62\\n\\'\\\\'\n.", "ab\n'\\"),
        (b"S'\\q'\n.", "\\q"),
        (b'S"double"\n.', "double"),
        (b"V\\u58f0x\n.", "声x"),
        (b"U\x02ab.", "ab"),
        (b"(K\x01K\x02l.", [1, 2]),
        (b"(K\x01K\x02d.", {1: 2}),
        (b"(K\x01K\x020K\x03t.", (1, 3)),
        (b"N(K\x01K\x021.", None),
        (b"K\x052\x86.", (5, 5)),
        (b"(0N.", None),
        (b"Np7\ng7\n.", None),
        (b"\x8a\x00.", 0),
        (b"\x8a\x02\xff\x00.", 255),
        (b"\x8a\x01\xff.", -1),
    ],
    ids=range(20),
)
def test_opcodes_that_todays_picklers_no_longer_write(code: bytes, value: object) -> None:
    assert run(code) == value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CPython's unpickler warns of the escape
        assert pickle.loads(code, encoding="utf-8") == value


def test_steps_are_kept_in_order_and_joined() -> None:
    """A pickler cuts long runs; the recipe does not show where."""
    found = run(b"\x80\x02cm\nC\n)R(K\x01K\x02eK\x03a(K\x04K\x05uNb.")
    assert found.steps == [("append", [1, 2, 3]), ("setitem", [(4, 5)]), ("build", None)]


@pytest.mark.parametrize("size", range(1, 60))
def test_every_beginning_of_a_pickle_is_an_early_end(size: int) -> None:
    data = pickle.dumps({"a": [1.5, "text", b"bytes", 1 << 40], "b": (1, 2, 3, 4)}, 4)
    with pytest.raises((EndOfPickle, DamagedError)):
        run(data[:size])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    with suppress(GsvError):
        run(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]), max_size=30), st.binary(max_size=30))
def test_any_opcodes_give_a_value_or_our_error(codes: list[bytes], operands: bytes) -> None:
    with suppress(GsvError):
        run(b"N" * 5 + b"(N" * 3 + b"\x00\x01\n".join(codes) + operands + b".")


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_OPCODES", 1000)
    with pytest.raises(UnsupportedError, match="more than 1,000 opcodes"):
        run(b"N0" * 100_000 + b"N.")


def test_a_caller_may_lower_the_number_of_opcodes() -> None:
    def counted(count: int, limit: int) -> object:
        return Machine(b"N0" * count + b"N.", reduce=lambda name, args: None, max_opcodes=limit).run()

    assert counted(100, 202) is None
    with pytest.raises(UnsupportedError, match="more than 201 opcodes"):
        counted(100, 201)


def test_objects_below_marks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_WAITING", 1000)
    with pytest.raises(UnsupportedError, match="objects waiting"):
        run((b"N" * 900 + b"(") * 200 + b"N.")


def test_marks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_OPEN", 1000)
    with pytest.raises(UnsupportedError, match="1,000 containers open"):
        run(b"(" * 100_000 + b"N.")


@pytest.mark.parametrize("code", [b"\x8f", b"(\x91", b"h\x00)R", b"h\x01)R", b"h\x01)\x81", b"h\x01)}\x92"], ids=repr)
def test_large_objects_are_counted(monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_HEAVY", 1000)
    names = b"ccollections\nOrderedDict\nq\x000cm\nC\nq\x010"
    assert len(run(names + b"](" + code * 400 + b"e.")) == 400
    with pytest.raises(UnsupportedError, match="1,000 objects of the large kinds"):
        run(names + b"](" + code * 1001 + b"e.")


def test_waiting_objects_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_WAITING", 1000)
    with pytest.raises(UnsupportedError, match="objects waiting"):
        run(b"N" * 100_000 + b".")


def test_every_opcode_of_every_protocol_is_known() -> None:
    refused = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    known = {**scalars.SCALARS, **objects.OBJECTS}
    unknown = {op.name for op in pickletools.opcodes if ord(op.code) not in known}
    assert unknown == refused | {"STOP"}
