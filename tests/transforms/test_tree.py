"""Rebuilding trees: what stays is the same, shared where it was shared, cycles included."""

from __future__ import annotations

import sys
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import hparams, read, tensor, torch_zip

from gsvckpt.errors import UnsupportedError
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.model import MAX_DEPTH, Global, Opaque, Tensor, walk
from gsvckpt.transforms.tree import at, edited, put, rebuild

many = settings(max_examples=150, deadline=None, derandomize=True)
TENSORS = [leaf for _, leaf in walk(read(torch_zip([tensor("float32", (2,), [1, 2]), tensor("int8", (1,), [3])])).root)]
LEAVES = [*TENSORS, TENSORS[0].storage, None, True, 7, -0.0, float("nan"), "text", b"bytes", (), Global("torch", "float16")]
KINDS = ["dict", "ordered", "metadata", "list", "tuple", "opaque"]


def identity(value):
    return value


def same_leaf(one, two):
    return one is two


def difference(one, two):
    return first_difference(one, two, same_leaf)


@st.composite
def graphs(draw, *, cycles=True):
    """A tree as a pickle can make one: nodes that are shared anywhere and, with `cycles`, reach themselves through dicts, lists and states."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
    nodes: list[object] = []
    late = []  # what is filled once all nodes are there

    def parts(upto):
        leaf, node = st.sampled_from(LEAVES), st.integers(0, upto - 1).map(nodes.__getitem__) if upto else st.nothing()
        return draw(st.lists(node | leaf, max_size=3))

    for kind in kinds:
        if kind == "tuple":
            nodes.append(tuple(parts(len(nodes))))
        elif kind == "opaque":
            nodes.append(Opaque(Global("m", "C"), draw(st.sampled_from(["reduce", "newobj"])), tuple(parts(len(nodes))), []))
        else:
            nodes.append({"dict": {}, "list": []}.get(kind, OrderedDict()))
        late.append((kind, nodes[-1], len(nodes)))
    for kind, node, before in late:
        inside = parts(len(nodes) if cycles else before - 1)
        if kind == "list":
            node.extend(inside)
        elif kind == "opaque":
            node.steps.append(draw(st.sampled_from([("build", inside[0] if inside else None), ("append", inside)])))
        elif kind != "tuple":
            node.update({f"k{index}": part for index, part in enumerate(inside)})
        if kind == "metadata":
            node._metadata = parts(before - 1)
    return nodes[-1], nodes


@many
@given(graphs())
def test_nothing_changed_is_an_equal_tree_with_equal_sharing(graph):
    root, nodes = graph
    assert difference(root, rebuild(root, identity)) is None
    assert difference(nodes, rebuild(nodes, identity)) is None  # and so when every node is reached in the order in which it was made
    assert difference(nodes[::-1], rebuild(nodes[::-1], identity)) is None


@pytest.mark.parametrize("kind", ["tuple", "opaque"])
def test_what_contains_itself_through_what_cannot_be_made_empty_stays_one(kind):
    """Pickle makes such a tuple: its list first, then the tuple, which the list then takes in."""
    inner: list[object] = []
    node = (inner,) if kind == "tuple" else Opaque(Global("m", "C"), "reduce", (inner,), [])
    inner.append(node)
    root = {"node": node, "inner": inner}
    made = rebuild(root, identity)
    assert made["inner"][0] is made["node"]
    assert difference(root, made) is None


@many
@given(graphs(cycles=False))
def test_every_node_and_leaf_is_asked_and_the_tree_itself_is_left_alone(graph):
    root, _ = graph
    before = rebuild(root, identity)
    asked = []
    rebuild(root, lambda value: asked.append(value) or value)
    assert difference(before, root) is None
    seen = {id(value) for value in asked}
    assert {id(leaf) for _, leaf in walk(root)} <= seen
    assert len([value for value in asked if isinstance(value, (dict, list, Opaque))]) == len(
        {id(value) for value in asked if isinstance(value, (dict, list, Opaque))}
    )


@many
@given(graphs())
def test_a_change_comes_once_wherever_a_leaf_stands(graph):
    root, _ = graph
    other = Tensor(TENSORS[0].storage, TENSORS[0].dtype, (1,), (1,))
    made = rebuild([root], lambda value: other if value is TENSORS[0] else value)
    assert TENSORS[0] not in [leaf for _, leaf in walk(made)]
    back = rebuild(made, lambda value: TENSORS[0] if value is other else value)
    assert [leaf for _, leaf in walk([root]) if isinstance(leaf, Tensor)] == [leaf for _, leaf in walk(back) if isinstance(leaf, Tensor)]


def test_an_object_that_becomes_a_dict_is_one_dict_and_its_parts_are_changed_too():
    config = read(torch_zip({"c": hparams({"name": "old", "inner": hparams({"x": "old"})})})).root["c"]

    def change(value):
        return value.state if isinstance(value, Opaque) else "new" if value == "old" else value

    made = rebuild({"one": config, "two": [config]}, change)
    assert made == {"one": {"name": "new", "inner": {"x": "new"}}, "two": [{"name": "new", "inner": {"x": "new"}}]}
    assert made["one"] is made["two"][0]


def test_keys_are_changed_and_keep_their_order():
    made = rebuild(OrderedDict(a=1, b=2, c=3), lambda value: value.upper() if isinstance(value, str) else value)
    assert type(made) is OrderedDict
    assert list(made.items()) == [("A", 1), ("B", 2), ("C", 3)]


@pytest.mark.parametrize("root", [{"a": 1, "A": 2}, [{"x": {"b": 1, "B": 2}}], OrderedDict(a=1, A=2)])
def test_two_keys_that_would_become_one_are_refused(root):
    with pytest.raises(UnsupportedError, match="keys would become one"):
        rebuild(root, lambda value: value.upper() if isinstance(value, str) else value)


def nested(levels, kind):
    root: object = 1
    for _ in range(levels):
        root = {
            "dict": lambda value: {"x": value},
            "list": lambda value: [value],
            "tuple": lambda value: (value,),
            "state": lambda value: Opaque(Global("m", "C"), "newobj", (), [("build", value)]),
            "args": lambda value: Opaque(Global("m", "C"), "reduce", (value,), []),
        }[kind](root)
    return root


@pytest.mark.parametrize(("kind", "levels"), [("dict", 1), ("list", 1), ("tuple", 1), ("state", 1), ("args", 2)])
def test_depth_has_a_limit_well_before_that_of_python(kind, levels):
    deepest = nested(MAX_DEPTH // levels, kind)
    assert difference(deepest, rebuild(deepest, identity)) is None
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000 + len(_frames()))
    try:
        for depth in (MAX_DEPTH // levels + 1, 5_000):
            with pytest.raises(UnsupportedError, match="nested deeper"):
                rebuild(nested(depth, kind), identity)
    finally:
        sys.setrecursionlimit(limit)


def _frames():
    frame, found = sys._getframe(), []
    while frame:
        found.append(frame)
        frame = frame.f_back
    return found


def test_metadata_of_state_dicts_is_kept_and_changed():
    state = OrderedDict(w=TENSORS[0])
    state._metadata = {"": {"version": 1, "where": "old"}}
    made = rebuild({"model": state}, lambda value: "new" if value == "old" else value)
    assert made["model"]._metadata == {"": {"version": 1, "where": "new"}}
    assert state._metadata == {"": {"version": 1, "where": "old"}}
    smaller = edited(state, {})
    assert (type(smaller), smaller, smaller._metadata) == (OrderedDict, {}, state._metadata)
    assert type(edited({"a": 1}, {"b": 2})) is dict


def test_put_makes_only_the_dicts_on_the_way():
    aside = ["kept"]
    root = {"a": OrderedDict(b={"c": 1}, z=aside), "y": aside}
    made = put(root, ("a", "b"), "new")
    assert (at(made, ("a", "b")), at(root, ("a", "b", "c"))) == ("new", 1)
    assert type(made["a"]) is OrderedDict
    assert made["a"]["z"] is made["y"] is aside
    assert list(made["a"]) == ["b", "z"]
    assert put(root, (), 3) == 3
    for path in (("n",), ("a", "n"), ("y", 0), ("a", "b", "c", "d")):
        with pytest.raises(KeyError):
            put(root, path, 1)
    with pytest.raises(KeyError):
        at(root, ("y", "x"))
