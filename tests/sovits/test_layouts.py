from __future__ import annotations

from importlib.resources import files
from math import prod

import pytest

from gsvckpt.sovits.layouts import closest, compare, layout, names, suitable

from .trees import state, tensor


@pytest.mark.parametrize(
    ("name", "rank", "tensors", "parameters"),
    [
        ("gpt-v1", 0, 295, 77_493_762),
        ("gpt-v2", 0, 295, 77_606_402),
        ("sovits-v1-small", 0, 673, 42_352_001),
        ("sovits-v2-small", 0, 673, 42_389_633),
        ("sovits-v2Pro-small", 0, 678, 67_361_921),
        ("sovits-v2ProPlus-small", 0, 678, 86_272_257),
        ("sovits-v1", 0, 776, 52_846_337),
        ("sovits-v2", 0, 776, 52_883_969),
        ("sovits-v2Pro", 0, 781, 81_001_985),
        ("sovits-v2ProPlus", 0, 781, 99_912_321),
        ("sovits-v3", 0, 685, 384_394_985),
        ("sovits-v4", 0, 685, 384_394_985),
        ("discriminator-v1", 0, 111, 46_747_132),
        ("discriminator-v2", 0, 111, 46_747_132),
        ("discriminator-v2Pro", 0, 147, 63_189_440),
        ("discriminator-v2ProPlus", 0, 147, 63_189_440),
        ("lora-v3", 32, 258, 37_729_669),
        ("lora-v4", 64, 258, 43_496_837),
        ("lora-training-v3", 32, 861, 390_162_153),
        ("lora-training-v4", 64, 861, 395_929_321),
        ("vocoder-v4", 0, 194, 14_425_409),
    ],
)
def test_layouts_have_the_measured_sizes(name: str, rank: int, tensors: int, parameters: int) -> None:
    found = layout(name, rank)
    assert (len(found), sum(prod(shape) for _, shape in found.values())) == (tensors, parameters)


def test_every_layout_is_measured_above() -> None:
    marks = test_layouts_have_the_measured_sizes.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(names())


def test_order_dtype_and_shapes_are_upstreams() -> None:
    found = layout("sovits-v2Pro-small")
    assert next(iter(found)) == "enc_p.ssl_proj.weight"
    assert list(found)[-1] == "prelu.weight"
    assert found["enc_p.text_embedding.weight"] == ("float32", (732, 192))
    assert found["dec.cond.weight"] == ("float32", (512, 1024, 1))
    assert layout("sovits-v1")["ref_enc.spectral.0.fc.weight"] == ("float32", (128, 1025))
    assert layout("gpt-v2")["model.h.layers.23.self_attn.in_proj_weight"] == ("float32", (1536, 512))
    adapter = "cfm.base_model.model.estimator.transformer_blocks.21.attn.to_out.0.lora_{}.default.weight"
    assert layout("lora-v4", 16)[adapter.format("A")][1] == (16, 1024)
    assert layout("lora-v4", 16)[adapter.format("B")][1] == (1024, 16)


def test_small_files_lack_only_enc_q() -> None:
    assert {name for name in layout("sovits-v2") if "enc_q" not in name} == set(layout("sovits-v2-small"))


def test_unknown_layout() -> None:
    with pytest.raises(KeyError):
        layout("gpt-v9")


def test_compare_names_what_differs() -> None:
    found = state("gpt-v1")
    del found["model.bert_proj.bias"]
    found["model.new"] = tensor(1)
    difference = compare(found, layout("gpt-v2"))
    assert difference.missing == ("model.bert_proj.bias",)
    assert difference.extra == ("model.new",)
    assert difference.wrong_shape == (("model.ar_text_embedding.word_embeddings.weight", (512, 512), (732, 512)),)
    assert (bool(difference), difference.count) == (True, 3)
    assert not compare(state("gpt-v2"), layout("gpt-v2"))


@pytest.mark.parametrize(
    ("kind", "version", "lora", "expected"),
    [
        ("gpt-training", "v1", False, ("gpt-v1",)),
        ("gpt-weights", None, False, ("gpt-v1", "gpt-v2")),
        ("sovits-weights", "v2", False, ("sovits-v2-small",)),
        ("sovits-weights", "v4", False, ("sovits-v4",)),
        ("sovits-lora", "v3", True, ("lora-v3",)),
        ("sovits-generator-base", "v2Pro", False, ("sovits-v2Pro",)),
        ("sovits-generator-training", "v4", True, ("lora-training-v4",)),
        ("sovits-discriminator-training", None, False, ("discriminator-v2", "discriminator-v2Pro")),
        ("sovits-discriminator-base", "v1", False, ("discriminator-v1",)),
        ("vocoder", "v4", False, ("vocoder-v4",)),
        ("vocoder", "v3", False, ()),
        ("state-dict", None, False, ()),
    ],
)
def test_suitable_layouts(kind: str, version: str | None, lora: bool, expected: tuple[str, ...]) -> None:
    assert suitable(kind, version, lora=lora) == expected


def test_closest_layout() -> None:
    found = closest(state("discriminator-v2ProPlus"), suitable("sovits-discriminator-training", None))
    assert found is not None and found[0] == "discriminator-v2Pro" and not found[1]
    assert closest({}, ()) is None


def test_the_data_stays_small_and_ships_with_the_package() -> None:
    assert len(files("gsvckpt.sovits").joinpath("data/layouts.json").read_bytes()) < 60_000
