"""verify on the command line: exit codes, JSON, what is printed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.builders import tensor, torch_zip

from gsvckpt.commands.verify.findings import CHECKS

from .samples import assert_one_error, environment, evil, generator, gpt, s1_training, s2_training, save, small, spawn

FILE_KEYS = {"path", "size", "kind", "version", "status", "checks", "findings", "digests", "safety", "progress", "official"}
FINDING_KEYS = {"check", "severity", "where", "why", "hint", "found", "expected"}


@pytest.fixture
def sound(tmp_path):
    return save(tmp_path / "x.pth", {"dec.w": tensor("float32", (4,), range(4)), "dec.v": tensor("float16", (2,), [1, 2])})


@pytest.fixture
def cut(tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes(torch_zip({"dec.w": tensor("float32", (4,), range(4))})[:-20])
    return path


def test_sound(gsvckpt, sound):
    run = gsvckpt("verify", sound)
    assert run.code == 0
    assert run.err == ""
    assert run.out.startswith("sound")
    assert "1 file" in run.out
    assert gsvckpt("verify", sound, "-q").out == ""


def test_json(gsvckpt, sound, cut):
    run = gsvckpt.json("verify", sound, cut, exit_code=1)
    good, bad = run.document["files"]
    assert good.keys() == bad.keys() == FILE_KEYS
    assert (good["status"], bad["status"]) == ("sound", "damaged")
    assert good["findings"] == []
    assert all(finding.keys() == FINDING_KEYS for finding in bad["findings"])
    assert good["digests"].keys() == {"md5", "sha256", "xxh3_128", "content"}
    assert good["digests"]["md5"] is None
    assert len(good["digests"]["content"]) == 32


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 0), (("--fail-on", "warning"), 1), (("--checks", "layout"), 0), (("--checks", "*,-tensor.range", "--fail-on", "warning"), 0)],
    ids=str,
)
def test_fail_on_and_checks(gsvckpt, tmp_path, options, code):
    path = save(tmp_path / "x.pth", {"dec.w": tensor("float32", (2,), [1e30, 1.0])})
    assert gsvckpt("verify", path, *options).code == code


def test_missing_and_unreadable_are_never_0(gsvckpt, sound, tmp_path):
    run = gsvckpt("verify", sound, tmp_path / "none.pth")
    assert_one_error(run, tmp_path / "none.pth", 3)
    file = gsvckpt.json("verify", tmp_path / "none.pth", exit_code=3).file
    assert file["status"] == "unchecked"
    assert file["error"]["kind"] == "missing"
    run = gsvckpt("verify", tmp_path / "nowhere" / "x.pth", "-q")
    assert run.code == 3


def test_the_worst_exit_code_wins(gsvckpt, sound, cut, tmp_path):
    assert gsvckpt("verify", sound, cut).code == 1
    assert gsvckpt("verify", sound, cut, tmp_path / "none.pth").code == 3


def test_unsafe_is_said_last_and_on_stderr(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", evil())
    for options in ((), ("-q",), ("--json",), ("--checks", "record.crc")):
        run = gsvckpt("verify", path, *options)
        assert "UNSAFE" in run.err.splitlines()[-1]
    assert run.code == 1  # whatever was asked about


@pytest.mark.parametrize(
    "argv",
    [
        ("--checks", "nonsense"),
        ("--layout", "v9"),
        ("--per-tensor",),
        ("--forget",),
        ("--quick", "--record"),
        ("--quick", "--backup", "b"),
        ("--quick", "--against", "x"),
        ("--format", "xml"),
        ("--fail-on", "info"),
    ],
    ids=" ".join,
)
def test_usage(gsvckpt, sound, argv):
    assert gsvckpt("verify", sound, *argv).code == 2


def test_against_takes_one_file(gsvckpt, sound, cut):
    assert gsvckpt("verify", sound, cut, "--against", sound).code == 2
    assert gsvckpt("verify", sound.parent, "--against", sound).code == 2


def test_against(gsvckpt, tmp_path):
    source = save(tmp_path / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    half = tmp_path / "half.pth"
    assert gsvckpt("convert-fp16", source, "-o", half).code == 0
    stripped = tmp_path / "stripped.pth"
    assert gsvckpt("strip-optimizer", source, "-o", stripped).code == 0
    checks = ("--checks", "against")
    run = gsvckpt.json("verify", half, "--against", source, *checks)
    assert [(finding["check"], finding["found"], finding["expected"]) for finding in run.file["findings"]] == [
        ("against.dtype", "float16", "float32"),
        ("against.values", "", ""),
    ]
    (said,) = gsvckpt.json("verify", stripped, "--against", source, *checks).file["findings"]
    assert (said["check"], said["severity"]) == ("against.values", "info")
    assert said["why"] == f"the same as {source}: all of its 4 tensors, by name, shape, type and value"
    assert said["why"] in gsvckpt("verify", stripped, "--against", source).out
    other = save(tmp_path / "other.pth", s2_training(generator("v1", enc_q=True)))
    assert gsvckpt("verify", half, "--against", other, *checks).code == 1


def test_a_folder(gsvckpt, sound, cut):
    (sound.parent / "notes.txt").write_text("hello")
    run = gsvckpt("verify", sound.parent)
    assert run.code == 1
    assert "1 sound" in run.out
    assert "1 damaged" in run.out
    assert "1 other file" in run.out
    run = gsvckpt.json("verify", sound.parent, exit_code=1)
    assert run.document["ignored"] == 1


def test_an_empty_folder_is_an_error(gsvckpt, tmp_path):
    assert_one_error(gsvckpt("verify", tmp_path), tmp_path, 3)


def test_resume_on_an_experiment(gsvckpt, tmp_path):
    folder = tmp_path / "logs" / "alice" / "logs_s1_v2" / "ckpt"
    save(folder / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    run = gsvckpt.json("verify", tmp_path / "logs" / "alice", "--resume", "--layout", "none")
    kinds = [file["kind"] for file in run.document["files"]]
    assert kinds == ["gpt-training", None]
    assert {finding["check"] for finding in run.document["files"][1]["findings"]} == {"resume.lightning", "resume.finished"}
    assert gsvckpt("verify", tmp_path / "logs" / "alice", "--resume", "--fail-on", "warning").code == 1
    assert gsvckpt("verify", tmp_path / "logs", "--resume", "--layout", "none").code == 0
    assert_one_error(gsvckpt("verify", tmp_path, "--resume"), tmp_path, 3)


def test_resume_on_a_file(gsvckpt, sound, tmp_path):
    run = gsvckpt.json("verify", sound, "--resume", exit_code=1)
    assert [finding["check"] for finding in run.file["findings"]] == ["resume.file"]


def test_sound_files_are_summed_up(gsvckpt, tmp_path):
    data = torch_zip({"dec.w": tensor("float32", (1,), [1.0])})
    for number in range(230):
        (tmp_path / f"{number}.pth").write_bytes(data)
    run = gsvckpt("verify", tmp_path, "--quick")
    assert run.out.count("\nsound") < 230
    assert "and 30 more sound files" in run.out
    assert "230 sound" in run.out
    assert gsvckpt("verify", tmp_path, "--quick", "-v").out.count("sound ") >= 230


def test_names_cannot_harm_a_terminal(gsvckpt, tmp_path):
    path = save(tmp_path / "x.pth", {"dec.\x1b[31m[bold]w": tensor("float32", (1,), [float("nan")])})
    run = gsvckpt("verify", path)
    assert "\x1b" not in run.out
    assert "[bold]" in run.out


@pytest.mark.parametrize("width", [40, 80, 160])
def test_every_width(tmp_path, width):
    path = save(tmp_path / ("long-name-" * 12 + ".pth"), small(generator("v2Pro", "float16"), "v2Pro"))
    run = spawn("verify", path, cwd=tmp_path)
    assert run.returncode == 1
    command = f"stty cols {width} 2>/dev/null; '{sys.executable}' -m gsvckpt verify '{path}'"
    shown = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, check=False, env=environment(COLUMNS=str(width), TERM="xterm"), timeout=60
    )
    text = shown.stdout.decode()
    assert "version.upstream" in text
    import re

    assert max(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip("\r")) for line in text.splitlines()[:-1] if "hint:" not in line) <= width


def test_every_check_is_named_in_the_help(gsvckpt):
    told = "".join(gsvckpt("verify", "--help").out.split())
    assert all(check in told for check in CHECKS)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for child processes")
def test_interrupted_while_many_files_are_verified(tmp_path):
    """Ctrl-C ends all processes at once, says so in one line and exits with 130."""
    data = torch_zip({f"dec.{n}": tensor("float32", (64,), range(64)) for n in range(500)})
    for number in range(400):
        (tmp_path / f"{number}.pth").write_bytes(data)
    command = [sys.executable, "-m", "gsvckpt", "verify", tmp_path, "-j", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(children.read_text().split()) < 3:  # two workers, and Python's own tracker of what they share
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err.decode().splitlines() == ["gsvckpt: interrupted; nothing half-written was left behind"]
    assert process.returncode == 130


def test_a_file_that_changes_while_it_is_read_is_not_sound(tmp_path, monkeypatch):
    from gsvckpt.commands.verify import phases
    from gsvckpt.commands.verify.file import verify_file
    from gsvckpt.commands.verify.result import Options

    path = save(tmp_path / "x.pth", {"dec.w": tensor("float32", (4,), range(4))})
    inner = phases.examine

    def examine(checkpoint):
        Path(path).write_bytes(Path(path).read_bytes() + b"x")
        return inner(checkpoint)

    monkeypatch.setattr(phases, "examine", examine)
    result = verify_file(str(path), Options())
    assert result.status == "unchecked"
    assert "container.changed" in {finding.check for finding in result.findings}
