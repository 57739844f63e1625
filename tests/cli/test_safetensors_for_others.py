"""What other programs find in the safetensors files that gsvckpt writes, and how the way back is: judged by the safetensors package and torch."""

from __future__ import annotations

import json
import struct

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import gsvckpt as api

G = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, generator=G)


def channels_last():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3), torch.nn.Linear(8, 4))
    return dict(net.to(memory_format=torch.channels_last).state_dict())


def chunks():
    return dict(zip(("q", "k", "v"), numbers(96, 32).chunk(3), strict=True))


def column_chunks():
    return dict(zip(("q", "k", "v"), numbers(32, 96).chunk(3, dim=1), strict=True))


def flat_buffer():
    flat = numbers(4000)
    return {"l1.weight": flat[:1000].view(10, 100), "l1.bias": flat[1000:1010], "l2.weight": flat[1010:2010].view(20, 50)}


def tied():
    weight = numbers(5, 4)
    return {"embed": weight, "head": weight, "again": weight.view(4, 5), "turned": weight.t(), "first rows": weight[:2], "other": numbers(3)}


def overlapping():
    base = numbers(40)
    return {"a": base[:20], "b": base[10:30].view(4, 5), "c": base[25:]}


MODELS = {
    "channels_last": channels_last,
    "channels_last_3d": lambda: {"w": numbers(2, 3, 2, 3, 4).to(memory_format=torch.channels_last_3d)},
    "transposed": lambda: {"w": numbers(7, 5).t()},
    "permuted": lambda: {"w": numbers(2, 3, 4, 5).permute(2, 0, 3, 1)},
    "expanded": lambda: {"w": numbers(1, 5).expand(4, 5), "x": numbers(3, 1).expand(3, 6), "n": torch.tensor(2.0).expand(2, 2)},
    "sliced": lambda: {"w": numbers(9, 10)[2:5], "columns": numbers(9, 10)[:, 2:5], "steps": numbers(9, 10)[::2, 1::3]},
    "chunks": chunks,
    "column_chunks": column_chunks,
    "flat_buffer": flat_buffer,
    "tied": tied,
    "overlapping": overlapping,
    "windows": lambda: {"w": numbers(20).unfold(0, 6, 2)},
    "halves": lambda: {"w": numbers(6, 4).half().t(), "b": numbers(6, 4).bfloat16()[:, 1:3], "i": torch.arange(12).view(3, 4).t()},
    "bits": lambda: {"b": (numbers(6, 4) > 0).t(), "u": torch.arange(12, dtype=torch.uint8).view(3, 4)[:, ::2]},
    "young types": lambda: {"f8": numbers(4, 6).to(torch.float8_e4m3fn).t(), "u16": torch.arange(12).view(3, 4).to(torch.uint16).t()},
    "empty": lambda: {"w": torch.zeros(3, 0, 2), "s": torch.tensor(1.5), "e": torch.zeros(0, 3).t()},
}


def bits(tensor):
    if not tensor.numel() or not tensor.dim():
        return tensor.tolist()
    return tensor.contiguous().view(torch.uint8).tolist()


def same_values(one, two):
    return (one.dtype, one.shape) == (two.dtype, two.shape) and bits(one) == bits(two)


@pytest.fixture
def converted(gsvckpt, tmp_path):
    def convert(tree, *options):
        torch.save(tree, tmp_path / "x.pth")
        return gsvckpt.json("migrate", tmp_path / "x.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors", *options)

    return convert


@pytest.mark.parametrize("name", MODELS)
def test_others_find_every_tensor_under_its_own_name(gsvckpt, converted, tmp_path, name):
    tree = MODELS[name]()
    converted(tree)
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert set(found) == set(tree)
    assert [key for key in tree if not same_values(found[key], tree[key])] == []
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert gsvckpt.json("verify", tmp_path / "x.safetensors").file["status"] == "sound"
    assert gsvckpt("verify", tmp_path / "x.safetensors", "--against", tmp_path / "x.pth", "--checks", "against").code == 0
    assert gsvckpt("inspect", tmp_path / "x.safetensors", "--diff", tmp_path / "x.pth").code == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_way_back_is_exact(gsvckpt, converted, tmp_path, name):
    converted(MODELS[name]())
    before = torch.load(tmp_path / "x.pth")
    after = torch.load(gsvckpt.json("migrate", tmp_path / "x.safetensors", "--to", "torch", "-o", tmp_path / "back.pth").file["output"])
    assert list(after) == list(before)
    for key, tensor in before.items():
        assert same_values(after[key], tensor), key
        assert after[key].stride() == tensor.stride(), key
    assert ties(after) == ties(before)


