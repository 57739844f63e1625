"""Simplifying trees, and taking out what they tell of their owner's disk."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Make, Name, Store, View, hparams, packed, read, storage_bytes, tensor, torch_zip
from test_properties import TREES, same_bytes

from gsvckpt.dtypes import DTYPES
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.model import Opaque, Tensor, walk
from gsvckpt.sovits.config import simple_form
from gsvckpt.transforms.cast import cast
from gsvckpt.transforms.plain import simplify
from gsvckpt.transforms.plan import Product, begin
from gsvckpt.transforms.scrub import Scrubber, scrub

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
        ("C:Users\\me\\x", "x"),
        ("\\\\server\\share\\x.ckpt", "x.ckpt"),
        ("\\\\?\\C:\\me\\x.ckpt", "x.ckpt"),
        ("//server/share/x.ckpt", "x.ckpt"),
        ("\\Users\\me\\x", "x"),
        ("~/voices/x.ckpt", "x.ckpt"),
        ("~\\voices\\x.ckpt", "x.ckpt"),
        ("~me/x.ckpt", "x.ckpt"),
        ("%USERPROFILE%\\voices\\x.pth", "x.pth"),
        ("%ProgramFiles(x86)%\\voices\\x.pth", "x.pth"),
        ("$HOME/voices/x.pth", "x.pth"),
        ("${HOME}/voices/x.pth", "x.pth"),
        ("$env:USERPROFILE\\voices\\x.pth", "x.pth"),
        ("..\\..\\Users\\x", "x"),
        ("../me/x", "x"),
        ("logs/../../me/x", "x"),
        ("file:///home/me/base.pth", "base.pth"),
        ("file:///C:/Users/me/base.pth", "base.pth"),
        ("sqlite:////home/me/x.db", "sqlite:x.db"),
        ("me@host:/home/me/x", "me@host:x"),
        ("/mnt/c/Users/John Smith/my voice models/x.pth", "x.pth"),
        ("C:\\Users\\John's PC\\Program Files (x86)\\x.pth", "x.pth"),
        ("/data/声音/x.pth", "x.pth"),
        ("/home/me/a.tsv:/home/me/b.tsv", "a.tsv:b.tsv"),
        ("D:/a/bc,E:/c/d;F:/e/f", "bc,d;f"),
        ("/home/me/*.pth", "*.pth"),
        # in sentences, lines and JSON, the rest stays as it is
        ("loaded from /home/me/x.pth and /data/me/y.pth, then a/b", "loaded from x.pth and y.pth, then a/b"),
        ("see C:\\Users\\John Smith\\x.pth yesterday", "see x.pth yesterday"),
        ("/home/me/a.pth and/or b", "a.pth and/or b"),
        ("(in '/home/me/My Voice/x')", "(in 'x')"),
        ("文件在/home/me/x.pth, 模型位于D:\\声音\\y.pth", "文件在x.pth, 模型位于y.pth"),
        ("one\n/home/me/two\r\n~/three\n", "one\ntwo\r\nthree\n"),
        ('{"a": "/home/me/x", "b": "C:\\\\Users\\\\me\\\\y", "c": "one\\n/home/me/z", "n": 1}', '{"a": "x", "b": "y", "c": "one\\nz", "n": 1}'),
        ("python train.py --dir=/home/me/x --out /data/me/y", "python train.py --dir=x --out y"),
        # the experiment
        ("logs/alice/logs_s2_v2", "logs/voice/logs_s2_v2"),
        ("logs/alice", "logs/voice"),
        ("alice/logs_s2_v2", "voice/logs_s2_v2"),
        ("/root/logs/alice", "voice"),
        ("SoVITS_weights_v2/alice_e8_s16.pth", "SoVITS_weights_v2/voice_e8_s16.pth"),
        ("SoVITS_weights_v2\\alice-e8.ckpt", "SoVITS_weights_v2\\voice-e8.ckpt"),
        ("alice_e8_s16_l32.pth", "voice_e8_s16_l32.pth"),
        ("logs/a b (1)/6-name2semantic.tsv", "logs/voice/6-name2semantic.tsv"),
        ("trained alice for 8 epochs from logs/alice/x", "trained voice for 8 epochs from logs/voice/x"),
    ],
)
def test_of_a_private_path_the_last_part_stays_and_the_experiment_is_a_voice(text, expected):
    assert Scrubber({"alice", "a b (1)"}).scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("logs/alicent/x", "GPT_SoVITS/pretrained_models/s2G.pth", "pretrained_models\\s2G.pth", "logs_s2_v2", "16-mixed", "v2", "alice", "and/or"),
        *("https://host/home/me/x", "/", "C:\\", "", "/x", "1/2 of 3/4", "about ~5/10", "今天/明天/后天", "</s>", "<b>x</b></a>", "a // b"),
        *("^enc\\.(.*)", "\\d+\\.\\w", "${data.exp_dir}/x/y", "8epoch_16iteration", "my_model_ckpt{'monitor': 'top_3_acc', 'mode': 'max'}"),
    ],
)
def test_everything_else_stays(text):
    assert Scrubber({"alice", "pretrained_models", "GPT_SoVITS"}).scrub(text) == text


PIECES = [
    "/",
    "\\",
    "/home/",
    "C:",
    "C:\\",
    "~",
    "~/",
    "..",
    "%A%",
    "$HOME",
    "file:",
    "\n",
    "\\n",
    '"',
    "'",
    ":",
    ",",
    " ",
    "a",
    "b.pth",
    "alice",
    "_e8_s1.",
    "声",
]
# A private path, by the simplest words for it; what stands in front of it is no part of a longer word.
PRIVATE_PATH = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z]:[\\/]+\w|(?:\A|[ \n\"'=])(?:~|%\w+%|\$HOME|\.\.)[\\/]+\w|(?:\A|[ \n\"'=])/(?:home|Users|root|mnt|data)/\w"
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sets(st.sampled_from(["alice", "a", "b", "voice"]), max_size=3))
def test_no_private_path_remains_and_twice_is_once(text, names):
    scrubber = Scrubber(names)
    short = scrubber.scrub(text)
    assert scrubber.scrub(short) == short
    assert not PRIVATE_PATH.search(short)
    left = iter(text)
    assert names - {"voice"} or all(letter in left for letter in short)  # nothing was added, and nothing changed its place


def test_texts_made_to_take_long_do_not():
    begun = time.monotonic()
    for piece in ("/a ", "/a/", "~/", "../", "/home/ a a a", "C:\\", "/a,C:\\x", "/a.b", "a-/", "%a", "{'name': 'alice'"):
        Scrubber({"alice"}).scrub(piece * 5_000, "name")
    assert time.monotonic() - begun < 60  # a second on an idle machine; what grows with the square takes many minutes


def scrubbed(plan, names):
    return scrub(plan, Scrubber(names), frozenset(), lambda key: not key.startswith("own."))


def test_names_and_paths_go_wherever_they_stand_and_are_not_told():
    private = "/home/secret/base.pth"
    config = {
        "name": "alice",
        "train": {"exp_name": "alice", "name": "other", "speaker": "alice", "run_name": "alice_lora", "kind": "alice"},
        "dirs": [private, (private, {"k": "logs/alice/x"}), "alice, by night"],
        "json": '{"name": "alice", "speaker" : "alice", "kind": "alice", "at": "/home/secret/x"}',
        private: 1,
    }
    plan = planned({"weight": {"w": tensor("int8", (1,), [1])}, "config": hparams(config), "info": "8epoch"})
    done = scrubbed(plan, {"alice"})
    assert done.root["config"].state == {
        "name": "voice",
        "train": {"exp_name": "voice", "name": "other", "speaker": "voice", "run_name": "voice_lora", "kind": "alice"},
        "dirs": ["base.pth", ("base.pth", {"k": "logs/voice/x"}), "voice, by night"],
        "json": '{"name": "voice", "speaker" : "voice", "kind": "alice", "at": "x"}',
        "base.pth": 1,
    }
    assert done.root["weight"]["w"] is plan.root["weight"]["w"]
    assert {change.step for change in done.changes} == {"scrub-paths"}
    assert "secret" not in str(done.changes)
    assert "by night" in str(done.changes)
    assert scrubbed(done, {"alice"}) is done
    assert scrubbed(planned({"n": "a/b"}), {"alice"}).changes == ()


def test_the_texts_of_a_header_are_scrubbed_but_for_the_writers_own():
    plan = replace(planned({}), metadata={"source": "from /home/me/x", "name": "alice", "own.tree": "/home/me/x"})
    done = scrubbed(plan, {"alice"})
    assert done.metadata == {"source": "from x", "name": "voice", "own.tree": "/home/me/x"}
    assert len(done.changes) == 2
    assert scrubbed(done, {"alice"}) is done


def test_a_long_text_is_told_in_short():
    plan = planned({"note": "/home/me/" + "x" * 10_000})
    (change,) = scrubbed(plan, ()).changes
    assert (len(change.after), change.before) == (63, "10,009 characters")


TEXTS = st.recursive(
    st.text(st.sampled_from("a/b"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x", "exp_name"]), inner, max_size=3),
    max_leaves=8,
)


def texts(value, key="") -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    for inner, part in value.items() if isinstance(value, dict) else [("", part) for part in value] if isinstance(value, list) else ():
        yield from texts(part, inner)


@many
@given(TEXTS)
def test_scrubbing_changes_every_text_and_nothing_else(tree):
    plan = planned({"config": tree})
    done = scrubbed(plan, {"a"})
    old, new = list(texts(plan.root["config"])), list(texts(done.root["config"]))
    assert new == [(key, Scrubber({"a"}).scrub(text, key)) for key, text in old]
    assert scrubbed(done, {"a"}) is done
    assert (done is plan) == (old == new)
