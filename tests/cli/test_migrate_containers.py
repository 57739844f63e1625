"""gsvckpt migrate without a step: streams of torch before 1.6 and compressed zips become plain zips, wrong heads those of GPT-SoVITS."""

from __future__ import annotations

import io
import os
import resource
import shutil
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support.builders import Make, Name, Store, View, hparams, packed, tensor, torch_stream, torch_zip
from support.oracle import SAMPLES, assert_same, training, views
from support.readers import Detection, detect, load_gpt, load_sovits, load_three_ways, pretend_utils, zip_is_clean

from gsvckpt.sovits import upstream
from tests.support.voices import Maker, gpt_weights, sovits_weights, write

from .samples import (
    assert_one_error,
    discriminator,
    evil,
    generator,
    gpt,
    leftovers,
    lora,
    numbers,
    s1_training,
    s2_training,
    save,
    small,
    sovits_config,
    spawn,
    weights,
)


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, which do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def lora_tree(version: str) -> OrderedDict[str, object]:
    return small(lora(), version, lora_rank=4)


BASE = {"weight": generator("v2Pro", "float16", enc_q=True), "config": sovits_config("v2Pro"), "info": "pretrained"}
VOCODER = {"conv_pre.weight": (512, 100, 7), "ups.0.weight": (4, 2), "resblocks.0.convs1.0.weight": (2, 2), "conv_post.weight": (1, 2)}
TREES = {
    "v1": small(generator("v1", "float16"), "v1"),
    "v2Pro": small(generator("v2Pro", "float16"), "v2Pro"),
    "v2ProPlus": small(generator("v2ProPlus", "float16"), "v2ProPlus"),
    "v3 LoRA": lora_tree("v3"),
    "v4 LoRA": lora_tree("v4"),
    "GPT": {"weight": gpt(), "config": {"train": {"exp_name": "alice"}}, "info": "GPT-e8"},
    "GPT run": s1_training(gpt(dtype="float32")),
    "G": s2_training(generator("v2", enc_q=True)),
    "D": s2_training(discriminator()),
    "base": BASE,
    "vocoder": weights(VOCODER),
    "state dict": {"a": numbers((3, 4)), "n": tensor("int64", (), [7])},
    "list": [numbers((2,)), {"x": (1, None, "声音")}],
}
HEADS = {"v2Pro": "05", "v2ProPlus": "06", "v3 LoRA": "03", "v4 LoRA": "04"}


def migrate(gsvckpt, source, *options):
    """The JSON object of a run and its output, which a dry run foretold and of which a second run would change nothing."""
    data = source.read_bytes()
    planned = gsvckpt.json("migrate", source, *options, "-n").file
    file = gsvckpt.json("migrate", source, *options).file
    output = Path(file["output"])
    assert file == {**planned, "written": True}
    assert (file["bytes_after"], source.read_bytes(), leftovers(source.parent)) == (output.stat().st_size, data, [])
    assert_settled(gsvckpt, output, *options)
    return file, output


def assert_settled(gsvckpt, path, *options):
    """Nothing is left to change, and a copy would be the same file."""
    run = gsvckpt.json("migrate", path, *options, "--check")
    assert (run.file["changed"], run.file["output"], run.file["changes"]) == (False, None, [])
    again = path.with_name("again.pth")
    assert gsvckpt("migrate", path, *options, "-o", again).code == 0
    assert again.read_bytes() == path.read_bytes()
    again.unlink()


def load(path: Path) -> object:
    with pretend_utils():
        return torch.load(io.BytesIO(b"PK" + path.read_bytes()[2:]), weights_only=False)


def head(path: Path) -> str:
    return path.read_bytes()[:2].decode("latin-1")


