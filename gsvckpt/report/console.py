"""Print lines for people: results to stdout, everything else to stderr. What needs rich is in terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.report.output import Line, is_terminal, write_out
from gsvckpt.units import printable

VERDICTS: Mapping[str, str] = {"safe": "green", "unsafe": "bold red", "unknown": "yellow"}


def print_error(error: GsvError) -> None:
    """One line `gsvckpt: PATH: where: why`, and one `hint: ...` where there is something to do."""
    parts = [part for part in ("gsvckpt", error.path, error.where, error.why) if part]
    print_line(": ".join(parts), "red")
    if error.hint:
        print_line(f"hint: {error.hint}", "cyan")


def print_warning(path: str, text: str) -> None:
    """One line `gsvckpt: PATH: warning: text`."""
    print_line(f"gsvckpt: {path}: warning: {text}" if path else f"gsvckpt: warning: {text}", "yellow")


def warn_unsafe(path: str, safety: Safety) -> None:
    """The one warning that no option silences: of code that would run, or that may although none was seen."""
    if safety.of("unsafe"):
        print_line(f"gsvckpt: {path}: warning: UNSAFE, do not load this file: it {safety.tell_unsafe(4)}", "bold red")
    elif safety.doubts:
        doubt = safety.doubts[0]
        print_line(f"gsvckpt: {path}: warning: not known to be safe: {doubt.where}: {doubt.why}", "bold yellow")


def print_lines(lines: Iterable[Line]) -> None:
    """Lines on stdout: coloured and wrapped on a terminal, elsewhere as they are."""
    if not is_terminal(sys.stdout):
        write_out("".join(f"{' ' * line.indent}{''.join(text for text, _ in line.parts)}\n" for line in lines))
        return
    from gsvckpt.report.terminal import print_styled

    print_styled(lines)


_in_the_way: list[Callable[[], None]] = []  # takes away the progress display that is on stderr


def give_way(hide: Callable[[], None] | None) -> None:
    """Before a line is printed on stderr, `hide` is called; None: there is nothing left to hide."""
    _in_the_way[:] = [hide] if hide is not None else []


def print_line(line: str, style: str = "") -> None:
    """One line on stderr, never wrapped, so that it can be searched and pasted."""
    for hide in tuple(_in_the_way):
        hide()
    with suppress(OSError):  # nobody reads it; the work goes on
        if not is_terminal(sys.stderr):
            sys.stderr.write(printable(line) + "\n")
            return
        from rich.text import Text

        from gsvckpt.report.terminal import make_console

        make_console(stderr=True).print(Text(printable(line), style=style), soft_wrap=True)
