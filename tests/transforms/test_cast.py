"""Which tensors a cast takes, and what the plan says of it."""

from __future__ import annotations

import pytest
from support.builders import Store, View, packed, read, tensor, torch_zip

from gsvckpt.dtypes import DTYPES, UNTYPED
from gsvckpt.model import Storage, Tensor
from gsvckpt.transforms.cast import Selection, cast, select
from gsvckpt.transforms.plan import begin

HALF = DTYPES["float16"]


def chosen(tree: dict[str, object], *keep: str) -> Selection:
    root = read(torch_zip(tree)).root
    return select(root, {name: leaf for name, leaf in root.items() if isinstance(leaf, Tensor)}, HALF, keep)


@pytest.mark.parametrize(
    ("dtype", "taken"),
    [("float64", True), ("float32", True), ("bfloat16", True), ("float16", False), ("int64", False), ("bool", False), ("float8_e5m2", False)],
)
def test_only_floats_are_taken(dtype: str, taken: bool) -> None:
    selection = chosen({"w": tensor(dtype, (2,))})
    assert (list(selection.chosen), list(selection.unchanged)) == ((["w"], []) if taken else ([], ["w"]))


@pytest.mark.parametrize(
    ("globs", "kept"), [(["a.*"], ["a.x", "a.y"]), (["*.x"], ["a.x", "b.x"]), (["nothing"], []), (["A.*"], []), (["a.[y]", "b.x"], ["a.y", "b.x"])]
)
def test_names_are_kept_by_glob(globs: list[str], kept: list[str]) -> None:
    selection = chosen({name: tensor("float32", (1,)) for name in ("a.x", "a.y", "b.x")}, *globs)
    assert list(selection.kept) == kept
    assert not set(selection.kept) & set(selection.chosen)


def test_one_kept_view_keeps_all_views_of_its_storage() -> None:
    store = Store("float32", packed("float32", range(4)))
    selection = chosen({"a": View(store, (4,), (1,)), "b": View(store, (2,), (1,))}, "b")
    assert (list(selection.chosen), list(selection.kept)) == ([], ["a", "b"])


@pytest.mark.parametrize("other", ["tensor", "storage"])
def test_what_something_else_refers_to_is_kept(other: str) -> None:
    store = Store("float32", packed("float32", range(4)))
    view = View(store, (4,), (1,))
    selection = chosen({"w": view, "elsewhere": [view if other == "tensor" else store]})
    assert list(selection.kept) == ["w"]


def test_floats_in_untyped_storages_are_kept() -> None:
    """Such a storage counts bytes, so a cast would make it twice as long; only crafted files have one."""
    source = read(torch_zip({})).source
    odd = Tensor(Storage("0", UNTYPED, 8, "cpu", source, 0), DTYPES["float32"], (2,), (1,))
    assert list(select({"w": odd}, {"w": odd}, HALF).kept) == ["w"]


def test_changes_are_counted_by_storage_and_by_what_they_free() -> None:
    store = Store("float32", packed("float32", range(4)))
    tree = {"a": View(store, (4,), (1,)), "tied": View(store, (2, 2), (1, 2)), "b": tensor("float64", (3,)), "c": tensor("float32", (5,))}
    checkpoint = read(torch_zip(tree))
    before = begin(checkpoint)
    plan = cast(before, dict(checkpoint.root), HALF)
    assert [(change.step, change.where, change.before, change.after, change.bytes) for change in plan.changes] == [
        ("cast", "2 storages", "float32", "float16", 18),
        ("cast", "1 storages", "float64", "float16", 18),
    ]
    assert plan.root is checkpoint.root
    assert before.casts == {}