# --- streams ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TREES)
def test_a_stream_of_any_kind_becomes_the_zip_that_it_would_be_today(gsvckpt, tmp_path, kind):
    source = tmp_path / "x.pth"
    source.write_bytes(torch_stream(TREES[kind]))
    file, output = migrate(gsvckpt, source)
    assert {"step": "to", "where": "container", "from": "torch-stream", "to": "torch-zip"} in file["changes"]
    assert head(output) == HEADS.get(kind, "PK")
    assert zip_is_clean(output)
    with pretend_utils():
        before = torch.load(source, weights_only=False)
    assert_same(load(output), before)
    straight = save(tmp_path / "straight.pth", TREES[kind], head=HEADS.get(kind, "PK").encode())
    assert gsvckpt("migrate", straight, "-o", tmp_path / "rewritten.pth").code == 0
    assert (tmp_path / "rewritten.pth").read_bytes() == output.read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_what_torch_itself_saved_in_its_old_way(gsvckpt, tmp_path, name):
    torch.save(SAMPLES[name](), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    _, output = migrate(gsvckpt, tmp_path / "x.pth")
    assert_same(torch.load(output, weights_only=False), torch.load(tmp_path / "x.pth", weights_only=False))
    assert zipfile.ZipFile(output).testzip() is None


def test_tied_tensors_of_a_stream_stay_tied(gsvckpt, tmp_path):
    torch.save(views(), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    found = torch.load(migrate(gsvckpt, tmp_path / "x.pth")[1])
    assert len({found[name].untyped_storage().data_ptr() for name in ("base", "tied", "transposed", "strided", "offset", "element")}) == 1


def test_a_stream_in_place(gsvckpt, tmp_path):
    source = tmp_path / "x.pth"
    torch.save(training(), source, _use_new_zipfile_serialization=False)
    expected = torch.load(source)
    file = gsvckpt.json("migrate", source, "--in-place").file
    assert (file["output"], file["bytes_after"]) == (str(source), source.stat().st_size)
    assert_same(torch.load(source, mmap=True), expected)
    assert os.listdir(tmp_path) == ["x.pth"]
    assert gsvckpt.json("migrate", source, "--in-place").file["changed"] is False


def test_a_v2_voice_in_a_stream_is_one_again_to_gpt_sovits(gsvckpt, folder):
    plain = write(sovits_weights(Maker(), "alice", "v2", 8, 16), folder / "plain.pth", "v2")
    expected, info = load_sovits(plain)
    with pretend_utils():
        torch.save(torch.load(plain, weights_only=False), folder / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(KeyError):
        detect(folder / "old.pth")
    _, output = migrate(gsvckpt, folder / "old.pth")
    weight, found = load_sovits(output)
    assert found == info
    assert list(weight) == list(expected)
    assert all(torch.equal(weight[name].view(torch.int16), expected[name].view(torch.int16)) for name in expected)
    load_three_ways(output, weights_only=False)


def test_gpt_weights_in_a_stream(gsvckpt, folder):
    plain = write(gpt_weights(Maker(), "alice", "v2", 8), folder / "plain.ckpt")
    torch.save(torch.load(plain), folder / "alice-e8.ckpt", _use_new_zipfile_serialization=False)
    _, output = migrate(gsvckpt, folder / "alice-e8.ckpt")
    weight, expected = load_gpt(output)["weight"], load_gpt(plain)["weight"]
    assert all(torch.equal(weight[name].view(torch.int16), expected[name].view(torch.int16)) for name in expected)
    load_three_ways(output, weights_only=True)


STREAM = torch_stream({"a": numbers((40, 4)), "b": tensor("int8", (3,), [1, 2, 3])})


@pytest.mark.parametrize(
    "data",
    [
        STREAM[:-1],
        STREAM[:-300],
        STREAM[:200],
        STREAM[:20],
        torch_stream({"a": numbers((4,))}, counts={0: 5}),
        torch_stream({"a": numbers((4,))}, counts={0: 3}),
        torch_stream({"a": numbers((4,))}, counts={0: -1}),
        torch_stream({"a": numbers((4,))}, counts={0: 1 << 60}),
        torch_stream({"a": numbers((4,))}, keys=[]),
        torch_stream({"a": numbers((4,))}, keys=["7"]),
    ],
    ids=range(10),
)
def test_a_stream_that_is_not_whole_or_not_of_this_world(gsvckpt, tmp_path, data):
    source = tmp_path / "x.pth"
    source.write_bytes(data)
    for more in ([], ["-n"], ["--in-place"], ["--force"]):
        assert_one_error(gsvckpt("migrate", source, *more), source, 3)
        assert (os.listdir(tmp_path), source.read_bytes()) == (["x.pth"], data)


def test_the_tar_of_torch_before_its_streams_is_no_checkpoint_that_is_read(gsvckpt, tmp_path):
    source = tmp_path / "x.pth"
    with tarfile.open(source, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert_one_error(gsvckpt("migrate", source), source, 3)


@pytest.mark.parametrize("container", [torch_stream, torch_zip])
def test_a_malicious_file_in_an_old_container_is_not_renewed(gsvckpt, tmp_path, container):
    source = tmp_path / "x.pth"
    data = container(evil())
    source.write_bytes(deflated(data) if container is torch_zip else data)
    assert_one_error(gsvckpt("migrate", source), source, 4)
    assert os.listdir(tmp_path) == ["x.pth"]


# --- compressed zips -------------------------------------------------------------------------------------------------------------------------------


def deflated(data: bytes, *, only: str = "", method: int = zipfile.ZIP_DEFLATED, level: int = 6) -> bytes:
    """The same zip, packed again by a program that compresses."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(b"PK" + data[2:])) as old, zipfile.ZipFile(out, "w", compresslevel=level) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), method if only in name else zipfile.ZIP_STORED)
    return out.getvalue()


def test_a_compressed_reference_fills_as_a_plain_one_does(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", {"model": weights({"a": (2, 2)})})
    reference = save(tmp_path / "plain.pth", {"model": weights({"a": (2, 2), "b": (300, 5), "c": (7,)})})
    (tmp_path / "packed.pth").write_bytes(deflated(reference.read_bytes()))
    for name in ("plain", "packed"):
        gsvckpt.json("migrate", source, "--like", tmp_path / f"{name}.pth", "--fill", "-o", tmp_path / f"of-{name}.pth")
    assert (tmp_path / "of-packed.pth").read_bytes() == (tmp_path / "of-plain.pth").read_bytes()


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("packed_head", ["PK", "own"])
def test_a_compressed_zip_of_any_kind_is_stored_again(gsvckpt, tmp_path, kind, packed_head):
    plain = save(tmp_path / "plain.pth", TREES[kind], head=HEADS.get(kind, "PK").encode())
    source = tmp_path / "x.pth"
    data = deflated(plain.read_bytes())
    source.write_bytes((plain.read_bytes()[:2] if packed_head == "own" else b"PK") + data[2:])
    file, output = migrate(gsvckpt, source)
    records = len(zipfile.ZipFile(io.BytesIO(b"PK" + data[2:])).namelist())
    assert {"step": "to", "where": f"{records} records", "from": "compressed", "to": "stored"} in file["changes"]
    assert head(output) == HEADS.get(kind, "PK")
    assert zip_is_clean(output)
    assert_same(load(output), load(plain))
    assert gsvckpt("migrate", plain, "-o", tmp_path / "rewritten.pth").code == 0
    assert (tmp_path / "rewritten.pth").read_bytes() == output.read_bytes()


def test_a_compressed_voice_is_one_to_gpt_sovits_only_afterwards(gsvckpt, folder):
    """Repacked by hand, a v2 voice becomes smaller than v2 voices are, and a v2Pro voice loses its head."""
    for version in ("v2", "v2Pro"):
        plain = write(sovits_weights(Maker(), "alice", version, 8, 16), folder / "plain.pth", version)
        source = folder / "x.pth"
        source.write_bytes(deflated(plain.read_bytes(), only="data.pkl"))
        assert detect(source).model != version
        _, output = migrate(gsvckpt, source)
        weight, info = load_sovits(output)
        expected, known = load_sovits(plain)
        assert info == known
        assert all(torch.equal(weight[name].view(torch.int16), expected[name].view(torch.int16)) for name in expected)
        assert zip_is_clean(output)
        plain.unlink()
        output.unlink()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["deflated", "stored"])
def test_a_zip_that_was_unpacked_and_packed_again_by_hand(gsvckpt, tmp_path, method):
    """`zip -r`: entries for the folders, files in the order of a listing, the times of today."""
    torch.save(training(), tmp_path / "plain.pth")
    source = tmp_path / "x.pth"
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(source, "w", method) as new:
        names = {*old.namelist(), "plain/", "plain/data/", "plain/.data/"}
        assert names > {"plain/data.pkl", "plain/data/0"}
        for name in sorted(names):
            new.writestr(name, b"" if name.endswith("/") else old.read(name))
    assert_same(torch.load(source), torch.load(tmp_path / "plain.pth"))  # torch does not mind
    output = tmp_path / "out.pth"
    assert gsvckpt("migrate", source, "-o", output).code == 0
    assert_same(torch.load(output, mmap=True), torch.load(tmp_path / "plain.pth"))
    assert zip_is_clean(output)
    assert_settled(gsvckpt, output)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
@pytest.mark.parametrize("only", ["", "data.pkl", "data/0"])
def test_another_compression_is_refused(gsvckpt, tmp_path, method, only):
    source = tmp_path / "x.pth"
    source.write_bytes(deflated(torch_zip(TREES["v1"]), only=only, method=method))
    for more in ([], ["-n"], ["--in-place"], ["--force"]):
        assert_one_error(gsvckpt("migrate", source, *more), source, 3)
        assert os.listdir(tmp_path) == ["x.pth"]


def central(data: bytes, name: str) -> int:
    """Where the directory's entry of a record begins."""
    at = data.index(b"PK\x01\x02")
    while not data[at + 46 :].startswith(name.encode()):
        at = data.index(b"PK\x01\x02", at + 1)
    return at


def lied(data: bytes, name: str, size: int) -> bytes:
    """The same zip, whose directory announces another size of a record's content."""
    at = central(data, name) + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


LIES = {
    "a pickle of 4 GB": lambda data: lied(data, "archive/data.pkl", 0xFFFFFFF0),
    "a pickle of 1 byte": lambda data: lied(data, "archive/data.pkl", 1),
    "no pickle": lambda data: lied(data, "archive/data.pkl", 0),
    "a tensor of 4 GB": lambda data: lied(data, "archive/data/0", 0xFFFFFFF0),
    "a smaller tensor": lambda data: lied(data, "archive/data/0", 100),
    "a larger tensor": lambda data: lied(data, "archive/data/0", 101 * 4),
}


@pytest.mark.parametrize("lie", LIES)
def test_sizes_that_lie_are_found_out_in_little_memory(tmp_path, lie):
    source = tmp_path / "x.pth"
    plain = torch_zip({"w": tensor("float32", (100,), range(100)), "v": tensor("int8", (9,))})
    source.write_bytes(LIES[lie](deflated(plain)))
    for more in ([], ["--in-place"]):
        run = spawn("migrate", source, *more, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31)))
        assert run.returncode == 3, run
        assert run.stderr.startswith(f"gsvckpt: {source}: ".encode())
        assert b"Traceback" not in run.stderr
        assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
def test_a_bomb_is_refused_in_little_memory(tmp_path, record):
    """1 GiB of zeros in a megabyte."""
    source = tmp_path / "x.pth"
    plain = torch_zip({"w": tensor("float32", (100,), range(100))})
    with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as target:
                if name == f"archive/{record}":
                    zeros = bytes(1 << 24)
                    for _ in range(1 << 6):
                        target.write(zeros)
                else:
                    target.write(old.read(name))
    run = spawn("migrate", source, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)))
    assert run.returncode == 3, run
    assert run.stderr.startswith(f"gsvckpt: {source}: ".encode())
    assert b"Traceback" not in run.stderr
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("part", ["begin", "middle", "end"])
def test_a_damaged_deflated_stream_is_refused_with_its_record(gsvckpt, tmp_path, part):
    data = bytearray(deflated(torch_zip({"w": numbers((64, 64)), "v": numbers((4,))})))
    first, second = (struct.unpack_from("<I", data, central(bytes(data), f"archive/data/{n}") + 42)[0] for n in (0, 1))
    begin = first + 30 + len("archive/data/0")
    at = {"begin": begin, "middle": (begin + second) // 2, "end": second - 3}[part]
    data[at] ^= 0xFF
    source = tmp_path / "x.pth"
    source.write_bytes(data)
    for more in ([], ["--in-place"], ["--force"]):
        run = gsvckpt("migrate", source, *more)
        assert_one_error(run, source, 3)
        assert os.listdir(tmp_path) == ["x.pth"]
        assert source.read_bytes() == data


# --- heads -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch):
    """GPT-SoVITS's size windows, moved to where the shrunken files are."""
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", 6_000)
    monkeypatch.setattr(upstream, "V3_MIN_SIZE", 6_000)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("v2Pro", "PK", "05"),
        ("v2Pro", "06", "05"),
        ("v2Pro", "01", "05"),
        ("v2Pro", "07", "05"),
        ("v2ProPlus", "PK", "06"),
        ("v2ProPlus", "05", "06"),
        ("v3 LoRA", "PK", "03"),
        ("v4 LoRA", "PK", "04"),
        ("v1", "00", "PK"),
        ("v1", "01", "PK"),
        ("GPT", "05", "PK"),
        ("GPT run", "03", "PK"),
        ("G", "05", "PK"),
        ("D", "06", "PK"),
        ("vocoder", "04", "PK"),
        ("state dict", "02", "PK"),
    ],
)
def test_a_head_becomes_that_which_gpt_sovits_writes(gsvckpt, tmp_path, kind, before, after):
    source = save(tmp_path / "x.pth", TREES[kind], head=before.encode())
    file, output = migrate(gsvckpt, source)
    assert head(output) == after
    assert file["changes"] == [{"step": "head", "where": "first two bytes", "from": before, "to": after}]
    assert_same(load(output), load(source))
    if kind in HEADS or kind == "v1":
        assert detect(output) == Detection("v1" if kind == "v1" else "v2", kind.removesuffix(" LoRA"), is_lora="LoRA" in kind)
    gsvckpt.json("migrate", source, "--in-place")
    assert source.read_bytes() == output.read_bytes()


