"""Recording, copying and bringing back, as a user does it over months."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import tomli as tomllib
import xxhash
from support.builders import tensor, torch_zip

from .samples import assert_one_error, leftovers, numbers, save


def tree(value: float):
    return {"dec.w": tensor("float32", (500,), [value] * 499 + [2.0])}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "logs").mkdir()
    for number in range(3):
        (tmp_path / "logs" / f"G_{number}.pth").write_bytes(torch_zip(tree(number)))
    return tmp_path / "logs"


def flip(path, *, keep_time=True):
    """One bit of a tensor rots; size and time stay."""
    facts = path.stat()
    data = bytearray(path.read_bytes())
    data[data.find(b"\x00\x00\x00\x40", 400)] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))


def checks(run):
    return {file["path"].rsplit(os.sep, 1)[-1]: [f["check"] for f in file["findings"] if f["severity"] != "info"] for file in run.document["files"]}


def test_a_manifest_that_gpt_sovits_will_remove_is_warned_of(gsvckpt, tmp_path):
    """It removes everything in a GPT run's `ckpt` when it saves next; in other folders nothing."""
    runs = [tmp_path / "logs" / "我的声音" / name for name in ("logs_s1_v2/ckpt", "logs_s2_v2", "ckpt")]
    for run in runs:
        run.mkdir(parents=True)
        for name in ("a.ckpt", "b.ckpt"):
            (run / name).write_bytes(torch_zip(tree(1.0)))
    document = gsvckpt.json("verify", tmp_path, "-r", "--record").document
    assert [warning["path"] for warning in document["warnings"]] == [str(runs[0] / "gsvckpt.toml")]
    said = gsvckpt("verify", tmp_path, "-r", "--record").err
    assert (said.count("warning"), "--backup" in said, str(runs[0]) in said) == (1, True, True)
    assert "warnings" not in gsvckpt.json("verify", tmp_path, "-r", "--backup", tmp_path / "copies").document
    assert all((run / "gsvckpt.toml").is_file() for run in runs)


def test_record_and_compare(gsvckpt, folder):
    run = gsvckpt.json("verify", folder, "--record", "--per-tensor")
    assert all(file["recorded"] == str(folder / "gsvckpt.toml") for file in run.document["files"])
    table = tomllib.loads((folder / "gsvckpt.toml").read_text())["files"]
    assert set(table) == {"G_0.pth", "G_1.pth", "G_2.pth"}
    entry = table["G_1.pth"]
    assert entry["xxh3_128"] == xxhash.xxh3_128_hexdigest((folder / "G_1.pth").read_bytes())
    assert {"size", "mtime_ns", "kind", "sha256", "md5", "content", "tensors"} <= set(entry)
    assert checks(gsvckpt.json("verify", folder)) == {"G_0.pth": [], "G_1.pth": [], "G_2.pth": []}

    flip(folder / "G_0.pth")
    (folder / "G_1.pth").write_bytes(torch_zip(tree(9)))
    (folder / "G_2.pth").unlink()
    (folder / "G_3.pth").write_bytes(torch_zip(tree(3)))
    run = gsvckpt.json("verify", folder, exit_code=1)
    assert checks(run) == {
        "G_0.pth": ["record.crc", "manifest.bit-rot"],
        "G_1.pth": ["manifest.changed"],
        "G_2.pth": ["manifest.missing"],
        "G_3.pth": [],
    }
    assert "manifest.new" in str(run.document)
    rot = next(f for file in run.document["files"] for f in file["findings"] if f["check"] == "manifest.bit-rot")
    assert "dec.w" in rot["why"]

    run = gsvckpt.json("verify", folder, "--record", exit_code=1)  # what rotted is not recorded over what was good
    table = tomllib.loads((folder / "gsvckpt.toml").read_text())["files"]
    assert table["G_0.pth"] == {**entry, **table["G_0.pth"]} or table["G_0.pth"]["xxh3_128"] != xxhash.xxh3_128_hexdigest(
        (folder / "G_0.pth").read_bytes()
    )
    assert table["G_1.pth"]["xxh3_128"] == xxhash.xxh3_128_hexdigest((folder / "G_1.pth").read_bytes())
    assert set(table) == {"G_0.pth", "G_1.pth", "G_2.pth", "G_3.pth"}
    gsvckpt("verify", folder, "--record", "--forget")
    assert set(tomllib.loads((folder / "gsvckpt.toml").read_text())["files"]) == {"G_0.pth", "G_1.pth", "G_3.pth"}


