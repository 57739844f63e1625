"""Zips that other programs or hands made: what torch.load refuses is never sound, and `migrate` writes a file that it opens."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping

import pytest
import torch
from support.oracle import assert_same

import gsvckpt as api
from gsvckpt.errors import UnsupportedError

TREE = {"w": torch.arange(32.0).view(4, 8), "half": torch.ones(3).half(), "n": torch.arange(3)}
NAMES = ("data.pkl", ".format_version", ".storage_alignment", "byteorder", "data/0", "data/1", "data/2", "version", ".data/serialization_id")


def records() -> dict[str, bytes]:
    file = io.BytesIO()
    torch.save(TREE, file)
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def inside(folder: str, **changed: bytes | None) -> dict[str, bytes]:
    """The records in a folder, without those that are None."""
    known = records() | {name.replace("__", "."): text for name, text in changed.items()}
    return {f"{folder}/{name}": text for name, text in known.items() if text is not None}


def versioned(text: bytes) -> Callable[[], Mapping[str, bytes]]:
    return lambda: inside("a", version=text)


REFUSED: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "no version": lambda: inside("a", version=None),
    "records at the top": records,
    "a folder too deep": lambda: inside("x/a"),
    "under a dot": lambda: inside("./a"),
    "an absolute name": lambda: {f"/a/{name}": text for name, text in records().items()},
    "version 0": versioned(b"0"),
    "version 11": versioned(b"11\n"),
    "version 99": versioned(b"99"),
    "no number": versioned(b"three"),
    "an empty version": versioned(b""),
    "a negative version": versioned(b"-3"),
    "a version of 20 digits": versioned(b"99999999999999999999"),
    "another version that counts": lambda: {**inside("a"), "a/.data/version": b"99"},
    "the version in another folder": lambda: {**inside("a", version=None), "b/version": b"3\n"},
    "the version at the top": lambda: {**inside("a", version=None), "version": b"3\n"},
    "another file first": lambda: {"README.txt": b"hello", **inside("a")},
    "another file last": lambda: {**inside("a"), "README.txt": b"hello"},
    "another folder first": lambda: {"z/x": b"", **inside("a")},
    "another folder last": lambda: {**inside("a"), "z/x": b""},
    "macOS's folder": lambda: {**inside("a"), "__MACOSX/a/._data.pkl": b"\x00\x05\x16\x07"},
    "macOS's folder first": lambda: {"__MACOSX/a/._data.pkl": b"\x00\x05\x16\x07", **inside("a")},
    "folders that differ in case": lambda: {name.replace("a/data/", "A/data/"): text for name, text in inside("a").items()},
    "a folder name that is too long": lambda: inside("f" * 511),
    "backslashes": lambda: {name.replace("/", "\\"): text for name, text in inside("a").items()},
    "backslashes in the folder": lambda: {f"a/{name}".replace("data/", "data\\"): text for name, text in records().items()},
    "a byte order that is none": lambda: inside("a", byteorder=b"middle"),
    "a byte order with a line end": lambda: inside("a", byteorder=b"little\n"),
    "an alignment that is no number": lambda: inside("a", __storage_alignment=b"x"),
    "an empty alignment": lambda: inside("a", __storage_alignment=b""),
}
UNTOLD = ("a folder name that is too long", "backslashes in the folder", "no number", "an empty version", "a version of 20 digits")
TAKEN: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "as torch wrote it": lambda: inside("a"),
    "version 1": versioned(b"1\n"),
    "version 10": versioned(b"10"),
    "a version with more behind": versioned(b" 3x"),
    "the other version record": lambda: {**inside("a", version=b"99"), "a/.data/version": b"3"},
    "no byte order": lambda: inside("a", byteorder=None),
    "only what is needed": lambda: {name: text for name, text in inside("a").items() if not name.startswith("a/.")},
    "entries for folders": lambda: {"a/": b"", "a/data/": b"", **inside("a")},
    "an empty folder name": lambda: inside(""),
    "a folder name of 510 bytes": lambda: inside("f" * 510),
    "a Chinese folder name": lambda: inside("声音"),
    "upper case": lambda: {name.upper(): text for name, text in inside("a").items()},
    "another record in the folder": lambda: {**inside("a"), "a/notes\\x.txt": b"hello"},
    "a Python script in the folder": lambda: {**inside("a"), "a/code/x.py": b"pass"},
    "an odd alignment": lambda: inside("a", __storage_alignment=b" 6_3 "),
}


def write(path, entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, text in entries.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method  # ZipInfo itself would turn backslashes round
            archive.writestr(info, text)
    return path


def torch_opens(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = torch.load(path, weights_only=True)
        except Exception:  # noqa: BLE001 - whatever torch raises is a refusal
            return False
    assert_same(found, TREE)
    return True


def test_the_table_has_what_torch_writes_today():
    assert set(records()) == set(NAMES)


@pytest.mark.parametrize("name", TAKEN)
def test_what_torch_takes_is_sound(gsvckpt, tmp_path, name):
    path = write(tmp_path / "x.pth", TAKEN[name]())
    assert torch_opens(path)
    run = gsvckpt.json("verify", path)
    assert (run.file["status"], "container.torch" in run.file["checks"]["passed"]) == ("sound", True)
    assert not gsvckpt.json("inspect", path).file["warnings"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_never_sound_and_migrate_mends_it(gsvckpt, tmp_path, name):
    path = write(tmp_path / "x.pth", REFUSED[name]())
    assert not torch_opens(path)
    run = gsvckpt.json("verify", path, exit_code=1)
    (finding,) = (finding for finding in run.file["findings"] if finding["severity"] == "error")
    assert (finding["check"], finding["hint"]["command"]) == ("container.torch", f"gsvckpt migrate {path}")
    assert any("torch.load refuses it" in warning for warning in gsvckpt.json("inspect", path).file["warnings"])
    output = gsvckpt.json("migrate", path).file["output"]
    assert torch_opens(output)
    assert gsvckpt.json("verify", output).file["status"] == "sound"
    assert gsvckpt.json("migrate", output).file["output"] is None  # now there is nothing left to mend
    for command in ("convert-fp16", "strip-optimizer"):
        other = gsvckpt.json(command, path, "-o", tmp_path / f"{command}.pth").file["output"]
        assert torch.load(other).keys() == TREE.keys()
    assert_same(dict(api.load_state_dict(path)), TREE)


@pytest.mark.parametrize("name", ["as torch wrote it", "a folder too deep", "macOS's folder first", "backslashes", "no version"])
def test_archivers_compress_and_migrate_mends_that_too(gsvckpt, tmp_path, name):
    path = write(tmp_path / "x.pth", (TAKEN | REFUSED)[name](), zipfile.ZIP_DEFLATED)
    run = gsvckpt.json("verify", path, exit_code=3)
    assert run.file["status"] == "unchecked"
    (finding,) = run.file["findings"]
    assert (finding["check"], finding["hint"]["command"]) == ("container.compressed", f"gsvckpt migrate {path}")
    assert torch_opens(gsvckpt.json("migrate", path).file["output"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["alice-e10.ckpt"], "a checkpoint is inside: alice-e10.ckpt"),
        (["voices/a.pth", "voices/b.pth", "readme.txt"], "2 checkpoints are inside, the first voices/a.pth"),
        (["__MACOSX/._a.pth", "a.safetensors", "._b.pth"], "a checkpoint is inside: a.safetensors"),
    ],
)
def test_a_zip_with_checkpoints_inside_is_told(gsvckpt, tmp_path, names, said):
    path = write(tmp_path / "x.pth", dict.fromkeys(names, b"hello"))
    run = gsvckpt("inspect", path)
    assert (run.code, f"this is a zip archive of files, not a checkpoint; {said}" in run.err) == (3, True)
    assert said in " ".join(gsvckpt("verify", path).out.split())


def test_a_script_for_torchscript_is_still_no_checkpoint(gsvckpt, tmp_path):
    path = write(tmp_path / "x.pt", {**inside("a"), "a/constants.pkl": b"\x80\x02)."})
    assert "TorchScript" in gsvckpt("inspect", path).err


# --- numbers of a big-endian machine -------------------------------------------------------------------------------------------------------------

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128")


def turned(tensor):
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    raw = tensor.contiguous().view(torch.uint8).flatten() if tensor.dtype is not torch.bool else tensor.view(torch.uint8).flatten()
    return raw.view(-1, width).flip(1).contiguous().numpy().tobytes()


@pytest.fixture
def big(tmp_path):
    """The same state dict as two machines write it."""
    values = torch.randn(600, 5, generator=torch.Generator().manual_seed(1)) * 50
    tree = {name: values.to(getattr(torch, name)) for name in DTYPES} | {"empty": torch.zeros(0, 3), "view": values.half()[::7, 1:]}
    torch.save(tree, tmp_path / "little.pth")
    keys = {str(number): tensor for number, tensor in enumerate(tree.values())}
    base = tree["view"]._base
    assert base is not None
    with zipfile.ZipFile(tmp_path / "little.pth") as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        for name in old.namelist():
            key = name.rpartition("/data/")[2]
            told = (
                b"big" if name.endswith("/byteorder") else turned(base if keys[key] is tree["view"] else keys[key]) if key in keys else old.read(name)
            )
            new.writestr(name, told)
    assert_same(torch.load(tmp_path / "big.pth"), tree)  # torch itself turns them round
    return tmp_path / "big.pth", tmp_path / "little.pth", tree


def test_big_endian_numbers_are_read_as_torch_reads_them(gsvckpt, big):
    path, little, tree = big
    assert gsvckpt("inspect", path, "--diff", little).code == 0
    assert gsvckpt.json("verify", path, "--against", little).file["status"] == "sound"
    one, two = (gsvckpt.json("inspect", file, "--stats").file["state"] for file in (path, little))
    assert one == two
    one, two = (gsvckpt.json("verify", file).file for file in (path, little))
    assert (one["status"], one["digests"]["content"]) == ("sound", two["digests"]["content"])
    assert_same(dict(api.load_state_dict(path)), tree)


def test_what_is_made_of_big_endian_numbers_is_little_endian(gsvckpt, big):
    path, little, tree = big
    output = gsvckpt.json("migrate", path).file["output"]
    assert_same(torch.load(output), tree)
    with zipfile.ZipFile(output) as archive:
        assert archive.read("archive/byteorder") == b"little"
    assert gsvckpt.json("migrate", output).file["output"] is None
    halves = [gsvckpt.json("convert-fp16", file, "-o", file.with_suffix(".half.pth")).file["output"] for file in (path, little)]
    assert_same(*map(torch.load, halves))
    safe = gsvckpt.json("migrate", path, "--to", "safetensors", "--exclude", "complex128").file["output"]
    back = gsvckpt.json("migrate", safe, "--to", "torch", "-o", path.with_name("back.pth")).file["output"]
    found = torch.load(back)
    assert list(found) == [name for name in tree if name != "complex128"]
    assert all(torch.equal(tensor, tree[name]) and tensor.stride() == tree[name].stride() for name, tensor in found.items())


def test_a_big_endian_file_is_not_mapped(big):
    with api.open(big[0]) as checkpoint:
        with pytest.raises(UnsupportedError, match="big-endian"):
            checkpoint.numpy("float32")
        assert torch.equal(checkpoint.torch("float32"), big[2]["float32"])


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("an alignment that is no number", "an empty alignment")])
def test_torchs_own_words_stand_in_the_finding(gsvckpt, tmp_path, name):
    path = write(tmp_path / "x.pth", REFUSED[name]())
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, its words are compared
        torch.load(path, weights_only=True)
    (finding,) = (finding for finding in gsvckpt.json("verify", path, exit_code=1).file["findings"] if finding["severity"] == "error")
    words = finding["why"].partition("(torch: ")[2].rpartition(")")[0]
    assert (words in str(caught.value)) if words else name in UNTOLD
