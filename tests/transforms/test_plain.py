"""Simplifying trees, and taking out what they tell of their owner's disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

import pytest
from builders import Make, Name, Store, View, hparams, packed, read, storage_bytes, tensor, torch_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import TREES, same_bytes

from gsvckpt.model import DTYPES, Opaque, Tensor, walk
from gsvckpt.pickles.equality import first_difference
from gsvckpt.sovits.config import simple_form
from gsvckpt.transforms.cast import cast
from gsvckpt.transforms.plain import simplify
from gsvckpt.transforms.plan import Product, begin
from gsvckpt.transforms.scrub import scrub, shorten

many = settings(max_examples=100, deadline=None, derandomize=True)


def posix(*parts):
    return Make(Name("pathlib", "PosixPath"), parts)


def planned(tree):
    return begin(read(torch_zip(tree)))


def on_gpu(values, location="cuda:0"):
    return Store("float32", packed("float32", values), location)


def dicts(value):
    """The tree of literals that `--plain` should leave, told without the program."""
    if isinstance(value, Make) and value.name == Name("utils", "HParams"):
        return dicts(value.state)
    if isinstance(value, dict):
        return type(value)((key, dicts(part)) for key, part in value.items())
    return type(value)(map(dicts, value)) if isinstance(value, (list, tuple)) else value


@many
@given(TREES)
def test_all_but_the_classes_stays_and_twice_is_once(tree):
    plan = planned(tree)
    once = simplify(plan, simple_form)
    expected = read(torch_zip(dicts(tree))).root
    assert first_difference(expected, once.root, same_bytes) is None
    assert not [leaf for _, leaf in walk(once.root) if isinstance(leaf, Opaque)]
    assert simplify(once, simple_form) is once
    assert first_difference(plan.root, read(torch_zip(tree)).root, same_bytes) is None  # the source's tree is left alone


def test_what_is_changed_is_told_by_place():
    tree = {
        "config": hparams({"train": hparams({"dir": posix("/", "home", "me")}), "n": 1}),
        "w": View(on_gpu([1, 2]), (2,), (1,)),
        "out": Make(Name("pathlib", "WindowsPath"), ("C:\\", "x")),
        "size": Make(Name("torch", "Size"), ((2, 3),)),
    }
    done = simplify(planned(tree), simple_form)
    assert done.root["config"] == {"train": {"dir": "/home/me"}, "n": 1}
    assert done.root["out"] == "C:\\x"
    assert isinstance(done.root["size"], Opaque)  # not one that is known to have a plain form
    told = {(change.where, change.before, change.after) for change in done.changes}
    assert told == {
        ("config and 1 more", "utils.HParams", "dict"),
        ("config/<build>/train/<build>/dir", "pathlib.PosixPath", "text"),
        ("out", "pathlib.WindowsPath", "text"),
        ("1 storages", "cuda:0", "cpu"),
    }


def test_a_storage_stays_one_however_many_look_at_it():
    store = on_gpu(range(6))
    whole, part = View(store, (6,), (1,)), View(store, (2, 2), (1, 2), 1, grad=True)
    plan = planned({"a": whole, "b": [part, {"c": whole}], "raw": store, "cpu": tensor("int8", (1,), [5])})
    done = simplify(plan, simple_form)
    found = [leaf.storage if isinstance(leaf, Tensor) else leaf for _, leaf in walk(done.root)]
    assert len(set(found[:-1])) == 1
    assert {storage.location for storage in found} == {"cpu"}
    assert done.root["cpu"] is plan.root["cpu"]
    before, after = plan.root["b"][0], done.root["b"][0]
    for field in ("dtype", "shape", "stride", "start", "requires_grad"):
        assert getattr(after, field) == getattr(before, field)
    assert storage_bytes(after.storage) == storage_bytes(before.storage) == store.data


def test_parameters_and_metadata_come_along():
    inner = View(on_gpu([1, 2]), (2,), (1,))
    state = OrderedDict(p=Make(Name("torch._utils", "_rebuild_parameter"), (inner, True, OrderedDict())))
    state._metadata = {"": {"version": 1}}
    done = simplify(planned({"model": state}), simple_form)
    assert [leaf.storage.location for _, leaf in walk(done.root)] == ["cpu"]
    assert done.root["model"]._metadata == {"": {"version": 1}}
    assert isinstance(done.root["model"]["p"], Opaque)


def test_what_was_planned_for_a_storage_is_planned_for_the_one_that_takes_its_place():
    plan = planned({"a": View(on_gpu([1, 2]), (2,), (1,)), "b": View(on_gpu([1, 2]), (2, 1), (1, 1))})
    plan = cast(plan, {"a": plan.root["a"]}, DTYPES["float16"])
    plan = replace(plan, products={plan.root["b"].storage: Product(plan.root["b"], plan.root["b"], plan.root["b"])})
    done = simplify(plan, simple_form)
    assert done.casts == {done.root["a"].storage: DTYPES["float16"]}
    assert list(done.products) == [done.root["b"].storage]


def test_paths_as_keys_become_text():
    done = simplify(planned({"found": {"x": 1}, "at": {1: 2}}), simple_form)
    assert done.changes == ()
    key = read(torch_zip({"k": posix("logs", "x")})).root["k"]
    plan = planned({})
    done = simplify(replace(plan, root={"found": {key: 1}}), simple_form)
    assert done.root == {"found": {"logs/x": 1}}
    assert [(change.where, change.after) for change in done.changes] == [("keys of dicts", "text")]


# --- paths ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/base.pth", "base.pth"),
        ("C:\\Users\\me\\base.pth", "base.pth"),
        ("C:/Users/me/", "me"),
        ("\\\\server\\share\\x.ckpt", "x.ckpt"),
        ("~/voices/x.ckpt", "x.ckpt"),
        ("~\\voices\\x.ckpt", "x.ckpt"),
        ("logs/alice/logs_s2_v2", "logs_s2_v2"),
        ("logs/alice", ""),
        ("SoVITS_weights_v2/alice_e8_s16.pth", ""),
        ("SoVITS_weights_v2/alice-e8.ckpt", ""),
        ("logs/alicent/x", "logs/alicent/x"),
        ("GPT_SoVITS/pretrained_models/s2G.pth", "GPT_SoVITS/pretrained_models/s2G.pth"),
        ("16-mixed", "16-mixed"),
        ("alice", "alice"),
        ("and/or", "and/or"),
        ("https://host/alice/x", "https://host/alice/x"),
        ("/", "/"),
        ("", ""),
        ("one\n/two", "one\n/two"),
    ],
)
def test_of_a_private_path_the_last_part_stays(text, expected):
    assert shorten(text, {"alice"}) == expected


@many
@given(st.text(st.sampled_from("ab/\\~:.C \n"), max_size=12), st.sets(st.text("ab", min_size=1, max_size=2), max_size=2))
def test_shortening_twice_is_once_and_leaves_no_folder_of_a_private_path(text, names):
    short = shorten(text, names)
    assert shorten(short, names) == short
    assert short == text or (short in text and not set("/\\") & set(short))


def test_a_file_url_is_a_private_path_too():
    assert "me" not in shorten("file:///home/me/base.pth", ())


def test_names_and_paths_go_wherever_they_stand_and_are_not_told():
    private = "/home/secret/base.pth"
    config = {"name": "alice", "train": {"exp_name": "alice", "name": "other"}, "dirs": [private, (private, {"k": "logs/alice/x"})], private: 1}
    plan = planned({"weight": {"w": tensor("int8", (1,), [1])}, "config": hparams(config), "info": "8epoch"})
    done = scrub(plan, {"alice"})
    state = done.root["config"].state
    assert state == {"name": "", "train": {"exp_name": "", "name": "other"}, "dirs": ["base.pth", ("base.pth", {"k": "x"})], "base.pth": 1}
    assert done.root["weight"]["w"] is plan.root["weight"]["w"]
    assert {change.step for change in done.changes} == {"scrub-paths"}
    assert "secret" not in str(done.changes)
    assert "alice" not in str(done.changes)
    assert scrub(done, {"alice"}) is done
    assert scrub(planned({"n": "a/b"}), {"alice"}).changes == ()


TEXTS = st.recursive(
    st.text(st.sampled_from("a/b"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x", "exp_name"]), inner, max_size=3),
    max_leaves=8,
)


def texts(value) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(part)


@many
@given(TEXTS)
def test_scrubbing_shortens_every_text_and_nothing_else(tree):
    plan = planned({"config": tree})
    done = scrub(plan, {"a"})
    old, new = list(texts(plan.root["config"])), list(texts(done.root["config"]))
    assert len(old) == len(new)
    assert all(two in (shorten(one, {"a"}), "") for one, two in zip(old, new, strict=True))
    assert not [text for text in new if text.startswith("/") and text.strip("/")]
    assert scrub(done, {"a"}) is done
    assert (done is plan) == (old == new)
