"""What may not be replaced. Windows' names are looked at as texts, so that every system can test them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gsvckpt.files.obstacles import file_obstacle, folder_obstacle, names_device


@pytest.mark.parametrize(
    "path",
    [
        *("NUL", "nul", "CON", "con.pth", "Aux.tar.gz", "PRN.", "NUL ", "NUL. . ", "NUL .pth", "COM1", "com9.safetensors", "LPT0", "COM¹", "lpt³.x"),
        *("CONIN$", "conout$", "NUL:", "NUL:stream", "AUX.pth:x", "out/NUL", r"out\nul.pth", r"C:\voices\CON.ckpt", r"aux\x.pth", "aux/"),
        *(r"\\.\PhysicalDrive0", "//./NUL", r"\\.\pipe\x"),
    ],
)
def test_devices_of_windows(path: str) -> None:
    assert names_device(path)
    for obstacle in (file_obstacle(path, windows=True), folder_obstacle(path, windows=True)):
        assert obstacle is not None
        assert (obstacle.exit_code, obstacle.path) == (4, path)


@pytest.mark.parametrize(
    "path",
    [
        *("x.pth", "CONSOLE.pth", "NULL", "x.nul", "COM", "COM10", "COM1x.pth", "auxiliary/x.pth", "my con.pth", "LPT", "nul-e8.pth", "", ".", ".."),
        *(r"C:\voices\x.pth", r"\\server\share\x.pth", "声音.pth", "CON声.pth", r"\\?\C:\x.pth", "a.CON"),
    ],
)
def test_other_names(path: str) -> None:
    assert not names_device(path)


@pytest.mark.skipif(os.name == "nt", reason="there they are devices")
def test_elsewhere_these_are_names_like_others(tmp_path: Path) -> None:
    assert file_obstacle(str(tmp_path / "NUL.pth")) is None
    assert folder_obstacle(str(tmp_path / "con")) is None


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and links")
def test_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for name in ("file", "folder", "pipe", "socket", "nothing", "loop"):
        (tmp_path / f"to-{name}").symlink_to(name if name != "loop" else "to-loop")
    said = {name: str(found) if (found := file_obstacle(str(tmp_path / name))) else "" for name in (*os.listdir(tmp_path), "nothing", "a\0b")}
    assert {name for name, why in said.items() if not why} == {"file", "to-file", "nothing", "to-nothing", "to-loop", "a\0b"}
    assert "named pipe" in said["to-pipe"]
    assert "socket" in said["to-socket"]
    assert "a folder" in said["to-folder"]
    taken = {name for name in os.listdir(tmp_path) if folder_obstacle(str(tmp_path / name)) is not None}
    assert taken == {"file", "to-file", "pipe", "to-pipe", "socket", "to-socket", "to-loop"}
