"""A web server for tests, on loopback, that counts what it is asked and can answer wrongly in every way that servers do."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from urllib.parse import urlsplit


class Request(NamedTuple):
    """A request: its path with the query, the range that was asked for, and how many bytes of a body were sent."""

    path: str
    start: int | None
    end: int | None
    sent: int


class Answer:
    """What is about to be sent; a test's `spoil` changes it."""

    def __init__(self, status: int, start: int, end: int, size: int, etag: str) -> None:
        self.status, self.start, self.end, self.size, self.etag = status, start, end, size, etag
        self.content_range = f"bytes {start}-{end - 1}/{size}" if status == 206 else None
        self.cut = 0  # bytes that are announced and not sent
        self.length: int | None = end - start


class Web:
    """A folder served over HTTP. `requests` are those so far; `spoil(number, answer)` may change each answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.spoil: Callable[[int, Answer], None] = lambda _number, _answer: None
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # header and body go out one after the other

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        file = self.folder / urlsplit(handler.path).path.lstrip("/")
        size = file.stat().st_size if file.is_file() else 0
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        start, end = (int(found[1]), min(int(found[2]) + 1, size)) if found else (0, size)
        status = 404 if not file.is_file() else 206 if found and start < size else 416 if found else 200
        answer = Answer(status, start, end, size, '"one"')
        with self.lock:
            self.spoil(len(self.requests), answer)
            if answer.status not in (200, 206):
                answer.start = answer.end = answer.length = 0
            sent = max(answer.end - answer.start - answer.cut, 0)
            self.requests.append(Request(handler.path, start if found else None, end if found else None, sent))
        handler.send_response(answer.status)
        handler.send_header("ETag", answer.etag)
        handler.send_header("Last-Modified", "Sat, 03 Oct 2026 10:00:00 GMT")
        if answer.content_range is not None:
            handler.send_header("Content-Range", answer.content_range)
        elif answer.status == 416:
            handler.send_header("Content-Range", f"bytes */{size}")
        if answer.length is not None:
            handler.send_header("Content-Length", str(answer.length))
        handler.end_headers()
        if sent:
            self._send(handler, file, answer.start, sent)
        if answer.cut or answer.length is None:
            handler.close_connection = True

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, file: Path, start: int, count: int) -> None:
        with file.open("rb") as opened:
            opened.seek(start)
            try:
                while count:
                    chunk = opened.read(min(count, 1 << 20))
                    handler.wfile.write(chunk)
                    count -= len(chunk)
            except OSError:  # the client has left
                handler.close_connection = True


@contextmanager
def serve(folder: Path) -> Iterator[Web]:
    """Serve a folder until the block ends."""
    web = Web(folder)
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # whatever the machine's proxy
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with patch.dict(os.environ, direct):
            yield web
    finally:
        web.server.shutdown()
        thread.join()
        web.server.server_close()