def test_quick_believes_size_and_time(gsvckpt, folder):
    gsvckpt("verify", folder, "--record")
    flip(folder / "G_0.pth")
    assert gsvckpt("verify", folder, "--quick", "--fail-on", "warning").code == 0
    os.utime(folder / "G_1.pth")
    assert checks(gsvckpt.json("verify", folder, "--quick"))["G_1.pth"] == ["manifest.changed"]
    assert gsvckpt("verify", folder).code == 1


def test_a_training_script_records_one_file_after_each_save(gsvckpt, folder):
    for number in range(3):
        assert gsvckpt("verify", folder / f"G_{number}.pth", "--record", "-q").code == 0
    assert set(tomllib.loads((folder / "gsvckpt.toml").read_text())["files"]) == {"G_0.pth", "G_1.pth", "G_2.pth"}


def test_a_manifest_that_makes_no_sense(gsvckpt, folder):
    (folder / "gsvckpt.toml").write_text("[files\n")
    assert_one_error(gsvckpt("verify", folder), folder / "gsvckpt.toml", 3)
    assert_one_error(gsvckpt("verify", folder, "--manifest", folder / "none.toml"), folder / "none.toml", 3)


def test_a_folder_that_takes_no_manifest(gsvckpt, folder, monkeypatch):
    from gsvckpt.commands.verify import manifest
    from gsvckpt.errors import OutputError

    def refuse(*_args, **_options):
        raise OutputError("cannot be written: read-only file system", path=str(folder / "gsvckpt.toml"))

    monkeypatch.setattr(manifest, "publish_bytes", refuse)
    assert gsvckpt("verify", folder, "--record").code == 5
    assert sorted(os.listdir(folder)) == ["G_0.pth", "G_1.pth", "G_2.pth"]


def test_backup_and_restore(gsvckpt, folder, tmp_path):
    copies = tmp_path / "copies"
    run = gsvckpt.json("verify", folder, "--record", "--backup", copies)
    assert [file["backup"]["made"] for file in run.document["files"]] == [True] * 3
    assert sorted(os.listdir(copies / "logs")) == ["G_0.pth", "G_1.pth", "G_2.pth", "gsvckpt.toml"]
    run = gsvckpt.json("verify", folder, "--backup", copies)
    assert [file["backup"]["made"] for file in run.document["files"]] == [False] * 3

    good = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    flip(folder / "G_0.pth")
    damaged = (folder / "G_0.pth").read_bytes()
    (folder / "G_1.pth").write_bytes(good["G_1.pth"][:-7])
    (folder / "G_2.pth").unlink()
    run = gsvckpt.json("verify", folder, "--backup", copies, exit_code=1)  # damaged files are never copied
    assert not any("backup" in file for file in run.document["files"])

    run = gsvckpt.json("verify", folder, "--restore-from", copies)
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth")} == good
    assert (folder / "G_0.pth.damaged").read_bytes() == damaged
    assert (folder / "G_1.pth.damaged").read_bytes() == good["G_1.pth"][:-7]
    assert [file["status"] for file in run.document["files"]] == ["sound"] * 3
    assert gsvckpt("verify", folder).code == 0
    assert leftovers(tmp_path) == []


