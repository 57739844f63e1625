"""Editing a state dict inside a tree, and comparing it with a reference."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Make, Name, read, tensor, torch_zip

from gsvckpt.dtypes import DTYPES
from gsvckpt.errors import RefusedError, UnsupportedError
from gsvckpt.model import REMOVED, storages_of, tensor_of
from gsvckpt.transforms.cast import cast
from gsvckpt.transforms.plan import Change, begin
from gsvckpt.transforms.state_dict import conflicts, keep_tensors, match, put_tensors, rename_tensors

many = settings(max_examples=150, deadline=None, derandomize=True)
NAMES = st.text("ab.", min_size=1, max_size=3)
LEAVES = st.one_of(st.integers(1, 3).map(lambda n: tensor("float32", (n,), range(n))), st.integers(), st.none(), st.just([1]))
STATES = st.dictionaries(NAMES, LEAVES, max_size=6).map(OrderedDict)


def planned(tree):
    return begin(read(torch_zip(tree)))


def parameter(values):
    return Make(Name("torch._utils", "_rebuild_parameter"), (tensor("float32", (2,), values), True, OrderedDict()))


def names_of(state):
    return [key for key, value in state.items() if tensor_of(value) is not None]


@many
@given(STATES, st.sets(NAMES))
def test_only_what_is_not_wanted_goes_and_all_else_is_the_same_object(state, unwanted):
    plan = planned({"model": state, "other": {"a": tensor("int8", (1,), [1])}, "n": 3})
    done = keep_tensors(plan, ("model",), lambda name: name not in unwanted, "choose")
    before, after = plan.root["model"], done.root["model"]
    gone = [name for name in names_of(before) if name in unwanted]
    assert list(after) == [key for key in before if key not in gone]
    assert type(after) is OrderedDict
    assert all(after[key] is before[key] for key in after)
    assert done.root["other"] is plan.root["other"]
    assert done.changes == tuple(Change("choose", name, "present", "removed", before[name].nbytes) for name in gone)
    assert bool(gone) or done is plan


def test_nested_and_wrapped_tensors_have_dotted_names():
    plan = planned({"model": {"enc": {"w": tensor("float32", (2,), [1, 2]), "n": 1}, "p": parameter([1, 2]), 5: tensor("int8", (1,), [1])}})
    done = keep_tensors(plan, ("model",), lambda name: name not in {"enc.w", "p", "5"}, "x")
    assert done.root == {"model": {"enc": {"n": 1}}}
    assert [(change.where, change.bytes) for change in done.changes] == [("enc.w", 8), ("p", 8), ("5", 1)]


def test_what_is_said_of_storages_that_went_is_forgotten():
    plan = planned({"a": tensor("float32", (2,), [1, 2]), "b": tensor("float32", (2,), [1, 2])})
    plan = cast(plan, dict(plan.root), DTYPES["float16"])
    done = keep_tensors(plan, (), lambda name: name != "a", "x")
    assert set(done.casts) == storages_of(done.root) == {plan.root["b"].storage}


@many
@given(STATES, st.dictionaries(NAMES, NAMES))
def test_renaming_keeps_order_and_values_or_is_refused(state, wish):
    plan = planned({"model": state})
    before = plan.root["model"]
    names = {name: wish.get(name, name) for name in names_of(before)}
    wanted = [names.get(key, key) for key in before]
    if len(set(wanted)) < len(wanted):
        with pytest.raises(RefusedError):
            rename_tensors(plan, ("model",), names, "rules")
        return
    done = rename_tensors(plan, ("model",), names, "rules")
    after = done.root["model"]
    assert list(after) == wanted
    assert all(one is two for one, two in zip(after.values(), before.values(), strict=True))
    assert [(change.before, change.after) for change in done.changes] == [(old, new) for old, new in names.items() if old != new]
    assert type(after) is OrderedDict


def test_names_may_be_exchanged():
    plan = planned(OrderedDict(a=tensor("int8", (1,), [1]), b=tensor("int8", (2,), [1, 2])))
    done = rename_tensors(plan, (), {"a": "b", "b": "a"}, "rules")
    assert [(name, leaf.shape) for name, leaf in done.root.items()] == [("b", (1,)), ("a", (2,))]


def test_names_inside_nested_states_are_no_keys():
    plan = planned({"model": {"enc": {"w": tensor("int8", (1,), [1])}, "v": tensor("int8", (1,), [1])}})
    with pytest.raises(UnsupportedError, match="nested") as caught:
        rename_tensors(plan, ("model",), {"v": "u", "enc.w": "dec.w"}, "rules")
    assert caught.value.where == "enc.w"
    assert rename_tensors(plan, ("model",), {"enc.w": "enc.w"}, "rules") is plan
    plan = planned({"model": {"enc": {"w": tensor("int8", (1,), [1])}, "enc.w": 7}})  # what is no tensor keeps its name, whatever that is
    with pytest.raises(UnsupportedError, match="nested"):
        rename_tensors(plan, ("model",), {"enc.w": "dec.w"}, "rules")


def test_metadata_stays_on_the_state_dict():
    state = OrderedDict(a=tensor("int8", (1,), [1]), b=tensor("int8", (1,), [1]))
    state._metadata = {"": {"version": 1}}
    plan = planned({"model": state})
    for done in (
        keep_tensors(plan, ("model",), lambda name: name == "a", "x"),
        rename_tensors(plan, ("model",), {"a": "c"}, "x"),
        put_tensors(plan, ("model",), {"c": plan.root["model"]["a"]}),
    ):
        assert done.root["model"]._metadata == {"": {"version": 1}}


def test_put_takes_the_place_of_the_same_name_and_stands_behind_otherwise():
    other = read(torch_zip({"b": tensor("int8", (3,), [1, 2, 3]), "z": tensor("int8", (1,), [1])}))
    plan = planned({"model": {"a": tensor("int8", (1,), [1]), "b": tensor("int8", (1,), [1]), "c": 1}})
    done = put_tensors(plan, ("model",), dict(other.root), Change("fill", "b", "missing", "x"))
    assert list(done.root["model"]) == ["a", "b", "c", "z"]
    assert done.root["model"]["b"] is other.root["b"]
    assert [source for source in done.sources if source is not plan.checkpoint.source] == [other.source]
    assert (list(plan.root["model"]), plan.root["model"]["b"].shape) == (["a", "b", "c"], (1,))  # the plan before is left alone
    with pytest.raises(UnsupportedError):
        put_tensors(planned([1]), (), {})


# --- like ----------------------------------------------------------------------------------------------------------------------------------------


@many
@given(st.dictionaries(NAMES, st.integers(0, 2)), st.dictionaries(NAMES, st.integers(0, 2)))
def test_each_name_matches_conflicts_or_stands_in_one_alone(ours, theirs):
    tensors = {name: read(torch_zip([tensor("int8", (1,) * rank, [1])])).root[0] for name, rank in ours.items()}
    shapes = {name: (1,) * rank for name, rank in theirs.items()}
    matching = match(tensors, shapes)
    conflicting = {name for name, _ in conflicts(tensors, shapes)}
    assert matching == {name for name in ours if theirs.get(name, REMOVED) == ours[name]}
    assert conflicting == ours.keys() & theirs.keys() - matching


def test_a_conflict_tells_both_shapes():
    state = read(torch_zip({"w": tensor("int8", (322, 1), bytes(322))})).root
    assert conflicts(state, {"w": (732, 1)}) == [("w", "has shape [322, 1], where the reference has [732, 1]")]