@pytest.mark.parametrize("kind", TREES)
def test_a_file_as_it_should_be_is_left_alone(gsvckpt, tmp_path, kind):
    made = save(tmp_path / "made.pth", TREES[kind], head=HEADS.get(kind, "PK").encode())
    assert gsvckpt("migrate", made, "-o", tmp_path / "x.pth").code == 0
    source, data = tmp_path / "x.pth", (tmp_path / "x.pth").read_bytes()
    for path in (source, made):
        for more in ([], ["--in-place"], ["-n"], ["--check"]):
            file = gsvckpt.json("migrate", path, *more).file
            assert (file["changed"], file["written"], file["output"], file["changes"]) == (False, False, None, [])
    assert source.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["made.pth", "x.pth"]


@pytest.mark.parametrize(("version", "before"), [("v3", "02"), ("v3", "03"), ("v2", "01"), ("v2", "05")])
def test_the_head_of_full_weights_becomes_pk(gsvckpt, tmp_path, narrow, version, before, monkeypatch):
    if version == "v2":
        monkeypatch.setattr(upstream, "V3_MIN_SIZE", 600_000)
    state = {**generator(version, "float16"), "enc_p.x": numbers((64, 64), "float16")}
    source = save(tmp_path / "x.pth", small(state, version), head=before.encode())
    file, output = migrate(gsvckpt, source)
    assert (head(output), file["upstream_after"]["model"]) == ("PK", version)
    assert_same(load(output), load(source))


