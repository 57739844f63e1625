"""Whole torch checkpoints in safetensors files, and back: nothing is lost, and the library and torch read what is written."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from support.builders import elements, hparams, read, safetensors_raw, tensor, torch_zip
from support.oracle import SAMPLES, assert_same, hparams_class
from test_properties import TREES, same_bytes

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine
from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.model import Global, Tensor
from gsvckpt.transforms.plan import begin

VOICE = {
    "weight": {"enc_p.w": tensor("float16", (2, 3), range(6)), "dec.b": tensor("float32", (2,), [1.5, 2.5])},
    "config": hparams({"model": hparams({"version": "v2Pro"})}),
    "info": "8epoch_16iteration",
}


def to(path: Path, container: str, target: Path, **more: object) -> None:
    with open_checkpoint(path) as checkpoint:
        Engine().write(replace(begin(checkpoint), container=container, **more), str(target), overwrite=False)


def there_and_back(path: Path, folder: Path) -> Path:
    to(path, "safetensors", folder / "there.safetensors")
    to(folder / "there.safetensors", "torch-zip", folder / "back.pth")
    return folder / "back.pth"


@pytest.mark.parametrize("name", SAMPLES)
def test_torch_loads_the_same_objects_after_the_way_there_and_back(name: str, tmp_path: Path) -> None:
    with hparams_class():
        torch.save(SAMPLES[name](), tmp_path / "in.pth")
        there_and_back(tmp_path / "in.pth", tmp_path)
        before, after = (torch.load(tmp_path / file, weights_only=False) for file in ("in.pth", "back.pth"))
    assert_same(before, after)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_library_reads_what_is_written(name: str, tmp_path: Path) -> None:
    torch.save(SAMPLES[name](), tmp_path / "in.pth")
    to(tmp_path / "in.pth", "safetensors", tmp_path / "there.safetensors")
    with safetensors.safe_open(tmp_path / "there.safetensors", "pt") as theirs, open_checkpoint(tmp_path / "there.safetensors") as ours:
        assert all(theirs.get_tensor(key) is not None for key in theirs.keys())  # noqa: SIM118 - no dict
        assert set(theirs.metadata() or {}) <= {"gsvckpt.tree", "gsvckpt.storages"}
        assert ours.container.format == "safetensors"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(TREES)
def test_any_tree_survives(tree: dict[object, object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.pth").write_bytes(torch_zip(tree))
        back = there_and_back(folder / "in.pth", folder)
        with open_checkpoint(folder / "in.pth") as one, open_checkpoint(folder / "there.safetensors") as two, open_checkpoint(back) as three:
            assert first_difference(one.root, two.root, same_bytes) is None
            assert first_difference(one.root, three.root, same_bytes) is None
            assert set(two.globals) >= {name for name in one.globals if name.module == "utils"}


def test_users_of_the_library_find_a_voice_by_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(torch_zip(VOICE, head=b"05"))
    to(tmp_path / "in.pth", "safetensors", tmp_path / "x.safetensors", metadata={"format": "pt", "info": VOICE["info"]})
    loaded = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert {name: value.dtype for name, value in loaded.items()} == {"enc_p.w": torch.float16, "dec.b": torch.float32}
    assert loaded["dec.b"].tolist() == [1.5, 2.5]
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["info"], metadata["gsvckpt.head"]) == ("pt", "8epoch_16iteration", "05")
    tree = json.loads(metadata["gsvckpt.tree"])
    assert tree["dict"]["weight"] == {"dict": {"enc_p.w": {"tensor": "enc_p.w"}, "dec.b": {"tensor": "dec.b"}}}
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert (checkpoint.container.head, checkpoint.globals) == ("05", (Global("utils", "HParams"),))
        assert begin(checkpoint).head == "05"


def test_a_plain_state_dict_needs_no_tree(tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(torch_zip({"a": tensor("int8", (3,), range(3)), "b": tensor("float64", (2,), range(2))}))
    to(tmp_path / "in.pth", "safetensors", tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.container.metadata == {}
        assert list(checkpoint.root) == ["a", "b"]
        assert [leaf.storage.offset % leaf.dtype.itemsize for leaf in checkpoint.root.values()] == [0, 0]  # large elements lie first


def test_tied_views_and_tags_are_stored_once(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    torch.save(OrderedDict(turned=base.t(), base=base, tied=base.view(3, 4), part=base[1:]), tmp_path / "in.pth")
    to(tmp_path / "in.pth", "safetensors", tmp_path / "x.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert list(loaded) == ["base"]
    there_and_back_again = tmp_path / "back.pth"
    to(tmp_path / "x.safetensors", "torch-zip", there_and_back_again)
    after = torch.load(there_and_back_again)
    assert len({value.untyped_storage().data_ptr() for value in after.values()}) == 1
    assert after["turned"].tolist() == base.t().tolist()


def test_a_view_alone_is_kept_as_a_row_of_numbers(tmp_path: Path) -> None:
    torch.save({"odd": torch.arange(10)[::3]}, tmp_path / "in.pth")
    to(tmp_path / "in.pth", "safetensors", tmp_path / "x.safetensors")
    assert list(safetensors.torch.load_file(tmp_path / "x.safetensors")) == ["odd.storage"]
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        odd = checkpoint.root["odd"]
        assert isinstance(odd, Tensor)
        assert [int.from_bytes(part, "little") for part in elements(odd)] == [0, 3, 6, 9]


def test_what_safetensors_cannot_hold_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2, dtype=torch.complex128)}}, tmp_path / "in.pth")
    with pytest.raises(GsvError, match="no complex128") as caught:
        to(tmp_path / "in.pth", "safetensors", tmp_path / "x.safetensors")
    assert caught.value.where == "w"
    assert not (tmp_path / "x.safetensors").exists()


TREE = '{"dict": {"w": {"tensor": "w"}}}'


def file(metadata: dict[str, str], *names: str) -> bytes:
    header = {"__metadata__": metadata} | {name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * n, 8 * n + 8]} for n, name in enumerate(names)}
    return safetensors_raw(json.dumps(header).encode(), bytes(8 * len(names)))


def test_the_builder_makes_a_sound_file() -> None:
    assert list(read(file({"gsvckpt.tree": TREE}, "w")).root) == ["w"]


@pytest.mark.parametrize(("names", "told"), [(["w", "hidden"], "added were hidden"), (["v"], "added were v; removed were w")])
def test_tensors_that_the_tree_does_not_have_are_read_as_they_are(names: list[str], told: str) -> None:
    """Other readers see them, so they are what the file holds; the tree is of an older state."""
    found = read(file({"gsvckpt.tree": TREE}, *names))
    assert (list(found.root), found.container.stale) == (names, told)


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"gsvckpt.tree": "{"}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": {"of": "w", "shape": [3], "stride": [1], "start": 0}}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": {"of": "w", "shape": [1], "stride": [1], "start": -1}}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": {"of": "w", "shape": "2", "stride": [1], "start": 0}}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": {"of": "w", "shape": [2], "stride": [1], "start": 0, "requires_grad": 3}}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": {"storage": "w"}}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"storage": "w"}}}'}, ["w"]),
        ({"gsvckpt.tree": '{"dict": {"w": {"tensor": ["w"]}}}'}, ["w"]),
        ({"gsvckpt.tree": TREE, "gsvckpt.storages": '{"v": {}}'}, ["w"]),
        ({"gsvckpt.tree": TREE, "gsvckpt.storages": '{"w": {"location": 3}}'}, ["w"]),
        ({"gsvckpt.tree": TREE, "gsvckpt.storages": '{"w": 3}'}, ["w"]),
    ],
    ids=range(11),
)
def test_a_tree_that_no_tensors_could_fit_is_damaged(metadata: dict[str, str], names: list[str]) -> None:
    with pytest.raises(DamagedError):
        read(file(metadata, *names))
