"""Plans are values: what they start as, and that changing one makes another."""

from __future__ import annotations

import dataclasses

import pytest
from support.builders import read, safetensors, tensor, torch_stream, torch_zip

from gsvckpt.dtypes import DTYPES
from gsvckpt.transforms.plan import begin

TREE = {"w": tensor("float32", (2,))}


@pytest.mark.parametrize(
    ("data", "container", "head"),
    [
        (torch_zip(TREE), "torch-zip", "PK"),
        (torch_zip(TREE, head=b"05"), "torch-zip", "05"),
        (torch_zip(TREE, head=b"08"), "torch-zip", "08"),
        (torch_stream(TREE), "torch-zip", "PK"),
        (safetensors({"w": ("F32", (2,), bytes(8))}), "safetensors", "PK"),
    ],
    ids=["zip", "headed", "a head of tomorrow", "stream", "safetensors"],
)
def test_begins_with_what_is_there(data: bytes, container: str, head: str) -> None:
    checkpoint = read(data)
    plan = begin(checkpoint)
    assert (plan.container, plan.head, plan.window, plan.casts, plan.changes) == (container, head, None, {}, ())
    assert plan.root is checkpoint.root


def test_dtypes_follow_the_casts() -> None:
    plan = begin(read(torch_zip(TREE)))
    storage = plan.root["w"].storage
    cast = dataclasses.replace(plan, casts={storage: DTYPES["float16"]})
    assert (plan.dtype_of(storage).name, cast.dtype_of(storage).name) == ("float32", "float16")
    assert cast.without_casts(frozenset([storage])).dtype_of(storage).name == "float32"
    assert cast.without_casts(frozenset()).casts == cast.casts


def test_plans_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        begin(read(torch_zip(TREE))).head = "05"
