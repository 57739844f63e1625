"""Read TOML and text files that users write, and find the line of a mistake, which the TOML parser does not report."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from gsvckpt.errors import MissingError, UsageError
from gsvckpt.files.budget import DEEPEST_KEY, MOST_TOML

_FLAT = 8  # dots in a line from which on its keys are looked at
_BESIDE_KEYS = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|\#.*""")  # quoted texts and comments of a line
_IS_PART = re.compile(r"[ \t]*[\w-]+[ \t]*").fullmatch


def load(text: str) -> dict[str, object]:
    """The document. Raises ValueError for what is no TOML, or takes more than a text that people write."""
    _require_small(text)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (RecursionError, MemoryError) as error:
        raise ValueError("is nested too deeply") from error


def _require_small(text: str) -> None:
    """Raise ValueError for what the parser would take minutes or gigabytes for."""
    cost = sum(text.count(sign) for sign in "=,[{")
    for line in text.split("\n") if text.count(".") > DEEPEST_KEY else ():
        if line.count(".") > _FLAT:
            parts = _BESIDE_KEYS.sub("_", line).split(".")
            cost += 2 * len(parts)
            depth = max((len(list(run)) for is_part, run in groupby(parts[1:-1], lambda part: _IS_PART(part) is not None) if is_part), default=0)
            if depth > DEEPEST_KEY:
                raise ValueError(f"has a key of more than {DEEPEST_KEY} parts")
    if cost > MOST_TOML:
        raise ValueError(f"has more than {MOST_TOML:,} values")


def parse(path: str, text: str) -> dict[str, object]:
    """The document. Raises UsageError with the line of what is no TOML, as far as the parser tells it."""
    try:
        return load(text)
    except ValueError as error:  # TOMLDecodeError is one
        found = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)\Z", str(error))
        last = text.count("\n", 0, -1) + 1
        raise UsageError(f"is not valid TOML: {error}", where=f"{path}:{found[1] or last}" if found else path) from error


# In valid TOML these are all that matter for telling where statements begin: strings (up to two quotes more belong to one in three),
# comments, brackets, ends of lines, and equal signs.
_TOKENS = re.compile(
    r""" "{3}(?:\\.|[^\\])*?"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\])*" | '[^']*' | \#[^\n]* | [\[{] | [\]}] | \n | = | [^"'\#\[\]{}\n=]+ """,
    re.DOTALL | re.VERBOSE,
)


def find_lines(text: str) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Where keys begin, in a valid document, whose parser does not tell: those at the top, and those of each [[rule]] with its header as ""."""
    top: dict[str, int] = {}
    rules: list[dict[str, int]] = []
    inside = top
    for line, statement in _statements(text):
        header = statement.startswith("[")
        first, *rest = _path(statement.strip("[]") if header else statement)
        if not header:
            inside.setdefault(first, line)
            continue
        top.setdefault(first, line)
        inside = {}  # where nothing looks: what a table that is a mistake itself has inside
        if first == "rule" and rest and rules:
            rules[-1].setdefault(rest[0], line)
        elif first == "rule" and statement.startswith("[["):
            inside = {"": line}
            rules.append(inside)
    return top, rules


def find_line(text: str, path: Sequence[str]) -> int:
    """Where the key at `path` first stands in a valid document, in a header or in front of an equal sign; of what stands within a value, the
    line where that begins, and 1 for the document itself.
    """
    known = _known_lines(text)
    return next((known[above] for length in range(len(path), 0, -1) if (above := tuple(path[:length])) in known), 1)


@lru_cache(maxsize=1)  # asked for each of the keys of a document
def _known_lines(text: str) -> dict[tuple[str, ...], int]:
    known: dict[tuple[str, ...], int] = {}
    table: list[str] = []
    for line, statement in _statements(text):
        header = statement.startswith("[")
        keys = _path(statement.strip("[]")) if header else [*table, *_path(statement)]
        table = keys if header else table
        for length in range(1, len(keys) + 1):
            known.setdefault(tuple(keys[:length]), line)
    return known


def _path(key: str) -> list[str]:
    value: object = load(f"{key} = 0")
    path = []
    while isinstance(value, dict):
        (name,) = value
        path.append(name)
        value = value[name]
    return path


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header and each key in front of its equal sign, with the line where it begins."""
    line, depth, start, value = 1, 0, 0, False
    for token in _TOKENS.finditer(text):
        kind = text[token.start()]
        if not value and kind in "=#\n":
            if statement := text[start : token.start()].strip():
                yield line, statement
            value = kind != "\n"  # after a comment, too, all that matters is where the line ends
        depth += value * ((kind in "[{") - (kind in "]}"))
        line += token[0].count("\n")
        if kind == "\n" and not depth:
            start, value = token.end(), False
    if not value and (statement := text[start:].strip()):
        yield line, statement


_LARGEST = 1_000_000  # bytes


def decode_text(data: bytes) -> str:
    """Text as Windows' programs write it: UTF-8, with a mark in front or without, and UTF-16 with one, as `>` makes it in PowerShell 5."""
    return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def read_text(path: str, *, hint: str = "", largest: int = _LARGEST) -> str:
    """The text of a file, with plain line ends. Raises MissingError, with `hint`, and UsageError for what is no text or too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingError(f"cannot be read: {why}", path=path, hint=hint) from error
    if len(data) > largest:
        raise UsageError(f"is larger than {largest:,} bytes", where=path)
    try:
        return decode_text(data).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError("is not UTF-8 text", where=f"{path}:{line}", hint="save it as UTF-8") from error