def test_a_v3_voice_of_a_fork_is_one_to_gpt_sovits(gsvckpt, folder):
    """GPT-SoVITS-ko writes 02, which training and the exporters do not read."""
    source = write(sovits_weights(Maker(), "alice", "v3", 8, 16), folder / "alice_e8_s16.pth", "v3")
    expected = source.read_bytes()
    with source.open("r+b") as file:
        file.write(b"02")
    told = gsvckpt.json("migrate", source, "--in-place").file
    assert source.read_bytes() == expected
    assert (told["upstream_before"]["rule"], told["upstream_after"]["rule"]) == ("head", "size")
    assert load_sovits(source)[1].detected == Detection("v2", "v3", is_lora=False)


@pytest.mark.parametrize("options", [[], ["--plain"], ["--scrub-paths"]])
def test_07_stays_as_gpt_sovits_stops_at_it_where_it_would_take_pk_for_v3(gsvckpt, tmp_path, options):
    source = save(tmp_path / "x.pth", small(generator("v4", "float16"), "v4"), head=b"07")
    if not options:
        file = gsvckpt.json("migrate", source).file
        assert (file["changed"], file["output"]) == (False, None)
    output = tmp_path / "out.pth"
    assert gsvckpt("migrate", source, *options, "-o", output).code == 0
    assert head(output) == "07"


