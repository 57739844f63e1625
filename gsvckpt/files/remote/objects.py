"""One object on another machine: its size, a mark that changes when it does, and ranges of its bytes. Each fetch is one request."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

from gsvckpt.errors import ChangedError, MissingError
from gsvckpt.files.remote.filesystems import explained, open_filesystem
from gsvckpt.files.secrets import reveal

HEAD = 1 << 18  # bytes that the first request asks for: most pickles, and all that tells what a file is
_SECONDS = 30  # that a server may be silent
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CHANGED = "wait until it is written, then try again"
# What tells an object from the one that takes its name later, by the protocols' own words.
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
_MARKS = ("ETag", "etag", "generation", "oid", "blob_id", "md5Hash", "sha", *_TIMES)


class ShortError(OSError):
    """An answer ended early; a retry may help."""


class Remote(Protocol):
    """An object of which ranges can be read. `first` are its first bytes, if the server sent them already."""

    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def first(self) -> bytes: ...
    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. Raises OSError and what the library raises where asking again may help, else GsvError."""

    def check(self) -> None:
        """Raise ChangedError unless it is what was opened."""


def open_object(url: str) -> Remote:
    """The object that a URL names. Raises GsvError, and what the protocol's library raises."""
    filesystem, path = open_filesystem(url)
    if {"http", "https"} & set(_protocols(filesystem)):
        return _WebObject(filesystem, url)
    return _StoredObject(filesystem, path, url)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)


class _StoredObject:
    """An object of any file system that fsspec knows."""

    first = b""

    def __init__(self, filesystem: Any, path: str, url: str) -> None:
        self._filesystem, self._path, self._url = filesystem, path, url
        facts = self._facts()
        if facts.get("type") == "directory":
            raise MissingError("is a folder", path=url, hint="name the files in it" if url.endswith("/") else "a folder's URL ends in /")
        if facts.get("size") is None:
            raise MissingError("is served without its size", path=url, hint="download it first")
        self.size = int(facts["size"])
        self.mtime_ns = _nanoseconds(facts)
        self._marks = _marks(facts)
        self._read_range = None
        if "s3" in _protocols(filesystem) or not filesystem.async_impl:  # the others' `cat_file` asks for a range, and nothing else
            opened = filesystem.open(path, "rb", cache_type="none")  # the cache is ours
            self._read_range = getattr(opened, "_fetch_range", None)  # of S3 it asks for this very object, by its mark

    def _facts(self) -> dict[str, Any]:
        self._filesystem.invalidate_cache(self._path)
        found: dict[str, Any] = self._filesystem.info(self._path)
        return found

    def fetch(self, start: int, end: int) -> bytes:
        read = self._read_range
        data: bytes = read(start, end) if read is not None else self._filesystem.cat_file(self._path, start=start, end=end)
        return data

    def check(self) -> None:
        with explained(self._url):
            facts = self._facts()
        if (facts.get("size"), _marks(facts)) != (self.size, self._marks):
            raise ChangedError("changed while it was read", path=self._url, hint=_CHANGED)


def _marks(facts: dict[str, Any]) -> dict[str, str]:
    return {mark: str(facts[mark]) for mark in _MARKS if facts.get(mark) is not None}


def _nanoseconds(facts: dict[str, Any]) -> int:
    for key in _TIMES:
        value = facts.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1_000_000_000)
        if isinstance(value, (int, float)):
            return int(value * 1_000_000_000)
    return 0


class _Answer(NamedTuple):
    """What a web server sent: some bytes, the size of the whole, and what tells it from a later one."""

    data: bytes
    size: int
    marks: tuple[str, str]


class _WebObject:
    """An object of a web server. fsspec's own reader believes any answer, so its session is used, and each answer is looked at."""

    def __init__(self, filesystem: Any, url: str) -> None:
        self._filesystem, self._url = filesystem, url
        answer = self._ask(0, HEAD)
        self.first, self.size, self._marks = answer
        self.mtime_ns = 0
        with suppress(TypeError, ValueError):  # not told, or no date
            self.mtime_ns = int(parsedate_to_datetime(self._marks[1]).timestamp() * 1_000_000_000)

    def fetch(self, start: int, end: int) -> bytes:
        return self._ask(start, end).data

    def check(self) -> None:
        if self.size:
            with explained(self._url):
                self._ask(0, 1)

    def _ask(self, start: int, end: int) -> _Answer:
        from fsspec.asyn import sync

        answer: _Answer = sync(self._filesystem.loop, self._request, start, end)
        if hasattr(self, "_marks") and (answer.size, answer.marks) != (self.size, self._marks):
            raise ChangedError("changed while it was read", path=self._url, hint=_CHANGED)
        return answer

    async def _request(self, start: int, end: int) -> _Answer:
        from aiohttp import ClientTimeout

        session = await self._filesystem.set_session()
        url = self._filesystem.encode_url(reveal(self._url))
        wanted = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        seconds = ClientTimeout(total=None, connect=_SECONDS, sock_read=_SECONDS)
        async with session.get(url, headers=wanted, timeout=seconds) as response:
            marks = (response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
            said = response.headers.get("Content-Range", "")
            if response.status == 416 and said == "bytes */0":
                return _Answer(b"", 0, marks)
            if response.status == 200:
                return await self._whole(response, start, end, marks)
            if response.status == 416:
                raise ChangedError("is shorter than it was", path=self._url, hint=_CHANGED)
            if response.status in {401, 403}:
                raise PermissionError(self._url)
            if response.status in {404, 410}:
                raise FileNotFoundError(self._url)
            if response.status != 206:
                raise OSError(f"the server answers {response.status} {response.reason or ''}".rstrip())
            found = _RANGE.fullmatch(said)
            if found is None:
                raise OSError("the server does not say which bytes it sends")
            first, last, size = (int(number) for number in found.groups())
            if first != start or last != min(end, size) - 1:
                raise OSError(f"the server was asked for bytes {start:,} to {end - 1:,} and sends {first:,} to {last:,}")
            return _Answer(await _body(response, last + 1 - first), size, marks)

    async def _whole(self, response: Any, start: int, end: int, marks: tuple[str, str]) -> _Answer:
        """What is to be had of a server that sends all, whatever it is asked for: small files."""
        size = response.content_length
        if size is None or size > HEAD:
            total = f"all of its {size:,} bytes" if size is not None else "all of it"
            raise NoRangesError(f"its server cannot send parts of a file, only {total}", path=self._url, hint="download it first")
        data = await _body(response, size)
        return _Answer(data[start:end], size, marks)


class NoRangesError(MissingError):
    """A server that cannot send parts of a file."""

    kind = "unreachable"


async def _body(response: Any, size: int) -> bytes:
    from asyncio import IncompleteReadError

    from aiohttp import ClientPayloadError

    try:
        data: bytes = await response.content.readexactly(size)
    except (IncompleteReadError, ClientPayloadError) as error:
        raise ShortError(f"the answer ends before its {size:,} bytes are there") from error
    return data
