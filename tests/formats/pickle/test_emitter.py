"""The emitter against CPython's C pickler: the same bytes for the same tree, and the same tree read back."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings

from gsvckpt.errors import UnsupportedError
from gsvckpt.formats.pickle.emitter import EmittedCall, Persistent, emit
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.model import Global, Opaque

from .test_machine import TREES


def no_leaves(_: object) -> EmittedCall | Persistent:
    raise AssertionError("there are no tensors here")


def run(data: bytes) -> object:
    return Machine(data, reduce=lambda name, args: None).run()


def back(tree: object) -> object:
    return run(emit(tree, no_leaves))


def same(one: object, two: object) -> bool:
    return first_difference(one, two, lambda left, right: left is right) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TREES)
def test_what_is_written_is_read_back(tree: object) -> None:
    assert same(back(tree), tree)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TREES)
def test_what_cpython_wrote_comes_out_byte_for_byte(tree: object) -> None:
    tree = run(pickle.dumps(tree, 2))  # texts of one letter are one object only once they are read
    data = pickle.dumps(tree, 2)
    assert emit(run(data), no_leaves) == data


@pytest.mark.parametrize("size", [0, 1, 2, 999, 1000, 1001, 1999, 2000, 2001])
@pytest.mark.parametrize(
    "make", [list, dict.fromkeys, OrderedDict.fromkeys, lambda n: [OrderedDict.fromkeys(n)]], ids=["list", "dict", "odict", "in"]
)
def test_batches_are_cut_as_cpython_cuts_them(make: object, size: int) -> None:
    tree = make(range(size))
    assert emit(tree, no_leaves) == pickle.dumps(tree, 2)


@pytest.mark.parametrize("exponent", [*range(72), 127, 128, 2039, 2040, 2048])
def test_integers_at_every_edge(exponent: int) -> None:
    edge = 1 << exponent
    tree = [sign * edge + off for sign in (1, -1) for off in (-1, 0, 1)]
    assert emit(tree, no_leaves) == pickle.dumps(tree, 2)
    assert back(tree) == tree


@pytest.mark.parametrize("count", [250, 257, 70_000])
def test_memo_indexes_of_one_and_four_bytes(count: int) -> None:
    tree = [[] for _ in range(count)]
    tree += tree[-5:]
    assert emit(tree, no_leaves) == pickle.dumps(tree, 2)


def test_golden() -> None:
    """The same bytes on every Python."""
    metadata = OrderedDict([("", {"version": 1})])
    state: OrderedDict[str, object] = OrderedDict([("w", 1.5), ("n", -1)])
    state._metadata = metadata
    config = Opaque(Global("utils", "HParams"), "newobj", (), [("build", {"v": b"\xff"})])
    assert emit({"model": state, "config": config, "again": state}, no_leaves) == (
        b"\x80\x02}q\x00(X\x05\x00\x00\x00modelq\x01ccollections\nOrderedDict\nq\x02)Rq\x03(X\x01\x00\x00\x00wq\x04G?\xf8\x00\x00\x00\x00\x00\x00"
        b"X\x01\x00\x00\x00nq\x05J\xff\xff\xff\xffu}q\x06X\t\x00\x00\x00_metadataq\x07h\x02)Rq\x08X\x00\x00\x00\x00q\t}q\nX\x07\x00\x00\x00version"
        b"q\x0bK\x01sssbX\x06\x00\x00\x00configq\x0ccutils\nHParams\nq\r)\x81q\x0e}q\x0fX\x01\x00\x00\x00vq\x10c_codecs\nencode\nq\x11"
        b"X\x02\x00\x00\x00\xc3\xbfq\x12X\x06\x00\x00\x00latin1q\x13\x86q\x14Rq\x15sbX\x05\x00\x00\x00againq\x16h\x03u."
    )


def test_recipes_come_back_with_their_steps() -> None:
    steps = [("append", [1, 2]), ("setitem", [("k", [3])]), ("build", {"x": 1})]
    for how in ("reduce", "newobj"):
        recipe = Opaque(Global("m", "C"), how, ("arg", (1,)), list(steps))
        found = back([recipe, recipe])
        assert found[0] is found[1]
        assert (found[0].name, found[0].how, found[0].args, found[0].steps) == (recipe.name, how, recipe.args, steps)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Opaque(Global("m", "C"), "newobj_ex", ((), {})), "made with keywords"),
        (object(), "a object cannot be written"),
        ({1, 2}, "a set cannot be written"),
        (Global("a\nb", "c"), "characters that cannot be written"),
        (Global("a", "b\nc"), "characters that cannot be written"),
        (Global("a", "\ud800"), "characters that cannot be written"),
    ],
    ids=range(6),
)
def test_what_cannot_be_written_is_named_by_its_place(value: object, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        emit({"outer": [1, {"inner": value}]}, no_leaves)
    assert caught.value.where == "outer/1/inner"