def test_full_v4_weights_in_a_stream_are_not_made_what_gpt_sovits_takes_for_v3(gsvckpt, tmp_path, narrow):
    source = tmp_path / "x.pth"
    source.write_bytes(torch_stream(small({**generator("v4", "float16"), "enc_p.x": numbers((64, 64), "float16")}, "v4")))
    for more in ([], ["-n"], ["--in-place"]):
        run = gsvckpt("migrate", source, *more)
        assert_one_error(run, source, 4)
        assert "v4 file as v3" in run.err
        assert os.listdir(tmp_path) == ["x.pth"]
    for options, after in ((["--head", "07"], "07"), (["--force"], "PK")):
        assert gsvckpt("migrate", source, *options, "-o", tmp_path / f"{after}.pth").code == 0
        assert head(tmp_path / f"{after}.pth") == after


@pytest.mark.parametrize("before", ["PK", "05"])
def test_the_head_of_a_base_is_left_as_it_is(gsvckpt, tmp_path, before):
    """Training reads PK alone, inference tells a v2Pro base by 05 alone."""
    source = save(tmp_path / "x.pth", BASE, head=before.encode())
    assert gsvckpt.json("migrate", source).file["changed"] is False


@pytest.mark.parametrize(
    ("kind", "before", "wanted", "said"),
    [
        ("v2Pro", "05", "PK", "v2Pro"),
        ("v2Pro", "05", "06", "v2ProPlus"),
        ("v2Pro", "05", "07", "could not open"),
        ("v2ProPlus", "06", "PK", "v2ProPlus"),
        ("v3 LoRA", "03", "PK", "v3 LoRA"),
        ("v3 LoRA", "03", "04", "v4"),
        ("v4 LoRA", "04", "03", "v3"),
        ("v1", "PK", "05", "v2Pro"),
        ("v1", "PK", "03", "v3 LoRA"),
        ("GPT", "PK", "05", "cannot be read by any program"),
        ("v2Pro", "PK", "PK", ""),
    ],
)
def test_a_head_that_gpt_sovits_would_misread_is_refused_and_force_insists(gsvckpt, tmp_path, kind, before, wanted, said):
    source = save(tmp_path / "x.pth", TREES[kind], head=before.encode())
    if not said:  # it is so already, and a copy would be no better
        file = gsvckpt.json("migrate", source, "--head", wanted).file
        assert (file["changed"], file["output"]) == (False, None)
        run = gsvckpt("migrate", source, "--head", wanted, "-o", tmp_path / "out.pth")
        assert_one_error(run, source, 4)
        assert os.listdir(tmp_path) == ["x.pth"]
        return
    for more in ([], ["-n"], ["--in-place"], ["-o", tmp_path / "out.pth"]):
        run = gsvckpt("migrate", source, "--head", wanted, *more)
        assert_one_error(run, source, 4)
        assert said in run.err
        assert "--force" in run.err
        assert (os.listdir(tmp_path), head(source)) == (["x.pth"], before)
    output = Path(gsvckpt.json("migrate", source, "--head", wanted, "--force").file["output"])
    assert head(output) == wanted
    assert_same(load(output), load(source))


