"""What a review broke: files that ended in the wrong place, words of users that were lost, honest files that were accused."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomli as tomllib
import torch
from support.builders import tensor, torch_zip
from support.verified import remarkable, verify

from .samples import assert_one_error, generator, gpt, s1_training, s2_training, save
from .test_verify_copies import flip, folder, tree  # noqa: F401 - a fixture


def test_a_named_manifest_is_for_one_folder(gsvckpt, tmp_path):
    for number, name in enumerate(("x", "y")):
        save(tmp_path / "w" / name / "G_1.pth", tree(number))
        gsvckpt("verify", tmp_path / "w" / name, "--record", "--backup", tmp_path / "b")
    good = (tmp_path / "w" / "y" / "G_1.pth").read_bytes()
    (tmp_path / "w" / "y" / "G_1.pth").write_bytes(good[:-9])
    manifest = tmp_path / "w" / "x" / "gsvckpt.toml"
    run = gsvckpt("verify", tmp_path / "w" / "x", tmp_path / "w" / "y", "--manifest", manifest, "--restore-from", tmp_path / "b")
    assert run.code == 2
    run = gsvckpt("verify", tmp_path / "w", "-r", "--manifest", manifest, "--restore-from", tmp_path / "b")
    assert (tmp_path / "w" / "y" / "G_1.pth").read_bytes() == good[:-9]
    assert gsvckpt("verify", tmp_path / "w" / "y", "--restore-from", tmp_path / "b").code == 0
    assert (tmp_path / "w" / "y" / "G_1.pth").read_bytes() == good


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_restoring_through_a_link(gsvckpt, folder, tmp_path):  # noqa: F811
    (folder / "G_0.pth").rename(tmp_path / "real.bin")
    (folder / "G_0.pth").symlink_to(tmp_path / "real.bin")
    gsvckpt("verify", folder, "--record", "--backup", tmp_path / "b")
    good = (tmp_path / "real.bin").read_bytes()
    (tmp_path / "real.bin").write_bytes(good[:-5])
    assert gsvckpt("verify", folder, "--restore-from", tmp_path / "b").code == 0
    assert (folder / "G_0.pth").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == good
    assert (tmp_path / "real.bin.damaged").read_bytes() == good[:-5]


def test_verdicts_on_folders_and_lists_are_no_files(gsvckpt, tmp_path):
    run = tmp_path / "logs" / "alice" / "logs_s2_v3_lora_32"
    save(run / "G_10.pth", {**s2_training(gpt(dtype="float32")), "optimizer": None})
    done = gsvckpt("verify", run, "--resume", "--record", "--backup", tmp_path / "b")
    assert "Traceback" not in done.err
    assert set(tomllib.loads((run / "gsvckpt.toml").read_text())["files"]) == {"G_10.pth"}
    assert not (run.parent / "gsvckpt.toml").exists()
    (tmp_path / "SUMS").write_text(f"nonsense\n{'0' * 64}  none.pth\n")
    gsvckpt("verify", run / "G_10.pth", "--checksums", tmp_path / "SUMS", "--record", "--backup", tmp_path / "b")
    assert not (tmp_path / "gsvckpt.toml").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_name_that_is_no_unicode_costs_only_itself(gsvckpt, folder, tmp_path):  # noqa: F811
    shutil.copy(folder / "G_0.pth", os.fsencode(folder) + b"/a\xff.pth")
    run = gsvckpt("verify", folder, "--record", "--backup", tmp_path / "b")
    assert run.code == 5
    assert "not valid Unicode" in run.err
    assert set(tomllib.loads((folder / "gsvckpt.toml").read_text())["files"]) == {"G_0.pth", "G_1.pth", "G_2.pth"}


def test_comments_and_tables_of_the_user_stay_wherever_they_stand(gsvckpt, folder):  # noqa: F811
    (folder / "gsvckpt.toml").write_text("# mine\n[prune]\nkeep-last = 3 # three\n")
    gsvckpt("verify", folder, "--record")
    assert (folder / "gsvckpt.toml").read_text().startswith("# mine\n[prune]\nkeep-last = 3 # three\n")
    with (folder / "gsvckpt.toml").open("a") as file:
        file.write("\n# added at the end\n[policy] # here\nx = 1\n")
    for _ in range(2):
        gsvckpt("verify", folder, "--record")
        text = (folder / "gsvckpt.toml").read_text()
        assert all(text.count(own) == 1 for own in ("# mine", "# three", "# added at the end", "[policy] # here"))
        document = tomllib.loads(text)
        assert (document["prune"], document["policy"], len(document["files"])) == ({"keep-last": 3}, {"x": 1}, 3)


def test_a_checksum_file_never_takes_the_place_of_a_checkpoint(gsvckpt, folder):  # noqa: F811
    before = (folder / "G_0.pth").read_bytes()
    assert gsvckpt("verify", folder, "--write-checksums", folder / "G_0.pth", "--force").code == 4
    assert (folder / "G_0.pth").read_bytes() == before


def test_record_goes_with_its_own_manifest(gsvckpt, folder, tmp_path):  # noqa: F811
    gsvckpt("verify", folder, "--record")
    shutil.copy(folder / "gsvckpt.toml", tmp_path / "ref.toml")
    assert gsvckpt("verify", folder, "--manifest", tmp_path / "ref.toml", "--record", "--forget").code == 2


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_recorded_file_that_became_something_else_is_missing(gsvckpt, folder):  # noqa: F811
    gsvckpt("verify", folder, "--record")
    (folder / "G_0.pth").unlink()
    (folder / "G_0.pth").symlink_to("/nonexistent/x")
    (folder / "G_1.pth").unlink()
    (folder / "G_1.pth").mkdir()
    run = gsvckpt.json("verify", folder, exit_code=1)
    assert [f["check"] for file in run.document["files"] for f in file["findings"] if f["severity"] == "error"] == ["manifest.missing"] * 2


def test_checksums_are_never_left_aside(gsvckpt, folder):  # noqa: F811
    (folder / "SUMS").write_text(f"{'0' * 64}  G_0.pth\n")
    for options in (("--quick",), ("--checks", "pickle.safety")):
        assert gsvckpt("verify", folder / "G_0.pth", "--checksums", folder / "SUMS", *options).code == 2
    (folder / "config.json").write_text("{}")
    (folder / "SUMS").write_text(f"{'0' * 64}  config.json\n")
    run = gsvckpt.json("verify", folder, "--checksums", folder / "SUMS", exit_code=1)
    assert [f["check"] for f in run.document["files"][-1]["findings"]] == ["checksum.mismatch"]
    import hashlib

    (folder / "SUMS").write_text(f"{hashlib.sha256(b'{}').hexdigest()}  config.json\n")
    run = gsvckpt.json("verify", folder, "--checksums", folder / "SUMS", exit_code=3)  # it is what the list says, and nobody looked into it
    assert [f["check"] for f in run.document["files"][-1]["findings"]] == ["container.unsupported", "checksum.match"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any characters")
def test_lists_are_cut_at_line_ends_only(gsvckpt, tmp_path):
    for name in ("a\x0bb.pth", "c\u2028d.pth", "e\rf.pth"):
        save(tmp_path / name, tree(1))
    assert gsvckpt("verify", tmp_path, "--write-checksums", tmp_path / "SUMS").code == 0
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SUMS"], cwd=tmp_path, check=True)
    assert gsvckpt("verify", tmp_path, "--checksums", tmp_path / "SUMS", "--fail-on", "warning").code == 0


def test_a_device_that_is_not_there_is_a_usage_error(gsvckpt, folder):  # noqa: F811
    if torch.cuda.is_available():
        pytest.skip("it is there")
    assert gsvckpt("verify", folder, "--device", "cuda:9").code == 2


def test_after_restoring_the_folder_is_sound(gsvckpt, folder, tmp_path):  # noqa: F811
    gsvckpt("verify", folder, "--record", "--backup", tmp_path / "b")
    flip(folder / "G_0.pth")
    for _ in range(3):
        assert gsvckpt("verify", folder, "--restore-from", tmp_path / "b").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["G_0.pth", "G_0.pth.damaged", "G_1.pth", "G_2.pth", "gsvckpt.toml"]


def test_one_broken_manifest_does_not_stop_the_rest(gsvckpt, tmp_path):
    save(tmp_path / "a" / "x.pth", tree(1))
    save(tmp_path / "b" / "y.pth", tree(2))
    (tmp_path / "a" / "gsvckpt.toml").write_text("[files\n")
    run = gsvckpt.json("verify", tmp_path, "-r", exit_code=3)
    assert [file.get("status") for file in run.document["files"]] == ["sound", "sound", None]


def test_failures_without_a_file_are_in_every_format(gsvckpt, tmp_path):
    assert "<error" in gsvckpt("verify", tmp_path, "--format", "junit").out
    run = json.loads(gsvckpt("verify", tmp_path, "--format", "sarif").out)["runs"][0]
    assert not run["invocations"][0]["executionSuccessful"]
    assert run["invocations"][0]["toolExecutionNotifications"]


def test_a_named_recorded_missing_file_is_a_missing_input(gsvckpt, folder, tmp_path):  # noqa: F811
    gsvckpt("verify", folder, "--record", "--backup", tmp_path / "b")
    (folder / "G_0.pth").unlink()
    assert_one_error(gsvckpt("verify", folder / "G_0.pth"), folder / "G_0.pth", 3)
    assert gsvckpt("verify", folder / "G_0.pth", "--restore-from", tmp_path / "b").code == 0
    assert (folder / "G_0.pth").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
def test_a_hint_cannot_be_made_to_run_something_else(gsvckpt, tmp_path):
    name = "it's $(touch pwned) `touch pwned`.pth"
    save(tmp_path / name, s2_training(generator("v2", enc_q=True)), head=b"05")
    run = gsvckpt.json("verify", tmp_path / name, "--layout", "none", exit_code=1)
    hint = next(f["hint"]["command"] for f in run.file["findings"] if f["check"] == "container.head")
    program = f"{shlex.quote(sys.executable)} -m gsvckpt"
    subprocess.run(hint.replace("gsvckpt", program, 1), shell=True, check=True, cwd=tmp_path)  # noqa: S602 - what a user would do
    assert not (tmp_path / "pwned").exists()
    assert (tmp_path / name).read_bytes()[:2] == b"PK"


@pytest.mark.parametrize("checks", ["against", "checksum", "resume", "", ","])
def test_checks_that_have_nothing_to_look_at_are_no_verdict(gsvckpt, folder, checks):  # noqa: F811
    assert gsvckpt("verify", folder, f"--checks={checks}").code == 2
    assert gsvckpt("verify", folder, "--checks", "manifest").code == 3


def test_one_file_is_one_file_however_it_is_named(gsvckpt, folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    paths = ("logs/G_0.pth", "./logs/G_0.pth", "logs/../logs/G_0.pth", folder / "G_0.pth", "link/G_0.pth", "logs", "./logs", "link")
    assert len(gsvckpt.json("verify", *paths).document["files"]) == 3


def test_what_is_not_recorded_is_said(gsvckpt, tmp_path):
    save(tmp_path / "x.pth", {"a": tensor("float32", (2,), [float("nan"), 1.0])})
    assert "not recorded and not copied, as it has errors" in gsvckpt("verify", tmp_path / "x.pth", "--record", "--backup", tmp_path / "b").out


def test_hints_name_the_file(gsvckpt, folder):  # noqa: F811
    gsvckpt("verify", folder, "--record")
    path = save(folder / "G_0.pth", {**tree(0), "dec.v": tensor("float32", (2,))})
    flip(path)
    (finding,) = [f for f in gsvckpt.json("verify", path, exit_code=1).file["findings"] if f["check"] == "record.crc"]
    assert finding["hint"]["command"] == f"gsvckpt migrate {path} --salvage"


# --- honest files ------------------------------------------------------------------------------------------------------------------------------


def test_a_callback_may_hold_infinity(tmp_path: Path) -> None:
    training = s1_training(gpt(dtype="float32"))
    training["callbacks"] = {"EarlyStopping": {"best_score": tensor("float32", (), [float("inf")])}}
    result = verify(tmp_path / "epoch=1-step=12.ckpt", torch_zip(training))
    assert "tensor.finite" not in {finding.check for finding in remarkable(result)}


def test_a_mask_of_another_model_may_be_infinite(tmp_path: Path) -> None:
    torch.save({"attn.mask": torch.full((4, 4), float("-inf")).triu(1), "attn.w": torch.ones(2)}, tmp_path / "x.pth")
    assert verify(tmp_path / "x.pth").status == "suspect"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_old_files_of_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    torch.save({"w": torch.arange(4.0), "n": 3}, tmp_path / "x.pth", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert remarkable(verify(tmp_path / "x.pth")) == []


def test_a_note_added_by_another_program(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({f"w{n}": torch.ones(3) for n in range(5)}, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/note.txt", "hello")
    assert remarkable(verify(tmp_path / "x.pth", buffer.getvalue())) == []


def test_large_views_are_read_in_any_order(tmp_path: Path) -> None:
    """Column by column this would be millions of reads."""
    torch.save({"a": torch.randn(3000, 1000).t(), "b": torch.randn(4, 16, 60, 60).to(memory_format=torch.channels_last)}, tmp_path / "x.pth")
    plain = {name: value.contiguous() for name, value in torch.load(tmp_path / "x.pth").items()}
    torch.save(plain, tmp_path / "y.pth")
    assert verify(tmp_path / "x.pth").digests["content"] == verify(tmp_path / "y.pth").digests["content"]
