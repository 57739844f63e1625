"""Consoles of rich: colours and widths follow the terminal, NO_COLOR and pipes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gsvckpt.report.output import Line, printing

_WIDEST = 6_000  # columns of a table in a pipe: a path of 4,096 bytes and what stands beside it
_BREAKS = (  # where lines are broken, and within what is still too long for a line
    re.compile(r"\S+\s*|\s+"),  # behind words
    re.compile(r"[^/\\]*[/\\]+|[^/\\]+"),  # behind folders
    re.compile(r"[^._=-]*[._=-]+|[^._=-]+"),  # behind parts of a name
)


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        if self.stderr:
            super().print(*objects, **options)
            return
        with printing():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """By itself rich exits with 1, and silences stdout even where it is stderr that nobody reads."""
        raise BrokenPipeError


def make_console(*, stderr: bool = False) -> Console:
    """A console that never colours numbers by itself and never wraps a word of ours in markup."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)


@dataclass(frozen=True, slots=True)
class Folded:
    """Text in a table that is folded as `fold` does."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield fold(self.text, options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.text)


def fold(text: Text, width: int) -> Text:
    """The text in lines of `width` columns: broken behind words, folders or parts of names, and anywhere only where these are too long for a line."""
    breaks: list[int] = []
    column = 0
    for start, part in _parts(text.plain, width):
        if column and column + cell_len(part.rstrip()) > width:
            breaks.append(start)
            column = 0
        column += cell_len(part)
        if column > width:  # rich breaks such a part anywhere, and others go on in its last line
            column %= width
    lines = text.divide(breaks)
    for line in lines:
        line.rstrip()
    folded = Text("\n").join(lines)
    folded.overflow = "fold"
    return folded


def _parts(plain: str, width: int, breaks: Sequence[re.Pattern[str]] = _BREAKS, start: int = 0) -> Iterator[tuple[int, str]]:
    """Words, and the parts of those that are longer than a line, each with its place."""
    for part in breaks[0].finditer(plain):
        if len(breaks) == 1 or cell_len(part[0].rstrip()) <= width:
            yield start + part.start(), part[0]
        else:
            yield from _parts(part[0], width, breaks[1:], start + part.start())


def shorten(name: str, width: int) -> str:
    """The name in `width` columns: what is too much goes from its middle, as its end tells the epoch and the kind of file."""
    if cell_len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{set_cell_size(name, width - 1 - end).rstrip()}…{set_cell_size(name[::-1], end)[::-1].lstrip()}"


def print_table(console: Console, table: Table) -> None:
    """A table that fits the terminal; in a pipe as wide as it comes, so that names and paths stay whole and can be searched for."""
    if not console.is_terminal:
        natural = Measurement.get(console, console.options.update_width(_WIDEST), table).maximum
        console.width = max(console.width, natural)
    console.print(table)


def print_styled(lines: Iterable[Line]) -> None:
    """Lines on stdout in their styles, wrapped to the terminal's width behind their indents."""
    console = make_console()
    for line in lines:
        text = Text.assemble(*line.parts)
        if text.plain.startswith("hint: "):  # left to the terminal to wrap, so that what is selected there can be pasted
            console.print(Text(" " * line.indent).append_text(text), soft_wrap=True)
        else:
            console.print(Padding(fold(text, console.width - line.indent), (0, 0, 0, line.indent)))
