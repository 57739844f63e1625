"""The JSON document of a run: printed as results come, one valid document whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.samples import environment, generator, s2_training, save

from gsvckpt.cli.app import main
from gsvckpt.commands.inspect import batch
from gsvckpt.engine.document import document as document_of
from gsvckpt.engine.document import finite
from gsvckpt.errors import OutputError
from gsvckpt.report import json_document


@pytest.fixture(autouse=True)
def valid_documents() -> None:
    """Documents of no command are printed here, which no schema describes."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    json_document.forget_document()
    yield
    json_document.forget_document()


HARD = {"text": 'line\nline\r\u2028"\\', "number": float("inf"), "none": None, "list": [], "deep": {"a": [{"b": {}}, [1, [2.5]]]}, 3: True}


@pytest.mark.parametrize("files", [[], [{}], [HARD], [HARD, {"x": 1}, HARD]], ids=len)
def test_a_document_in_pieces_is_the_document(files: list[dict[str, object]], capsys: pytest.CaptureFixture[str]) -> None:
    json_document.print_document("inspect", 3, files, {"extra": HARD})
    whole = capsys.readouterr().out
    document = json.loads(whole)
    assert list(document) == ["schema", "gsvckpt", "files", "extra", "exit_code"]
    assert document["files"] == json.loads(json.dumps(finite(files)))
    assert document["extra"]["number"] == "inf"
    assert document == json.loads(json.dumps(document_of("inspect", files, 3, after={"extra": HARD})))
    assert whole == json.dumps(document, indent=2) + "\n"  # the very text that one call would have printed
    json_document.begin_document("inspect")
    for file in files:
        json_document.add_file(file)
    json_document.print_document("inspect", 3, [], {"extra": HARD})
    assert capsys.readouterr().out == whole


def test_each_file_is_there_before_the_next_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(save(tmp_path / f"{n}.pth", s2_training(generator("v2")))) for n in range(3)]
    seen: list[str] = []
    inner = batch.Inspect.__call__

    def look(self: object, item: batch.Sought, *more: object) -> object:
        seen.append(capsys.readouterr().out)
        return inner(self, item, *more)

    monkeypatch.setattr(batch.Inspect, "__call__", look)
    assert main(["inspect", "--json", *paths]) == 0
    assert [path in text for path, text in zip(paths, seen[1:], strict=False)] == [True, True]


def test_an_error_in_the_middle_ends_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(save(tmp_path / f"{n}.pth", s2_training(generator("v2")))) for n in range(2)]
    inner = batch.Inspect.__call__

    def look(self: object, item: batch.Sought, *more: object) -> object:
        if item.path == paths[1]:
            raise KeyboardInterrupt
        return inner(self, item, *more)

    monkeypatch.setattr(batch.Inspect, "__call__", look)
    assert main(["inspect", "--json", *paths]) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 130
    assert document["error"]["kind"] == "interrupted"
    assert [file["path"] for file in document["files"]] == paths[:1]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_stops_no_work(tmp_path: Path, unbuffered: str) -> None:
    paths = [save(tmp_path / f"{n}.pth", s2_training(generator("v2"))) for n in range(3)]
    command = [sys.executable, "-m", "gsvckpt", "strip-optimizer", "--json", *paths, tmp_path / "nowhere.pth"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(PYTHONUNBUFFERED=unbuffered)) as process:
        process.stdout.close()
    assert process.returncode == 3
    assert all(path.with_name(f"{path.stem}.weights.pth").exists() for path in paths)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_output_that_cannot_be_written_is_told_at_the_end(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", s2_training(generator("v2")))
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "gsvckpt", "strip-optimizer", "--json", path], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
        )
    assert run.returncode == OutputError.exit_code
    assert b"standard output: cannot be written" in run.stderr
    assert path.with_name("x.weights.pth").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_one_valid_document(tmp_path: Path) -> None:
    for number in range(400):
        save(tmp_path / f"{number:03}.pth", s2_training(generator("v2")))
    command = [sys.executable, "-m", "gsvckpt", "inspect", "--json", "-j1", *sorted(tmp_path.iterdir())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment()) as process:
        first = b""
        while b'"path"' not in first:  # until results come
            first += process.stdout.read(4000)
        os.kill(process.pid, signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    document = json.loads(first + rest)
    assert process.returncode == document["exit_code"] == 130
    assert b"Traceback" not in err
    assert 0 < len(document["files"]) < 400
