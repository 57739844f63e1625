"""hf:// through its own package, against a hub on loopback."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from support.builders import torch_zip

from .samples import generator, s2_training, spawn

SIGN = "hf_the-token-of-the-test"
FILES = {"voices/G_16.pth": torch_zip(s2_training(generator("v2", enc_q=True))), "README.md": b"# Voices"}


class Hub(BaseHTTPRequestHandler):
    """The three questions that the package asks: what is the repository, what is in it, and the bytes of a file."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{path} {self.headers['Authorization']}")
        if path.startswith("/api/models/user/repo/tree/main"):
            folder = path.removeprefix("/api/models/user/repo/tree/main").strip("/")
            whole = "recursive=true" in self.path.lower()
            found = [name for name in FILES if not folder or name.startswith(f"{folder}/")]
            entries = [
                {"type": "file", "path": name, "size": len(FILES[name]), "oid": "1"} for name in found if whole or os.path.dirname(name) == folder
            ]
            folders = [] if folder else [{"type": "directory", "path": "voices", "oid": "2"}]
            self._answer(200, json.dumps(entries + folders).encode())
        elif path == "/api/models/user/repo":
            self._answer(200, json.dumps({"id": "user/repo", "sha": "1" * 40, "private": False, "tags": [], "siblings": []}).encode())
        elif path.startswith("/user/repo/resolve/main/") and self.headers["Range"]:
            data = FILES[path.removeprefix("/user/repo/resolve/main/")]
            start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self._answer(206, data[start : end + 1], f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}")
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    Hub.asked.clear()
    for name, value in {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": SIGN, "HF_HOME": str(tmp_path / "hub")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_of_the_hub(hub):
    run = spawn("inspect", "hf://user/repo/voices/G_16.pth", "--json")
    assert (run.returncode, run.stderr) == (0, b"")
    file = json.loads(run.stdout)["files"][0]
    assert (file["path"], file["kind"], file["size"]) == (
        "hf://user/repo/voices/G_16.pth",
        "sovits-generator-training",
        len(FILES["voices/G_16.pth"]),
    )
    assert sum(line.startswith("/user/repo/resolve/") for line in hub.asked) == 1
    assert all(line.endswith(f" Bearer {SIGN}") for line in hub.asked)  # the environment's
    assert SIGN.encode() not in run.stdout + run.stderr


def test_a_repository_of_the_hub(hub):
    run = spawn("verify", "hf://user/repo/", "-r", "--json", "--checks", "container,record,pickle,tensor")
    assert (run.returncode, run.stderr) == (0, b"")
    document = json.loads(run.stdout)
    assert [(file["path"], file["status"]) for file in document["files"]] == [("hf://user/repo/voices/G_16.pth", "sound")]
    assert document["ignored"] == 1


def test_what_the_hub_has_not(hub):
    run = spawn("inspect", "hf://user/repo/voices/G_17.pth")
    assert (run.returncode, run.stderr) == (3, b"gsvckpt: hf://user/repo/voices/G_17.pth: there is no such file\n")


def test_nothing_is_written_to_the_hub(hub):
    run = spawn("convert-fp16", "hf://user/repo/voices/G_16.pth")
    assert run.returncode == 2
    assert b"hf:// can only be read" in run.stderr
    assert hub.asked == []