def ties(tree):
    """Which tensors share bytes."""
    found = set()
    for one, first in tree.items():
        for two, second in tree.items():
            spans = [(t.untyped_storage().data_ptr(), t.storage_offset() * t.element_size(), reach(t)) for t in (first, second)]
            (place, begin, end), (other, start, stop) = spans
            if one < two and place == other and max(begin, start) < min(end, stop):
                found.add((one, two))
    return found


def reach(tensor):
    if not tensor.numel():
        return 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.storage_offset() + last + 1) * tensor.element_size()


def test_ties_that_were_written_again_are_said(converted):
    changes = " ".join(map(str, converted(tied()).file.values()))
    assert "tied tensors" in changes
    assert "written once for each name" in changes


def test_a_tensor_that_is_one_object_under_two_names_has_both(gsvckpt, converted, tmp_path):
    weight = numbers(3)
    converted({"a": weight, "b": weight, "c": [weight]})
    assert set(safetensors.torch.load_file(tmp_path / "x.safetensors")) == {"a", "b", "c.0"}
    back = torch.load(gsvckpt.json("migrate", tmp_path / "x.safetensors", "--to", "torch").file["output"])
    assert back["a"].data_ptr() == back["b"].data_ptr() == back["c"][0].data_ptr()


def test_a_training_file_with_views_comes_back(gsvckpt, converted, tmp_path):
    tree = {"model": channels_last(), "optimizer": {"state": {0: {"exp_avg": numbers(8, 3).t()}}, "param_groups": []}, "epoch": 3, "path": "x"}
    converted(tree)
    back = torch.load(gsvckpt.json("migrate", tmp_path / "x.safetensors", "--to", "torch").file["output"])
    assert back["epoch"] == 3
    assert back["optimizer"]["state"][0]["exp_avg"].stride() == (1, 3)
    assert back["model"]["0.weight"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_made_of_the_file_keeps_how_its_tensors_lay(gsvckpt, converted, tmp_path):
    """convert-fp16 in between casts every tensor by itself; then they are laid out as they lay."""
    converted(tied() | channels_last())
    half = gsvckpt.json("convert-fp16", tmp_path / "x.safetensors", "-o", tmp_path / "half.safetensors").file["output"]
    assert set(safetensors.torch.load_file(half)) == set(tied() | channels_last())
    back = torch.load(gsvckpt.json("migrate", half, "--to", "torch").file["output"])
    before = torch.load(tmp_path / "x.pth")
    for key, tensor in before.items():
        assert (back[key].stride(), back[key].dtype) == (tensor.stride(), torch.float16 if tensor.is_floating_point() else tensor.dtype), key
        assert torch.equal(back[key], tensor.half() if tensor.is_floating_point() else tensor), key
    assert ties(back) == ties(before)


def test_shards_have_every_name(gsvckpt, converted, tmp_path):
    tree = tied() | channels_last()
    torch.save(tree, tmp_path / "x.pth")
    gsvckpt.json("migrate", tmp_path / "x.pth", "--to", "safetensors", "--max-shard-size", "900", "-o", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tree)
    for key, shard in index["weight_map"].items():
        with safe_open(tmp_path / "out" / shard, "pt") as file:
            assert same_values(file.get_tensor(key), tree[key])
    back = torch.load(gsvckpt.json("migrate", tmp_path / "out", "--to", "torch", "-o", tmp_path / "back.pth").file["output"])
    assert ties(back) == ties(torch.load(tmp_path / "x.pth"))


def test_files_of_earlier_versions_are_read(gsvckpt, tmp_path):
    """Once a storage stood under the name of its first tensor, and the others as views of it."""
    tree = json.dumps({"dict": [["w", {"tensor": "w"}], ["t", {"tensor": {"of": "w", "shape": [3, 2], "stride": [1, 3], "start": 0}}]]})
    safetensors.torch.save_file({"w": torch.arange(6.0).view(2, 3)}, tmp_path / "x.safetensors", {"gsvckpt.tree": tree})
    found = api.load_state_dict(tmp_path / "x.safetensors")
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.filterwarnings("ignore")  # torch warns of its own quantized tensors
def test_special_tensors_have_no_place_there(gsvckpt, tmp_path):
    torch.save({"w": numbers(3), "q": torch.quantize_per_tensor(numbers(4), 0.5, 0, torch.qint8)}, tmp_path / "x.pth")
    run = gsvckpt("migrate", tmp_path / "x.pth", "--to", "safetensors")
    assert (run.code, "q: is a special tensor" in run.err) == (4, True)
    assert not (tmp_path / "x.safetensors").exists()


# --- the package and gsvckpt read the same --------------------------------------------------------------------------------------------------------


def test_verify_asks_the_package(gsvckpt, tmp_path, monkeypatch):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "container.library" in gsvckpt.json("verify", tmp_path / "x.safetensors").file["checks"]["passed"]
    from gsvckpt.formats import safetensors as module

    monkeypatch.setattr(module, "list_with_library", lambda _: {"w": ("F32", (3,))})
    findings = gsvckpt.json("verify", tmp_path / "x.safetensors", exit_code=1).file["findings"]
    (finding,) = (finding for finding in findings if finding["severity"] == "error")
    assert (finding["check"], finding["severity"]) == ("container.library", "error")
    torch.save({"w": torch.ones(2)}, tmp_path / "y.pth")
    run = gsvckpt("migrate", tmp_path / "y.pth", "--to", "safetensors")
    assert (run.code, "the safetensors package reads w as" in run.err) == (5, True)
    assert not (tmp_path / "y.safetensors").exists()


# --- edited by another program --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(gsvckpt, tmp_path):
    """A voice that was converted, then edited with the package, which keeps the metadata."""
    torch.save({"weight": {f"l{n}.w": numbers(8, 8) for n in range(4)}, "config": {"a": 1}, "info": "x"}, tmp_path / "v.pth")
    gsvckpt.json("migrate", tmp_path / "v.pth", "--to", "safetensors")

    def edit(change):
        with safe_open(tmp_path / "v.safetensors", "pt") as file:
            metadata = file.metadata()
        tensors = safetensors.torch.load_file(tmp_path / "v.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, tmp_path / "edited.safetensors", metadata)
        return tmp_path / "edited.safetensors", tensors

    return edit


EDITS = {
    "added": lambda tensors: tensors.update({"extra.w": torch.ones(2)}),
    "removed": lambda tensors: tensors.pop("l3.w"),
    "renamed": lambda tensors: tensors.update({"new.l0.w": tensors.pop("l0.w")}),
    "all others": lambda tensors: (tensors.clear(), tensors.update(x=torch.ones(2))),
}
FITTING = {
    "cast": lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()}),
    "reshaped": lambda tensors: tensors.update({"l0.w": tensors["l0.w"].reshape(4, 16)}),
    "changed": lambda tensors: tensors.update({"l0.w": tensors["l0.w"] * 2}),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_tree_of_an_older_state_is_a_warning(gsvckpt, edited, tmp_path, name):
    path, tensors = edited(EDITS[name])
    file = gsvckpt.json("verify", path).file
    (finding,) = (one for one in file["findings"] if one["severity"] == "warning")
    assert (file["status"], finding["check"]) == ("suspect", "container.header")
    inspected = gsvckpt.json("inspect", path, "--tensors").file
    assert {tensor["name"] for tensor in inspected["state"]} == set(tensors)
    assert "another program changed it" in inspected["warnings"][0]
    found = torch.load(gsvckpt.json("migrate", path, "--to", "torch", "-o", tmp_path / "out.pth").file["output"])
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    mended = gsvckpt.json("migrate", path, "--to", "safetensors", "-o", tmp_path / "mended.safetensors").file["output"]
    assert gsvckpt.json("verify", mended).file["status"] == "sound"
    with safe_open(mended, "pt") as file:
        assert json.loads(file.metadata()["config"]) == {"a": 1}
        assert "gsvckpt.tree" not in file.metadata()
    assert gsvckpt("convert-fp16", path, "-o", tmp_path / "half.safetensors").code == 0


@pytest.mark.parametrize("name", FITTING)
def test_a_tree_that_still_fits_is_used(gsvckpt, edited, tmp_path, name):
    path, tensors = edited(FITTING[name])
    assert gsvckpt.json("verify", path).file["status"] == "sound"
    found = torch.load(gsvckpt.json("migrate", path, "--to", "torch", "-o", tmp_path / "out.pth").file["output"])
    assert (found["config"], found["info"]) == ({"a": 1}, "x")
    assert all(torch.equal(found["weight"][key], tensor) for key, tensor in tensors.items())


# --- bytes that no tensor reaches -----------------------------------------------------------------------------------------------------------------

BIG = torch.arange(200_000, dtype=torch.float32)
SLICES = {
    "a slice": lambda: {"emb": BIG[:1000].view(10, 100)},
    "slices": lambda: {f"w{n}": BIG[n * 1000 : (n + 1) * 1000].view(10, 100) for n in range(5)},
    "columns": lambda: {"emb": BIG.view(200, 1000).t()[:10]},
    "the end": lambda: {"emb": BIG[-10:]},
    "two that overlap": lambda: {"a": BIG[100:300], "b": BIG[200:400]},
}


@pytest.mark.parametrize("name", SLICES)
def test_compact_writes_only_what_tensors_reach(gsvckpt, tmp_path, name):
    torch.save(SLICES[name](), tmp_path / "x.pth")
    before = torch.load(tmp_path / "x.pth")
    reached = sum(tensor.nbytes for tensor in before.values())
    assert (tmp_path / "x.pth").stat().st_size > BIG.nbytes
    hint = f"gsvckpt migrate {tmp_path / 'x.pth'} --compact"
    assert hint in gsvckpt("inspect", tmp_path / "x.pth").out or name == "columns"  # of which inspect counts the gaps as reached
    for options in (["--compact"], ["--to", "safetensors"]):
        output = gsvckpt.json("migrate", tmp_path / "x.pth", *options).file["output"]
        found = api.load_state_dict(output)
        assert all(torch.equal(found[key], tensor) for key, tensor in before.items())
    compact = torch.load(tmp_path / "x.migrated.pth")
    assert (tmp_path / "x.migrated.pth").stat().st_size < reached + 5_000
    assert ties(compact) == ties(before)
    assert gsvckpt.json("migrate", tmp_path / "x.migrated.pth", "--compact").file["output"] is None


@pytest.mark.parametrize("name", SLICES)
def test_the_audit_counts_only_what_tensors_reach(gsvckpt, tmp_path, name):
    torch.save(SLICES[name](), tmp_path / "x.pth")
    before = torch.load(tmp_path / "x.pth")
    file = gsvckpt.json("convert-fp16", tmp_path / "x.pth", "-o", tmp_path / "half.pth").file
    beyond = sum(int((tensor.half().isinf()).sum()) for tensor in before.values())
    kept = {entry["name"]: entry["values"] for entry in file["overflow"]} if "overflow" in file else {}
    after = torch.load(tmp_path / "half.pth")
    assert (after[next(iter(after))].dtype is torch.float16) == (beyond == 0)
    assert not kept or sum(kept.values()) == beyond
    if not beyond:
        assert all(torch.equal(after[key], tensor.half()) for key, tensor in before.items())


def test_gaps_between_numbers_come_back_as_zeros(gsvckpt, converted, tmp_path):
    """Steps are exact; what lay between the numbers is not in the file."""
    converted({"w": numbers(9, 10)[:, 2:5]})
    back = torch.load(gsvckpt.json("migrate", tmp_path / "x.safetensors", "--to", "torch").file["output"])["w"]
    whole = torch.empty(0).set_(back.untyped_storage(), 0, (back.untyped_storage().nbytes() // 4,))
    assert int((whole != 0).sum()) == 27


def test_the_header_of_a_file_with_views_has_only_the_formats_own_entries(converted, tmp_path):
    converted(tied())
    data = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert all(set(entry) == {"dtype", "shape", "data_offsets"} for name, entry in header.items() if name != "__metadata__")
