"""The two outputs. Results go to stdout, everything else to stderr. What needs rich is in terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from typing import NamedTuple, TextIO

from gsvckpt import __version__
from gsvckpt.errors import GsvError, OutputError
from gsvckpt.pickles.safety import Safety
from gsvckpt.report.units import printable

VERDICTS: Mapping[str, str] = {"safe": "green", "unsafe": "bold red", "unknown": "yellow"}


class LostOutput(Exception):
    """Standard output takes no more. `error` says why; it is None where the reader left. `code` is what the run had come to."""

    def __init__(self, error: OutputError | None, code: int = 0) -> None:
        super().__init__()
        self.error = error
        self.code = code


@contextmanager
def printing(code: int = 0) -> Iterator[None]:
    """Where standard output takes no more of what is printed inside, LostOutput is raised and knows that the run had come to `code`."""
    try:
        yield
    except LostOutput as lost:
        lost.code = max(lost.code, code)
        raise
    except BrokenPipeError:
        raise LostOutput(None, code) from None
    except OSError as error:
        failure = OutputError(f"cannot be written: {error.strerror or error}", path=str(error.filename or "standard output"))
        raise LostOutput(failure, code) from error


def write_out(text: str) -> None:
    """Plain text on stdout."""
    with printing():
        sys.stdout.write(text)


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
    """The one warning that no option silences."""
    names = [name for name, verdict in safety.globals if verdict == "unsafe"]
    if names:
        print_line(f"gsvckpt: {path}: warning: UNSAFE, do not load this file: it would run {', '.join(names[:4])}", "bold red")


class Line(NamedTuple):
    """A line of (text, style) parts, behind `indent` blanks, also where it is wrapped."""

    parts: tuple[tuple[str, str], ...]
    indent: int = 0


def line(text: str, style: str = "", indent: int = 0) -> Line:
    """A line of one style."""
    return Line(((text, style),), indent)


def print_lines(lines: Iterable[Line]) -> None:
    """Lines on stdout: coloured and wrapped on a terminal, elsewhere as they are."""
    if not is_terminal(sys.stdout):
        write_out("".join(f"{' ' * line.indent}{''.join(text for text, _ in line.parts)}\n" for line in lines))
        return
    from gsvckpt.report.terminal import print_styled

    print_styled(lines)


_in_the_way: list[Callable[[], None]] = []  # takes away the progress display that is on stderr


def give_way(hide: Callable[[], None] | None) -> None:
    """Before a line is printed on stderr, `hide` is called; None: there is nothing to hide any more."""
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


def is_terminal(stream: TextIO) -> bool:
    """Whether colours and widths mean anything there. Elsewhere lines go out as they are, and rich, which takes 30 ms to import, is not needed."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"))


def print_document(command: str, exit_code: int, files: list[dict[str, object]], extra: Mapping[str, object] | None = None) -> None:
    """The one JSON document of a run, on stdout. `command` is empty where none was recognised."""
    import json

    schema = f"gsvckpt.{command}/1" if command else "gsvckpt/1"
    document = {"schema": schema, "gsvckpt": __version__, "exit_code": exit_code, **(extra or {}), "files": files}
    write_out(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def finite(value: object) -> object:
    """JSON has no NaN and no infinity: they become the texts "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, (list, tuple)) else value