@pytest.mark.parametrize(
    ("kind", "before", "wanted"),
    [
        ("v2Pro", "PK", "05"),
        ("v2Pro", "06", "05"),
        ("v1", "PK", "00"),
        ("v3 LoRA", "PK", "03"),
        ("v4 LoRA", "04", "04"),
        ("state dict", "PK", "02"),
    ],
)
def test_a_head_that_is_asked_for_is_written(gsvckpt, tmp_path, kind, before, wanted):
    source = save(tmp_path / "x.pth", TREES[kind], head=before.encode())
    output = tmp_path / "out.pth"
    file = gsvckpt.json("migrate", source, "--head", wanted, "-o", output).file
    assert head(output) == wanted
    assert (file["changed"], len(file["changes"])) == (before != wanted, before != wanted)
    assert_same(load(output), load(source))
    assert_settled(gsvckpt, output, "--head", wanted)
    assert kind != "v1" or any("only today's inference reads this head" in warning for warning in file["warnings"])


@pytest.mark.parametrize("wanted", ["", "P", "pk", "PK ", "08", "0", "5", "005", "xx", "AUTO", "\uff10\uff15", "-1", "\x000"])
def test_what_is_no_head_is_a_usage_error(gsvckpt, tmp_path, wanted):
    source = save(tmp_path / "x.pth", TREES["v2Pro"], head=b"05")
    run = gsvckpt("migrate", source, "--head", wanted, "--force")
    assert_one_error(run, "--head", 2)
    assert "07" in run.err
    assert os.listdir(tmp_path) == ["x.pth"]