def test_restoring_a_whole_folder_that_is_gone(gsvckpt, folder, tmp_path):
    gsvckpt("verify", folder, "--record", "--backup", tmp_path / "copies")
    manifest = (folder / "gsvckpt.toml").read_text()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "gsvckpt.toml").write_text(manifest)
    run = gsvckpt("verify", folder, "--restore-from", tmp_path / "copies")
    assert run.code == 0, run
    assert sorted(path.name for path in folder.glob("*.pth")) == ["G_0.pth", "G_1.pth", "G_2.pth"]


def test_restoring_without_a_manifest_or_a_copy_says_so(gsvckpt, folder, tmp_path):
    (tmp_path / "copies").mkdir()
    good = (folder / "G_0.pth").read_bytes()
    flip(folder / "G_0.pth")
    run = gsvckpt("verify", folder, "--restore-from", tmp_path / "copies")
    assert run.code == 5
    assert "is in no manifest" in run.err
    assert gsvckpt("verify", folder, "--restore-from", tmp_path / "none").code == 2
    shutil.copy(folder / "G_0.pth", tmp_path / "copies" / "G_0.pth")  # a copy as damaged as the file
    (folder / "G_0.pth").write_bytes(good)
    gsvckpt("verify", folder, "--record")
    shutil.copy(tmp_path / "copies" / "G_0.pth", folder / "G_0.pth")
    before = sorted(os.listdir(folder))
    run = gsvckpt("verify", folder, "--restore-from", tmp_path / "copies")
    assert run.code == 3
    assert "no copy of it with the recorded digest" in run.err
    assert sorted(os.listdir(folder)) == before


def test_equal_names_from_several_folders(gsvckpt, tmp_path):
    for number, name in enumerate(("alice", "bob")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "G_1.pth").write_bytes(torch_zip(tree(number)))
    assert gsvckpt("verify", tmp_path / "alice" / "G_1.pth", tmp_path / "bob" / "G_1.pth", "--backup", tmp_path / "b").code == 0
    kept = {path.read_bytes() for path in (tmp_path / "b").glob("*.pth")}
    assert kept == {(tmp_path / name / "G_1.pth").read_bytes() for name in ("alice", "bob")}


@pytest.mark.parametrize(("name", "tool"), [("SHA256SUMS", "sha256sum"), ("x.md5", "md5sum")])
def test_checksums_there_and_back(gsvckpt, folder, name, tool):
    assert gsvckpt("verify", folder, "--write-checksums", folder / name).code == 0
    subprocess.run([tool, "-c", "--quiet", name], cwd=folder, check=True)
    assert gsvckpt("verify", folder, "--checksums", folder / name).code == 0
    (folder / "G_0.pth").write_bytes(torch_zip(tree(7)))
    (folder / "G_1.pth").unlink()
    (folder / "G_9.pth").write_bytes(torch_zip(tree(9)))
    run = gsvckpt.json("verify", folder, "--checksums", folder / name, exit_code=1)
    assert checks(run) == {"G_0.pth": ["checksum.mismatch"], "G_1.pth": ["checksum.missing"], "G_2.pth": [], "G_9.pth": ["checksum.unlisted"]}
    before = (folder / name).read_bytes()
    assert gsvckpt("verify", folder, "--write-checksums", folder / name).code == 4
    assert (folder / name).read_bytes() == before
    assert gsvckpt("verify", folder, "--write-checksums", folder / name, "--force").code == 0


def test_a_damaged_file_is_in_no_list(gsvckpt, folder):
    flip(folder / "G_0.pth")
    assert gsvckpt("verify", folder, "--write-checksums", folder / "SUMS").code == 1
    assert (folder / "SUMS").read_text().count(".pth") == 2


