"""torch's own words stand in the finding that explains them: for each kind of damage, what torch.load raises is compared with what verify quotes."""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile

import pytest
import torch

TREE = {"a": torch.arange(1000.0), "b": torch.ones(50)}


def saved(*, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(TREE, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def without(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.namelist():
            if not entry.endswith(name):
                new.writestr(entry, old.read(entry))
    return file.getvalue()


STREAM, ZIP = saved(zipped=False), saved()
# What people search for, and a file that makes torch say it.
FILES = {
    "failed finding central directory": [ZIP[: len(ZIP) * part // 10] for part in (1, 3, 6)],
    "unexpected EOF, expected": [STREAM[:-cut] for cut in (1, 100, 199, 300, 3_000)],
    "Invalid magic number; corrupt file?": [pickle.dumps(value, protocol) for value in (OSError("x"), {"a": pickle.Pickler}) for protocol in (2, 4)],
    "unpickling stack underflow": [head + ZIP[2:] for head in (b"05", b"03")],
    "failed locating file": [without("/data/0"), without("/data/1")],
    "invalid load key": [b"<!DOCTYPE html><html></html>", b'{"a": 1}', b"version https://git-lfs.github.com/spec/v1\n"],
    "Ran out of input": [b""],
    "filename 'storages' not found": [bytes(600)],
}


@pytest.mark.parametrize("words", FILES)
def test_what_people_search_for_stands_in_the_finding(gsvckpt, tmp_path, words):
    for number, data in enumerate(FILES[words]):
        path = tmp_path / f"x{number}.pth"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, its words are compared
                torch.load(path, weights_only=False)
        assert words in str(caught.value)
        (file,) = json.loads(gsvckpt("verify", path, "--json").out)["files"]
        said = [finding["why"] for finding in file["findings"] if words in finding["why"]]
        assert said, file["findings"]
        counted = re.search(r"expected (\d+) more bytes", said[0])
        assert counted is None or counted[0] in str(caught.value)


def test_a_shape_that_memory_does_not_hold(gsvckpt, tmp_path):
    torch.save({"w": torch.ones(1).expand(1 << 40)}, tmp_path / "x.pth")
    (finding,) = (one for one in gsvckpt.json("verify", tmp_path / "x.pth", exit_code=1).file["findings"] if one["check"] == "tensor.bounds")
    assert "OutOfMemoryError" in finding["why"]
