"""Stripping acts on the tree: order, types and metadata of what stays are untouched, and freed bytes are counted once."""

from __future__ import annotations

from collections import OrderedDict

from support.builders import Store, View, read, tensor, torch_zip

from gsvckpt.model import REMOVED, Checkpoint
from gsvckpt.transforms.plan import begin
from gsvckpt.transforms.strip import strip

STORE = Store("float32", bytes(40))
SHARED = View(STORE, (10,), (1,))
TREE = {"model": {"w": SHARED}, "optimizer": {"m": tensor("float32", (25,)), "w": SHARED}, "again": [SHARED], "iteration": 8}


def opened() -> Checkpoint:
    return read(torch_zip(TREE))


def test_removes_and_replaces_in_place() -> None:
    plan = strip(begin(opened()), {"again": REMOVED, "optimizer": None, "not there": REMOVED})
    assert list(plan.root) == ["model", "optimizer", "iteration"]
    assert plan.root["optimizer"] is None
    assert [(change.where, change.after) for change in plan.changes] == [("again", "removed"), ("optimizer", "None")]


def test_only_bytes_that_nothing_else_needs_are_freed() -> None:
    assert [change.bytes for change in strip(begin(opened()), {"optimizer": REMOVED}).changes] == [100]
    everything = strip(begin(opened()), {"model": REMOVED, "optimizer": REMOVED, "again": REMOVED})
    assert [change.bytes for change in everything.changes] == [40, 100, 0]


def test_the_source_tree_is_left_alone() -> None:
    checkpoint = opened()
    strip(begin(checkpoint), {"model": REMOVED})
    assert list(checkpoint.root) == list(TREE)


def test_nothing_to_do_is_the_same_plan() -> None:
    plan = begin(opened())
    assert strip(plan, {"absent": REMOVED}) is plan
    assert strip(plan, {"iteration": 8}) is plan
    once = strip(plan, {"optimizer": None})
    assert strip(once, {"optimizer": None}) is once


def test_a_root_that_is_no_dict_is_left_alone() -> None:
    plan = begin(read(torch_zip([1, 2])))
    assert strip(plan, {0: REMOVED}) is plan


def test_ordered_dicts_stay_ordered_dicts_with_their_metadata() -> None:
    tree = OrderedDict(a=1, b=2)
    tree._metadata = OrderedDict([("", {"version": 1})])
    root = strip(begin(read(torch_zip(tree))), {"a": REMOVED}).root
    assert type(root) is OrderedDict
    assert (list(root), root._metadata) == (["b"], tree._metadata)