def test_official_files_are_known_by_their_digest(gsvckpt, tmp_path, monkeypatch):
    """With a list of our own, as the real files are too large to keep here."""
    import hashlib

    from gsvckpt.sovits import official

    model, text = torch_zip(tree(1)), b'{"model_type": "hubert"}'
    listed = (
        official.OfficialFile("s1v3.ckpt", len(model), hashlib.sha256(model).hexdigest(), 10),
        official.OfficialFile("chinese-hubert-base/config.json", len(text), hashlib.sha256(text).hexdigest(), 4),
    )
    monkeypatch.setattr(official, "OFFICIAL", listed)
    monkeypatch.setattr(official, "_by_basename", official._by_basename.__wrapped__)  # which remembers the real list
    (tmp_path / "chinese-hubert-base").mkdir()
    (tmp_path / "s1v3.ckpt").write_bytes(model)
    (tmp_path / "chinese-hubert-base" / "config.json").write_bytes(text)
    (tmp_path / "config.json").write_bytes(b"{}")
    run = gsvckpt.json("verify", tmp_path, "-r")
    assert [file["official"] for file in run.document["files"]] == ["s1v3.ckpt", "chinese-hubert-base/config.json"]
    (tmp_path / "chinese-hubert-base" / "config.json").write_bytes(text[:-1])
    run = gsvckpt.json("verify", tmp_path, "-r", exit_code=1)
    assert checks(run)["config.json"] == ["official.digest"]


# --- a copy is another file, in another folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backup", [".", "logs", "logs/../logs", "link"])
def test_a_file_is_no_copy_of_itself(gsvckpt, tmp_path, monkeypatch, backup):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    save(tmp_path / "logs" / "x.pth", {"w": numbers((3,))})
    (tmp_path / "link").symlink_to("logs")
    monkeypatch.chdir(tmp_path / "logs" if backup == "." else tmp_path)
    for source in (["."], ["x.pth"]) if backup == "." else (["logs"], ["logs/x.pth"], ["logs", "-r"]):
        for _ in range(2):
            run = gsvckpt("verify", *source, "--backup", backup)
            assert (run.code, "where a copy would be lost with it" in run.err) == (2, True)
            gsvckpt("verify", *source, "--record")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["gsvckpt.toml", "x.pth"]


def test_a_folder_above_takes_a_copy_of_its_own(gsvckpt, tmp_path):
    source = tmp_path / "logs" / "alice" / "x.pth"
    source.parent.mkdir(parents=True)
    save(source, {"w": numbers((3,))})
    gsvckpt("verify", source.parent, "--record")
    for word in ("1 copied", "1 had a copy"):
        run = gsvckpt("verify", tmp_path / "logs" / "alice", "--backup", tmp_path)
        assert (run.code, word in run.out) == (0, True)
    assert not (tmp_path / "alice" / "x.pth").samefile(source)


@pytest.mark.parametrize("kind", ["hard link", "symbolic link"])
def test_a_link_in_the_folder_of_copies_is_no_copy(gsvckpt, tmp_path, kind):
    source = tmp_path / "logs" / "x.pth"
    source.parent.mkdir()
    save(source, {"w": numbers((3,))})
    (tmp_path / "backup").mkdir()
    link = tmp_path / "backup" / "logs" / "x.pth"
    link.parent.mkdir()
    if kind == "hard link":
        os.link(source, link)
    else:
        link.symlink_to(source)
    gsvckpt("verify", link.parent, "--record")
    run = gsvckpt("verify", source.parent, "--backup", tmp_path / "backup")
    assert (run.code, "1 copied" in run.out) == (0, True)
    (copy,) = (path for path in link.parent.glob("*.pth") if not path.samefile(source))
    assert copy.read_bytes() == source.read_bytes()
    assert "1 had a copy" in gsvckpt("verify", source.parent, "--backup", tmp_path / "backup").out


def test_copies_inside_the_verified_folder_are_not_copied_again(gsvckpt, tmp_path):
    save(tmp_path / "x.pth", {"w": numbers((3,))})
    for _ in range(3):
        assert gsvckpt("verify", tmp_path, "-r", "--backup", tmp_path / "backup").code == 0
    assert list((tmp_path / "backup").rglob("*.pth")) == [tmp_path / "backup" / tmp_path.name / "x.pth"]
