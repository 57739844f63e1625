"""A TOML document, and the lines of its mistakes and keys, which its parser does not tell."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from gsvckpt.errors import UsageError


def _loads(text: str) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return dict(tomllib.loads(text))


def parse(path: str, text: str) -> dict[str, object]:
    """The document. Raises UsageError with the line of what is no TOML, as far as the parser tells it."""
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one
        found = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)\Z", str(error))
        last = text.count("\n", 0, -1) + 1
        raise UsageError(f"is no valid TOML: {error}", where=f"{path}:{found[1] or last}" if found else path) from error


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
    known: dict[tuple[str, ...], int] = {}
    table: list[str] = []
    for line, statement in _statements(text):
        header = statement.startswith("[")
        keys = _path(statement.strip("[]")) if header else [*table, *_path(statement)]
        table = keys if header else table
        for length in range(1, len(keys) + 1):
            known.setdefault(tuple(keys[:length]), line)
    return next((known[above] for length in range(len(path), 0, -1) if (above := tuple(path[:length])) in known), 1)


def _path(key: str) -> list[str]:
    value: object = _loads(f"{key} = 0")
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
