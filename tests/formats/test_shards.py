"""What the names of shards and of indexes say."""

from __future__ import annotations

import pytest

from gsvckpt.formats.shards import indexed_name, is_index, missing_parts, read_part


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("model.safetensors.index.json", "model.safetensors"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
        ("a/b.index.non_ema.json", "a/b"),
    ],
)
def test_indexes_of_every_name_are_known(name, bare):
    assert is_index(name)
    assert indexed_name(name) == bare


@pytest.mark.parametrize("name", ["config.json", "index.json", "model.index.a.b.json", "x.index.json.bak", "model_index.json"])
def test_other_json_files_are_no_index(name):
    assert not is_index(name)


@pytest.mark.parametrize(
    ("name", "number", "total"),
    [
        ("model-00002-of-00004.safetensors", 2, 4),
        ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", 1, 2),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", 1, 2),
        ("pytorch_model_00003_of_00010.bin", 3, 10),
        ("shard-0-of-2.pt", 0, 2),
    ],
)
def test_the_name_of_a_shard_tells_its_number(name, number, total):
    part = read_part(f"dir-1-of-9/{name}")
    assert part is not None
    assert (part.number, part.total, part.sibling(number)) == (number, total, f"dir-1-of-9/{name}")


@pytest.mark.parametrize("name", ["G_100.pth", "best-of-3.pth", "take-3-of-2.pth", "one-of-many.pth", "x-1-of-0.pth", "x-1-of-99999.pth"])
def test_other_names_tell_no_number(name):
    assert read_part(name) is None


def test_missing_shards_have_their_names():
    paths = [f"a/model-0000{number}-of-00004.safetensors" for number in (2, 4)]
    (one,) = missing_parts([*paths, "a/other.pth"])
    assert one.missing == ("a/model-00001-of-00004.safetensors", "a/model-00003-of-00004.safetensors")
    assert one.there == paths[0]
    assert "model-00003-of-00004.safetensors is, though model-00002-of-00004.safetensors is one of 4 parts" in one.why


def test_shards_counted_from_zero_are_complete():
    assert missing_parts(["x-0-of-2.pt", "x-1-of-2.pt"]) == []
    assert [one.missing for one in missing_parts(["x-0-of-3.pt", "x-1-of-3.pt"])] == [("x-2-of-3.pt",)]


def test_families_in_two_folders_are_two():
    assert len(missing_parts(["a/x-1-of-2.pt", "b/x-2-of-2.pt"])) == 2
    assert missing_parts(["a/x-1-of-2.pt", "a/x-2-of-2.pt", "a/x-1-of-1.pt"]) == []
