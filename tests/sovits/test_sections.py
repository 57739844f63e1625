from __future__ import annotations

from collections import OrderedDict

import pytest

from gsvckpt.sovits.sections import WHOLE_FILE, find_state_path, role, roles, state_tensors

from .trees import optimizer, parameter, s1_training, s2_training, small, state, tensor


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("anything", optimizer(), "optimizer"),
        ("optimizer_states", [optimizer(), optimizer()], "optimizer"),
        ("optims", {"g": optimizer(), "d": optimizer()}, "optimizer"),
        ("optimizer", None, "optimizer"),
        ("optimizer_states", [], "optimizer"),
        ("optimizer_g_state_dict", {}, "optimizer"),
        ("opt_state", {"mu": {"w": tensor(2)}}, "optimizer"),
        ("optim_0", 1, "optimizer"),
        ("opt", {"lr": 1.0}, "other"),
        ("optimizer_config", {"lr": 1.0}, "other"),
        ("lr_schedulers", [{"lr": 1.0}], "scheduler"),
        ("lr_scheduler_state_dict", {}, "scheduler"),
        ("scaler", {"scale": 65536.0}, "scaler"),
        ("MixedPrecision", {"scale": 65536.0}, "scaler"),
        ("NativeMixedPrecisionPlugin", {}, "scaler"),
        ("scaler", {"mean": tensor(4), "scale": tensor(4)}, "weights"),
        ("scaler", {"scale": tensor(), "_growth_tracker": tensor()}, "scaler"),
        ("loops", {"fit_loop": {}}, "loop"),
        ("callbacks", {"x": {"best_model_score": tensor()}}, "callback"),
        ("weight", {"a": tensor(2)}, "weights"),
        ("netX", {"encoder": {"w": tensor(2), "b": parameter(2)}}, "weights"),
        ("ema", {"decay": 0.99, "shadow_params": [tensor(2)]}, "weights"),
        ("ema_state_dict", {}, "weights"),
        ("model", {}, "weights"),
        ("model", "resnet50", "other"),
        ("scheduler.weight", tensor(2), "weights"),
        ("best", {"score": tensor(), "epoch": 3, "name": "x"}, "other"),
        ("config", {"lr": 1.0}, "other"),
        (7, {"a": tensor(2)}, "weights"),
        ((), None, "other"),
    ],
)
def test_role_is_told_by_content_then_by_name(key: object, value: object, expected: str) -> None:
    assert role(key, value) == expected


def test_roles_of_a_gpt_training_file() -> None:
    found = roles(s1_training(state("gpt-v2")))
    assert found["state_dict"] == "weights"
    assert found["optimizer_states"] == "optimizer"
    assert found["lr_schedulers"] == "scheduler"
    assert (found["loops"], found["callbacks"], found["hyper_parameters"], found["epoch"]) == ("loop", "callback", "other", "other")


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (small({"a": tensor(1)}), ("weight",)),
        (s2_training({"a": tensor(1)}), ("model",)),
        ({"model": {"a": tensor(1)}, "optimizer": None}, ("model",)),
        (s1_training({"a": tensor(1)}), ("state_dict",)),
        ({"generator": {"a": tensor(1)}}, ("generator",)),
        ({"model_state_dict": {"a": tensor(1)}, "epoch": 3}, ("model_state_dict",)),
        ({"module": {"a": parameter(1)}}, ("module",)),
        ({"something": {"a": tensor(1)}, "epoch": 3}, ("something",)),
        ({"model": {"state_dict": {"a": tensor(1)}, "epoch": 3}}, ("model", "state_dict")),
        ({"ema": {"a": tensor(1)}, "model": {"a": tensor(1)}}, ("model",)),
        ({"model": {"encoder": {"a": tensor(1)}}}, ("model",)),
        ({"model": {"a": tensor(1), "b": tensor(1)}, "best_score": tensor()}, ("model",)),
        (OrderedDict(a=tensor(1), b=tensor(2)), ()),
        ({"weight": tensor(1), "bias": tensor(2)}, ()),
        ({"weight": tensor(1), "epoch": 3, "name": "x"}, ()),
        ({"encoder": {"a": tensor(1)}, "decoder": {"a": tensor(1)}}, ()),
        ([tensor(1)], ()),
        (tensor(1), ()),
        (optimizer(), None),
        ([optimizer()], None),
        ({"model": {}, "optimizer": optimizer()}, None),
        ({}, None),
        (None, None),
        (3, None),
    ],
)
def test_state_path(root: object, path: object) -> None:
    assert find_state_path(root) == path


def test_nested_names_are_joined_and_other_entries_left_out() -> None:
    root = {"model": {"a": {"w": tensor(1), "n": 3}, "b": parameter(2), 5: tensor(3)}}
    assert {name: found.shape for name, found in state_tensors(root, ("model",)).items()} == {"a.w": (1,), "b": (2,), "5": (3,)}


def test_training_state_beside_root_tensors_is_not_the_model() -> None:
    root = {"a.w": tensor(1), "optimizer": optimizer(), "notes": [tensor(9)]}
    assert list(state_tensors(root, ())) == ["a.w"]


def test_a_bare_tensor_has_a_name() -> None:
    assert list(state_tensors(tensor(1), ())) == [WHOLE_FILE]


def test_metadata_is_no_tensor_of_the_model() -> None:
    model: OrderedDict[str, object] = OrderedDict(a=tensor(1))
    model._metadata = {"": {"version": tensor(1)}}  # type: ignore[attr-defined]
    assert list(state_tensors({"model": model}, ("model",))) == ["a"]


def test_tied_tensors_keep_both_names() -> None:
    shared = tensor(1)
    assert list(state_tensors({"weight": {"a": shared, "b": shared}}, ("weight",))) == ["a", "b"]


def test_a_tree_that_contains_itself_ends() -> None:
    root: dict[str, object] = {"a": tensor(1)}
    root["model"] = root
    path = find_state_path(root)
    assert "a" in {name.rpartition(".")[2] for name in state_tensors(root, path)}


def test_a_hugely_shared_tree_ends() -> None:
    node: dict[str, object] = {"a": tensor(1)}
    for _ in range(200):
        node = {"x": node, "y": node}
    root = {"model": node, **{f"k{n}": node for n in range(1000)}}
    assert len(state_tensors(root, find_state_path(root))) == 1


def test_a_tree_too_deep_gives_nothing() -> None:
    node: dict[str, object] = {"a": tensor(1)}
    for _ in range(5000):
        node = {"x": node}
    assert state_tensors({"model": node}, ("model",)) == {}
    assert find_state_path({"model": node}) is None
