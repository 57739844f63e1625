"""Consoles of rich: colours and widths follow the terminal, NO_COLOR and pipes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from gsvckpt.report.console import Line, printing


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


def print_styled(lines: Iterable[Line]) -> None:
    """Lines on stdout in their styles, wrapped to the terminal's width behind their indents."""
    console = make_console()
    for line in lines:
        text = Text.assemble(*line.parts, overflow="fold")
        if text.plain.startswith("hint: "):  # left to the terminal to wrap, so that what is selected there can be pasted
            console.print(Text(" " * line.indent).append_text(text), soft_wrap=True)
        else:
            console.print(Padding(text, (0, 0, 0, line.indent)))
