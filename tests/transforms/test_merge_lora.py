"""Merging a LoRA's state dict into its base's: which tensor comes from where, what is a product, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import View, read, tensor, torch_zip

from gsvckpt.dtypes import DTYPES
from gsvckpt.errors import RefusedError
from gsvckpt.model import Tensor
from gsvckpt.transforms.merge_lora import base_name, merge

PEFT = "cfm.base_model.model."
LAYERS = ["blocks.0.to_q", "blocks.0.to_k", "blocks.1.to_out.0"]
RANK = 2


def state(tree):
    return dict(read(torch_zip(tree)).root)


def matrix(rows, columns, dtype="float32"):
    return tensor(dtype, (rows, columns), range(rows * columns))


def base_tree(dtype="float32"):
    return {f"cfm.{layer}.weight": matrix(6, 4, dtype) for layer in LAYERS} | {"bridge.0.weight": matrix(3, 3), "enc.n": tensor("int64", (), [7])}


def adapter(layer, up=(6, RANK), down=(RANK, 4), dtype="float16"):
    name = f"{PEFT}{layer}.lora_"
    return {f"{name}A.default.weight": matrix(*down, dtype), f"{name}B.default.weight": matrix(*up, dtype)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sets(st.sampled_from(LAYERS)), st.booleans(), st.sampled_from(["float32", "float16", "bfloat16", "float64"]), st.randoms(use_true_random=False)
)
def test_every_tensor_of_the_base_is_itself_the_loras_or_a_product(adapted, bridge, dtype, random):
    entries = [part for layer in adapted for part in adapter(layer).items()]
    entries += [("bridge.0.weight", matrix(3, 3, "float16"))] if bridge else []
    entries += [(f"{PEFT}{layer}.base_layer.weight", matrix(6, 4)) for layer in adapted]  # what the adapter wraps is the base's
    random.shuffle(entries)
    lora, base = state(dict(entries)), state(base_tree(dtype))
    merged = merge(lora, base)
    assert list(merged.state) == list(base)
    assert merged.from_base == len(base) - int(bridge) - len(adapted)
    expected = {f"cfm.{layer}.weight": layer for layer in adapted}
    assert len(merged.products) == len(expected)
    for name, found in merged.state.items():
        if name not in expected:
            assert found is (lora[name] if bridge and name == "bridge.0.weight" else base[name])
            continue
        product = merged.products[found.storage]
        prefix = f"{PEFT}{expected[name]}.lora_"
        assert product.base is base[name]
        assert (product.up, product.down) == (lora[f"{prefix}B.default.weight"], lora[f"{prefix}A.default.weight"])
        assert (found.dtype, found.storage.dtype, found.storage.numel) == (DTYPES["float32"], DTYPES["float32"], 24)
        assert (found.shape, found.stride, found.start, found.storage.crc) == ((6, 4), (4, 1), 0, None)
        assert found.storage is not base[name].storage


def test_names():
    assert base_name(f"{PEFT}estimator.x") == "cfm.estimator.x"
    assert base_name(f"other.{PEFT}x") == f"other.{PEFT}x"
    assert base_name("bridge.0.weight") == "bridge.0.weight"


LAYER = LAYERS[0]
TARGET = f"cfm.{LAYER}.weight"


@pytest.mark.parametrize(
    ("lora", "where", "why"),
    [
        ({f"{PEFT}{LAYER}.lora_A.default.weight": matrix(RANK, 4)}, TARGET, "has no lora_B"),
        ({f"{PEFT}{LAYER}.lora_B.default.weight": matrix(6, RANK)}, TARGET, "has no lora_A"),
        (adapter("blocks.9.to_q"), "cfm.blocks.9.to_q.weight", "the base has no such tensor"),
        (adapter(LAYER, up=(5, RANK)), TARGET, "do not make"),
        (adapter(LAYER, down=(RANK, 5)), TARGET, "do not make"),
        (adapter(LAYER, up=(6, 3)), TARGET, "do not make"),
        (adapter(LAYER) | {f"{PEFT}{LAYER}.lora_A.default.weight": tensor("float16", (RANK, 4, 1))}, TARGET, "do not make"),
        (adapter(LAYER, dtype="int8"), TARGET, "not a plain matrix"),
        (adapter(LAYER, up=(6, 0), down=(0, 4)), TARGET, "not a plain matrix"),
        ({"bridge.1.weight": matrix(3, 3)}, "bridge.1.weight", "the base has no such tensor"),
        ({"bridge.0.weight": matrix(3, 4)}, "bridge.0.weight", r"\[3, 4\], in the base \[3, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(lora, where, why):
    with pytest.raises(RefusedError, match=why) as caught:
        merge(state(lora), state(base_tree()))
    assert caught.value.where == where
    assert "1 such conflict with" in caught.value.why


def test_a_transposed_view_is_no_plain_matrix():
    lora = adapter(LAYER)
    store = tensor("float16", (4, RANK)).store
    lora[f"{PEFT}{LAYER}.lora_A.default.weight"] = View(store, (RANK, 4), (1, RANK))
    with pytest.raises(RefusedError, match="not a plain matrix"):
        merge(state(lora), state(base_tree()))


def test_conflicts_are_counted():
    with pytest.raises(RefusedError, match="3 such conflicts"):
        merge(state({"x": matrix(1, 1), "bridge.0.weight": matrix(1, 1), **adapter("nowhere")}), state(base_tree()))


def test_two_names_for_one_place_in_the_base_are_refused():
    """With and without peft's prefix: one of the two would be lost without a word."""
    for lora in (
        {"cfm.x": matrix(2, 2), f"{PEFT}x": matrix(2, 2)},
        {**adapter(LAYER), TARGET: matrix(6, 4)},
    ):
        with pytest.raises(RefusedError):
            merge(state(lora), state({**base_tree(), "cfm.x": matrix(2, 2)}))


def test_the_names_of_the_layout_are_those_of_the_base():
    """All that GPT-SoVITS's own LoRA holds has its place in the base, and every adapter its matrix."""
    from sovits.trees import state as layout_state

    merged = merge(layout_state("lora-v3", rank=4), layout_state("sovits-v3"))
    assert len(merged.products) == sum(".lora_A." in name for name in layout_state("lora-v3"))
    assert merged.from_base > 0
    assert all(isinstance(found, Tensor) for found in merged.state.values())
