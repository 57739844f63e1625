"""Opcodes from the middle of a pickle, run alone, against the whole pickle: what a fragment is said to be, it is where it stands."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.pickle.machine import Machine, PickleFragment, run_fragment
from gsvckpt.formats.pickle.positions import Passage, find_places
from gsvckpt.formats.torch_objects import rebuild
from gsvckpt.model import Global

NAME, BEHIND = b"X\x06\x00\x00\x00config", b"X\x01\x00\x00\x00z"
BEFORE = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(X\x02\x00\x00\x00v4q\x03cos\npath\nq\x04e" + NAME
AFTER = BEHIND + b"](h\x01h\x02h\x03h\x04eu."  # refers to all that is remembered before, but for the root
OBJECT = b"cutils\nHParams\nq\x10)\x81q\x11}q\x12(X\x01\x00\x00\x00nq\x13h\x03X\x01\x00\x00\x00lq\x14](K\x01G?\xf0\0\0\0\0\0\0\x88h\x13eub"
DICT = b"}q\x10(X\x01\x00\x00\x00aq\x11}q\x12(X\x01\x00\x00\x00bM\x01\x02X\x01\x00\x00\x00ch\x11uX\x01\x00\x00\x00d\x8a\x01\x05K\x02\x86q\x13u"
PASSAGES = {"object": OBJECT, "dict": DICT, "text": b"X\x05\x00\x00\x00alice", "None": b"N"}


class Whole:
    """What the machine makes of all of a pickle: the root, and the names in it."""

    def __init__(self, data: bytes) -> None:
        machine = Machine(data, reduce=rebuild)
        self.root = machine.run()
        self.names = tuple(machine.globals)
        assert machine.position == len(data)


def learn(code: bytes) -> tuple[Passage, PickleFragment, Whole]:
    data = BEFORE + code + AFTER
    passage = find_places(data, (), ("config",), 1000).passages["config"]
    assert data[passage.begin : passage.end] == code
    fragment = run_fragment(code, dict(passage.texts), rebuild)
    assert fragment is not None
    return passage, fragment, Whole(data)


def check(code: bytes, passage: Passage, learnt: PickleFragment, whole: Whole) -> bool:
    """Whether it is a fragment as the other is; if so, the whole pickle is the other but for it."""
    fragment = run_fragment(code, dict(passage.texts), rebuild)
    if fragment is None or fragment[1:] != learnt[1:]:
        return False
    found = Whole(BEFORE + code + AFTER)
    expected = {**whole.root, "config": fragment.value}
    assert first_difference(found.root, expected, lambda one, two: False) is None
    assert found.names == whole.names
    return True


@pytest.mark.parametrize("kind", PASSAGES)
def test_every_value_of_every_byte(kind: str) -> None:
    code = PASSAGES[kind]
    learnt = learn(code)
    assert check(code, *learnt)
    found = sum(check(code[:at] + bytes([value]) + code[at + 1 :], *learnt) for at in range(len(code)) for value in range(256))
    assert found > 2 * len(code)


OPCODES = [bytes([value]) for value in b"()0129.NRQ]}abcdeghijloqrstu\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94"] + [
    b"h\x00", b"h\x01", b"h\x02", b"h\x03", b"h\x04", b"q\x00", b"q\x01", b"q\x02", b"q\x03", b"q\x10", b"q\x11", b"h\x10", b"h\x11",
    b"cos\nsystem\n", b"cutils\nHParams\n", b"ccollections\nOrderedDict\n", b"K\x01", NAME, BEHIND,
]  # fmt: skip


@given(
    st.sampled_from(sorted(PASSAGES)), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 8), st.sampled_from(OPCODES)), min_size=1, max_size=4)
)
@settings(max_examples=1500, deadline=None)
def test_whatever_is_put_in_its_place(kind: str, edits: Sequence[tuple[int, int, bytes]]) -> None:
    code = PASSAGES[kind]
    learnt = learn(code)
    for at, gone, opcode in edits:
        code = code[:at] + opcode + code[at + gone :]
    check(code, *learnt)


@given(st.lists(st.sampled_from(OPCODES), max_size=8))
@settings(max_examples=1500, deadline=None)
def test_any_opcodes(codes: Sequence[bytes]) -> None:
    passage, fragment, whole = learn(b"N")
    check(b"".join(codes), passage, fragment, whole)


@pytest.mark.parametrize(
    "code",
    [b"", b"NN", b"(N", b"N.", b"0N", b"h\x02", b"]\x94", b"]q\x03", b"X\xff\x00\x00\x00a", b"cos\n", b"NQ", b"h\x00", b"Nq\x01a", b"e", b"Nu"],
)
def test_no_piece(code: bytes) -> None:
    assert run_fragment(code, {3: "v4"}, rebuild) is None


def test_a_piece_and_what_it_leaves() -> None:
    fragment = run_fragment(b"](h\x03K\x01q\x07cutils\nHParams\ne", {3: "v4"}, rebuild)
    assert fragment == PickleFragment(["v4", 1, Global("utils", "HParams")], (Global("utils", "HParams"),), frozenset({7}))
    assert run_fragment(b"h\x03q\x03", {3: "v4"}, rebuild) == PickleFragment("v4", (), frozenset())


def test_what_is_copied_makes_no_piece() -> None:
    """There is a limit on all that one pickle copies."""
    assert run_fragment(b"ccollections\nOrderedDict\n)R", {}, rebuild) is not None
    assert run_fragment(b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R", {}, rebuild) is None


def test_the_builder_is_right() -> None:
    with pytest.raises(GsvError):
        Whole(BEFORE + b"NN" + AFTER)
    assert pickle.loads(BEFORE + b"N" + AFTER)["config"] is None