def test_safetensors_has_no_head(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", TREES["v2Pro"], head=b"05")
    assert_one_error(gsvckpt("migrate", source, "--to", "safetensors", "--head", "05"), source, 2)
    there = gsvckpt.json("migrate", source, "--to", "safetensors").file["output"]
    assert gsvckpt("migrate", there, "--to", "torch", "-o", tmp_path / "back.pth").code == 0
    assert head(tmp_path / "back.pth") == "05"


# --- sizes -----------------------------------------------------------------------------------------------------------------------------------------


def test_a_v2_voice_that_a_user_saved_again_is_v2_again(gsvckpt, folder):
    """A plain torch.save under a short name makes it smaller than v2 voices are."""
    plain = write(sovits_weights(Maker(), "alice", "v2", 8, 16), folder / "plain.pth", "v2")
    source = folder / "r.pth"
    with pretend_utils():
        torch.save(torch.load(plain, weights_only=False), source)
    assert detect(source).model == "v1"
    file = gsvckpt.json("migrate", source).file
    output = Path(file["output"])
    assert [change["step"] for change in file["changes"]] == ["size"]
    assert detect(output) == Detection("v2", "v2", is_lora=False)
    weight, expected = load_sovits(output)[0], load_sovits(plain)[0]
    assert all(torch.equal(weight[name].view(torch.int16), expected[name].view(torch.int16)) for name in expected)
    assert_settled(gsvckpt, output)
    assert zip_is_clean(output)


# --- several at once -------------------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_old_files_is_brought_to_today_in_one_run(gsvckpt, tmp_path):
    paths = [tmp_path / f"{name}.pth" for name in ("stream", "packed", "headless", "fine", "cut")]
    tree = TREES["v2Pro"]
    plain = torch_zip(tree, head=b"05")
    contents = (torch_stream(tree), deflated(plain), torch_zip(tree), plain, plain[: len(plain) // 2])
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    files = gsvckpt.json("migrate", *paths, exit_code=3).document["files"]
    assert [file.get("changed") for file in files] == [True, True, True, False, None]
    outputs = [Path(file["output"]) for file in files[:3]]
    assert [path.name for path in outputs] == ["stream.migrated.pth", "packed.migrated.pth", "headless.migrated.pth"]
    assert len({path.read_bytes() for path in outputs}) == 1
    assert not (tmp_path / "cut.migrated.pth").exists()


def test_everything_at_once(gsvckpt, tmp_path):
    """An old stream of somebody's GPU, with classes and private folders, comes out as today's plain file."""
    store = Store("float32", packed("float32", range(16)), "cuda:0")
    state = {**generator("v2Pro"), "dec.a": View(store, (4, 4), (4, 1)), "dec.b": View(store, (8,), (1,), 8)}
    config = hparams({"name": "alice", "model": hparams({"version": "v2Pro"}), "dir": Make(Name("pathlib", "PosixPath"), ("/", "home", "me", "x"))})
    source = tmp_path / "x.pth"
    source.write_bytes(torch_stream(OrderedDict(weight=state, config=config, info="8epoch_16iteration")))
    argv = ("--plain", "--scrub-paths", "--dtype", "float16")
    _, output = migrate(gsvckpt, source, *argv)
    root = torch.load(io.BytesIO(b"PK" + output.read_bytes()[2:]), weights_only=True)
    assert (head(output), root["config"]) == ("05", {"name": "voice", "model": {"version": "v2Pro"}, "dir": "x"})
    assert root["weight"]["dec.a"].untyped_storage().data_ptr() == root["weight"]["dec.b"].untyped_storage().data_ptr()
    assert torch.equal(root["weight"]["dec.b"], torch.arange(8, 16).half())
    assert zip_is_clean(output)
