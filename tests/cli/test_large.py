"""What is large and honest opens in every command: the limits of `gsvckpt.files.budget` are far above it, and not only for the reader."""

from __future__ import annotations

import gc
import json
import random
import struct

import pytest
from support.builders import Raw, safetensors_raw, tensor, torch_entries, torch_stream, torch_zip, zipped

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import ChangedError
from gsvckpt.files.local import RestingSource

MANY = 100_000
WEIGHT = tensor("float32", (2,), (1, 2))
READING = (("inspect",), ("inspect", "--tensors"), ("inspect", "--globals"), ("inspect", "-r"), ("verify",), ("verify", "--quick"))


def name(number: int) -> str:
    return f"model.layers.{number // 10}.weight_{number % 10}"


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """As in the program itself, which is gone before garbage matters."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def many(folder):
    """100,000 tensors in each container."""
    tree = {name(n): tensor("float32", (2,), (n % 7, 1)) for n in range(MANY)}
    entries = {name(n): {"dtype": "F32", "shape": [2], "data_offsets": [8 * n, 8 * n + 8]} for n in range(MANY)}
    made = {"zip": zipped(torch_entries(tree), zip64=True), "stream": torch_stream(tree)}
    made["safetensors"] = safetensors_raw(json.dumps(entries).encode(), bytes(8 * MANY))
    for container, data in made.items():
        (folder / f"many-{container}").write_bytes(data)
    return {container: folder / f"many-{container}" for container in made}


@pytest.mark.parametrize("container", ["zip", "stream", "safetensors"])
def test_a_hundred_thousand_tensors_open(many, container):
    with open_checkpoint(many[container]) as checkpoint:
        assert len(checkpoint.root) == MANY


def test_a_hundred_thousand_tensors_are_converted_and_read_back(gsvckpt, many, folder):
    gsvckpt.json("migrate", many["safetensors"], "--to", "torch", "-o", folder / "many.pth")
    with open_checkpoint(folder / "many.pth") as checkpoint:
        assert len(checkpoint.root) == MANY


def batches(values: list[bytes]) -> bytes:
    """A list, or the pairs of a dict, as picklers flush them: a thousand at a time."""
    end = b"e" if len(values[0]) < 6 else b"u"
    return b"".join(b"(" + b"".join(values[at : at + 1000]) + end for at in range(0, len(values), 1000))


ORDER = list(range(2_000_000))
random.Random(1).shuffle(ORDER)


def every_command(gsvckpt, path, folder):
    """Run what reads and what writes."""
    for command, *options in READING:
        assert gsvckpt(command, *options, path).code == 0
    for number, words in enumerate((("convert-fp16",), ("strip-optimizer",), ("migrate", "--to", "safetensors"))):
        output = folder / f"{path.name}-{number}.{'safetensors' if number == 2 else 'ckpt'}"
        assert gsvckpt(*words, path, "-o", output).code == 0
        with open_checkpoint(output) as checkpoint:
            yield checkpoint.root


@pytest.mark.parametrize("flushed", [True, False], ids=["in batches", "at once"])
def test_two_million_integers_in_one_list(folder, flushed):
    codes = [b"J" + struct.pack("<i", n) for n in ORDER]
    order = Raw(b"]" + (batches(codes) if flushed else b"(" + b"".join(codes) + b"e"))
    path = folder / "sampler.ckpt"
    path.write_bytes(torch_zip({"state_dict": {"a": WEIGHT}, "sampler": order}))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.root["sampler"] == ORDER


def test_two_million_integers_are_written_and_read_back(gsvckpt, folder):
    path = folder / "order.ckpt"
    path.write_bytes(torch_zip({"state_dict": {"a": WEIGHT}, "sampler": Raw(b"]" + batches([b"J" + struct.pack("<i", n) for n in ORDER]))}))
    assert gsvckpt("inspect", path).code == 0
    assert gsvckpt("strip-optimizer", path, "-o", folder / "small.ckpt", "--force").code == 0
    with open_checkpoint(folder / "small.ckpt") as checkpoint:
        assert checkpoint.root["sampler"] == ORDER


@pytest.mark.parametrize("kind", ["texts", "ids", "lists"])
def test_three_hundred_thousand_names_in_every_command(gsvckpt, folder, kind):
    """Text keys as in a vocabulary; large integers and pairs of numbers, whose hashes a file could choose; and a list for each name."""
    make = {"texts": lambda n: f"word{n}", "ids": lambda n: (n, n + 1) if n % 2 else n * 7_919_000_003, "lists": lambda n: f"w{n}"}[kind]
    vocabulary = {make(n): [n] if kind == "lists" else n for n in range(300_000)}
    path = folder / f"{kind}.ckpt"
    path.write_bytes(torch_zip({"state_dict": {"a": WEIGHT}, "vocabulary": vocabulary}))
    if kind != "texts":
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.root["vocabulary"] == vocabulary
        return
    for root in every_command(gsvckpt, path, folder):
        assert root["vocabulary"] == vocabulary


def test_a_header_of_twenty_megabytes(folder, gsvckpt):
    names = [name(n).ljust(600, "x") for n in range(30_000)]
    entries = {text: {"dtype": "F32", "shape": [2], "data_offsets": [8 * n, 8 * n + 8]} for n, text in enumerate(names)}
    header = json.dumps(entries).encode()
    assert len(header) > 20_000_000
    path = folder / "long.safetensors"
    path.write_bytes(safetensors_raw(header, bytes(8 * len(names))))
    for command, *options in READING:
        assert gsvckpt(command, *options, path).code == 0
    assert gsvckpt("migrate", path, "--to", "torch", "-o", folder / "long.pth").code == 0
    with open_checkpoint(folder / "long.pth") as checkpoint:
        assert list(checkpoint.root) == names


def test_an_index_of_twenty_thousand_shards(gsvckpt, tmp_path):
    """More files than a process may have open."""
    weight_map = {}
    for number in range(20_000):
        data = struct.pack("<2f", number, 1)
        header = b'{"w%d":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' % number
        (tmp_path / f"s{number}.safetensors").write_bytes(safetensors_raw(header, data))
        weight_map[f"w{number}"] = f"s{number}.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert gsvckpt("inspect", index).code == 0
    assert gsvckpt("migrate", index, "--to", "torch", "-o", tmp_path / "out.pth").code == 0
    with open_checkpoint(tmp_path / "out.pth") as checkpoint:
        assert list(checkpoint.root) == list(weight_map)


def test_a_file_that_rests_is_the_one_that_was_opened(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345678")
    source, buffer = RestingSource(path), bytearray(4)
    source.read_into(2, memoryview(buffer))
    source.check_unchanged()
    assert (bytes(buffer), source.map()[:2]) == (b"3456", b"12")
    path.write_bytes(b"123")
    for look in (lambda: source.read_into(0, memoryview(buffer)), source.check_unchanged, source.map):
        with pytest.raises(ChangedError, match="changed while it was read"):
            look()
    path.unlink()
    with pytest.raises(ChangedError, match="disappeared"):
        source.check_unchanged()
