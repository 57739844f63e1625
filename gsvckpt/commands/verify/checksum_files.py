"""Lists of digests as md5sum, sha256sum and xxhsum write and check them (coreutils manual, 6.x; xxhsum(1))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gsvckpt.characters import escape_shown, is_plain
from gsvckpt.errors import MissingError, UsageError, as_error
from gsvckpt.files.budget import MOST_LINES
from gsvckpt.files.publish import publish_bytes

_LARGEST = 1 << 25  # characters
# Names of algorithms in BSD-style lines, as the tools print them.
_TAGS = {"MD5": "md5", "SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
_TAGS |= {"XXH32": "xxh32", "XXH64": "xxh64", "XXH3": "xxh3_64", "XXH128": "xxh3_128"}
# By the length of the digest in hex; 32 may also be xxhsum -H2, which a name or a match tells.
_BY_LENGTH = {8: ("xxh32",), 16: ("xxh64",), 32: ("md5", "xxh3_128"), 40: ("sha1",), 64: ("sha256",), 128: ("sha512",)}
_BSD = re.compile(r"\\?([A-Z0-9]+) \((.+)\) = ([0-9a-fA-F]+)", re.DOTALL)
_GNU = re.compile(r"(\\?)(XXH3_)?([0-9a-fA-F]+) [ *](.+)", re.DOTALL)
_FORMATS = {"md5": ("md5", "md5sums"), "xxh3_128": ("xxh128", "xxh128sums", "xxh", "xxhsums"), "sha256": ("sha256", "sha256sums", "sha256sum")}


class Listed(NamedTuple):
    """One line: the file as an absolute path, its digest in hex, and the algorithms that may have made it."""

    path: str
    digest: str
    algorithms: tuple[str, ...]


class ChecksumFile(NamedTuple):
    """A list as it was read: its lines by path, and the numbers of lines that cannot be read."""

    path: str
    listed: Mapping[str, Listed]
    malformed: tuple[int, ...]

    @property
    def algorithms(self) -> frozenset[str]:
        return frozenset(name for listed in self.listed.values() for name in listed.algorithms)


def read_checksums(path: str) -> ChecksumFile:
    """Read a list. Names are relative to the folder it stands in, or to the working folder where the file is only there.

    Raises MissingError where it cannot be read, and UsageError where no line of it can be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise as_error(error, path, MissingError) from error
    listed: dict[str, Listed] = {}
    malformed = []
    if len(text) > _LARGEST or text.count("\n") > MOST_LINES:
        raise UsageError(f"has more than {_LARGEST:,} characters or {MOST_LINES:,} lines", where="--checksums", path=path)
    for number, line in enumerate(text.split("\n"), 1):  # and at no other character, as the tools do
        if not line.strip() or line.startswith("#"):
            continue
        found = _parse(line.removesuffix("\r"), os.path.dirname(path))
        if found is None:
            malformed.append(number)
        else:
            listed[os.path.normcase(found.path)] = found
    if not listed:
        raise UsageError("holds no line like `<digest>  <file>`", where="--checksums", path=path)
    return ChecksumFile(path, listed, tuple(malformed))


def _parse(line: str, folder: str) -> Listed | None:
    bsd, gnu = _BSD.fullmatch(line), _GNU.fullmatch(line)
    if bsd is not None and bsd[1] in _TAGS:
        algorithms: tuple[str, ...] = (_TAGS[bsd[1]],)
        name, digest, escaped = bsd[2], bsd[3], line.startswith("\\")
    elif gnu is not None:
        algorithms = ("xxh3_64",) if gnu[2] else _BY_LENGTH.get(len(gnu[3]), ())
        name, digest, escaped = gnu[4], gnu[3], bool(gnu[1])
    else:
        return None
    if escaped:
        name = re.sub(r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match[1]], name)
    if not algorithms:
        return None
    beside = os.path.abspath(os.path.join(folder, name))
    here = os.path.abspath(name)
    return Listed(here if os.path.exists(here) and not os.path.exists(beside) else beside, digest.lower(), algorithms)


def format_for(path: str) -> str:
    """The algorithm that a list of this name holds: `.md5` or MD5SUMS, `.xxh128`, else sha256."""
    base = os.path.basename(path).lower()
    ending = base.rpartition(".")[2]
    return next((name for name, words in _FORMATS.items() if ending in words or base in words), "sha256")


def write_checksums(path: str, digests: Iterable[tuple[str, str]], *, overwrite: bool) -> None:
    """Write (path, digest) pairs so that the tool itself can check them from the folder of the list. Raises OutputError and RefusedError."""
    folder = os.path.abspath(os.path.dirname(path))
    text = "".join(sorted((_line(os.path.relpath(os.path.abspath(name), folder), digest) for name, digest in digests), key=_behind_comment))
    publish_bytes(path, text.encode("utf-8", "surrogateescape"), overwrite=overwrite)


def _line(name: str, digest: str) -> str:
    name = name.replace(os.sep, "/") if os.sep != "/" else name
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{_comment(escaped)}{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def _comment(name: str) -> str:
    """A line above that of a name in which something turns or hides text. The tools know no escape for that, so the name itself has to stand there as
    it is; they skip the comment.
    """
    return "" if is_plain(name) else f"# the next name has characters that turn or hide text: {escape_shown(name)}\n"


def _behind_comment(line: str) -> str:
    return line.split("\n")[-2]
