"""Equality: values, types, order, float bits, sharing; the answer is the first place."""

from __future__ import annotations

import math
import tracemalloc
from collections import OrderedDict

import pytest

from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.model import Global, Opaque


def difference(one: object, two: object) -> str | None:
    return first_difference(one, two, lambda left, right: left is right)


def recipe(name: str = "C", how: str = "reduce", args: object = (), steps: list[object] | None = None) -> Opaque:
    return Opaque(Global("m", name), how, args, steps or [])


def with_metadata(value: object) -> OrderedDict[str, object]:
    tree: OrderedDict[str, object] = OrderedDict(a=1)
    tree._metadata = value
    return tree


@pytest.mark.parametrize("tree", [None, 1, math.nan, "x", b"x", [], (), {}, [1, [2, {"k": (3.0, None)}]], with_metadata({"": 1})], ids=range(10))
def test_equal(tree: object) -> None:
    assert difference(tree, tree) is None


@pytest.mark.parametrize(
    ("one", "two", "place"),
    [
        (1, True, "the root"),
        (1, 1.0, "the root"),
        (0.0, -0.0, "the root"),
        ("x", b"x", "the root"),
        ([1], (1,), "the root"),
        ({}, OrderedDict(), "the root"),
        ([1, 2], [1, 3], "1"),
        ([1], [1, 2], "the root"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a/b"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "a"),
        ({1: None}, {True: None}, "1"),
        ({"a": math.nan}, {"a": 0.0}, "a"),
        (with_metadata({"": 1}), with_metadata({"": 2}), "<metadata>/"),
        (with_metadata({"": 1}), OrderedDict(a=1), "the root"),
        (recipe(), recipe("D"), "the root"),
        (recipe(), recipe(how="newobj"), "the root"),
        (recipe(args=(1,)), recipe(args=(2,)), "<args>/0"),
        (recipe(steps=[("build", 1)]), recipe(steps=[("build", 2)]), "<build>"),
        (recipe(steps=[("build", 1)]), recipe(), "the root"),
    ],
    ids=range(19),
)
def test_different(one: object, two: object, place: str) -> None:
    assert difference(one, two) == place
    assert difference(two, one) is not None


def test_sharing_counts_in_both_directions() -> None:
    shared: list[object] = []
    assert difference([shared, shared], [[], []]) == "1"
    assert difference([[], []], [shared, shared]) == "1"
    assert difference([shared, shared], [shared, shared]) is None


def test_cycles_and_laughs_end() -> None:
    def laughs() -> list[object]:
        tree: list[object] = []
        tree.append(tree)
        for _ in range(60):
            tree = [tree, tree]
        return tree

    assert difference(laughs(), laughs()) is None


def test_memory_is_that_of_the_deepest_branch() -> None:
    def branch() -> object:
        tree: object = [None] * 200_000
        for _ in range(200):
            tree = {"x": tree}
        return tree

    one, two = branch(), branch()
    tracemalloc.start()
    assert difference(one, two) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_depth_needs_no_stack() -> None:
    def deep(end: object) -> object:
        for _ in range(3_000):
            end = [end]
        return end

    assert difference(deep(1), deep(1)) is None
    assert difference(deep(1), deep(2)) is not None
