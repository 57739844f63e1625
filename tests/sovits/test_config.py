from __future__ import annotations

import json

from gsvckpt.model import Global, Opaque
from gsvckpt.sovits.config import config_of, find_config, lookup, path_text, plain

from .trees import checkpoint, config, hparams, posix, s1_training, small, tensor


def test_hparams_becomes_a_dict() -> None:
    root = small({}, "v2", more=1)
    assert config_of(checkpoint(root)) == {"model": {"gin_channels": 512, "version": "v2"}, "version": "v2"}


def test_a_gpt_training_file_keeps_its_config_in_the_hyper_parameters() -> None:
    assert config_of(checkpoint(s1_training({}))) == {"train": {"epochs": 2}}


def test_a_lightning_file_of_another_project_has_its_hyper_parameters() -> None:
    assert config_of(checkpoint({"hyper_parameters": {"lr": 1.0}})) == {"lr": 1.0}


def test_an_argparse_namespace_is_a_config() -> None:
    namespace = Opaque(Global("argparse", "Namespace"), "newobj", (), [("build", {"lr": 1})])
    assert plain(find_config({"args": namespace})) == {"lr": 1}


def test_no_config() -> None:
    roots: list[object] = [{}, [], None, {"config": None}, {"config": tensor(1)}]
    assert [config_of(checkpoint(root)) for root in roots] == [None] * 5


def test_a_config_that_is_no_dict_is_shown_as_it_is() -> None:
    assert config_of(checkpoint({"config": 3})) == 3
    assert config_of(checkpoint({"config": [1, (2, "x")]})) == [1, [2, "x"]]


def test_paths_are_text_in_their_own_spelling() -> None:
    assert plain(posix("/", "home", "x")) == "/home/x"
    assert path_text(posix("C:\\", "声音", "x", kind="WindowsPath")) == "C:\\声音\\x"
    assert path_text(posix("logs", "x", module="pathlib._local")) == "logs/x"
    assert path_text(posix("a", kind="PurePosixPath")) == "a"
    assert path_text(Opaque(Global("os", "PosixPath"), "reduce", ("a",))) is None
    assert path_text(Opaque(Global("pathlib", "PosixPath"), "reduce", (1,))) is None
    assert path_text("x") is None


def test_odd_values_become_short_texts() -> None:
    odd = {
        "tensor": tensor(2, 3),
        "class": Global("torch", "float32"),
        "device": Opaque(Global("torch", "device"), "reduce", ("cuda:0",)),
        "set": Opaque(Global("__builtin__", "set"), "reduce", ([1, 2],)),
        "defaultdict": Opaque(Global("collections", "defaultdict"), "reduce", (), [("setitem", [("a", 1)])]),
        "list": Opaque(Global("x", "List"), "newobj", (), [("append", [1])]),
        "empty": Opaque(Global("utils", "HParams"), "newobj", (), [("build", {})]),
        "bytes": b"abc",
        3: 10**5000,
        (): None,
    }
    assert plain(odd) == {
        "tensor": "tensor float32 [2, 3]",
        "class": "torch.float32",
        "device": "torch.device('cuda:0')",
        "set": [1, 2],
        "defaultdict": {"a": 1},
        "list": [1],
        "empty": {},
        "bytes": "3 bytes",
        "3": "a huge integer",
        "tuple": None,
    }


def test_a_config_that_contains_itself_ends() -> None:
    loop: dict[str, object] = {}
    loop["me"] = [loop]
    assert plain(loop) == {"me": ["(contains itself)"]}


def test_a_shared_branch_cannot_grow_without_end() -> None:
    node: list[object] = ["x" * 100]
    for _ in range(40):
        node = [node] * 10
    assert len(json.dumps(plain({"config": node}))) < 10_000_000


def test_great_depth_is_cut() -> None:
    node: object = 1
    for _ in range(100_000):
        node = [node]
    assert "..." in json.dumps(plain(node))


def test_lookup_goes_through_objects_and_dicts() -> None:
    assert lookup(config("v3"), "model", "version") == "v3"
    assert lookup({"model": hparams({"a": 1})}, "model", "a") == 1
    assert lookup({"model": 3}, "model", "version") is None
