"""The two outputs. Results go to stdout, everything else to stderr. What needs rich is in terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from typing import NamedTuple, TextIO

from gsvckpt.errors import GsvError, OutputError
from gsvckpt.formats.pickle.safety import Safety
from gsvckpt.units import printable
from gsvckpt.version import __version__

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
    """The one warning that no option silences: of code that would run, or that may although none was seen."""
    if safety.of("unsafe"):
        print_line(f"gsvckpt: {path}: warning: UNSAFE, do not load this file: it {safety.tell_unsafe(4)}", "bold red")
    elif safety.doubts:
        doubt = safety.doubts[0]
        print_line(f"gsvckpt: {path}: warning: not known to be safe: {doubt.where}: {doubt.why}", "bold yellow")


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


class _Document:
    """The JSON document of a run while it is printed. Where standard output takes no more of it, that is told at its end, and the work goes on."""

    files = 0
    lost: LostOutput | None = None

    def write(self, text: str) -> None:
        try:
            if self.lost is None:
                with printing():
                    sys.stdout.write(text)
                    sys.stdout.flush()  # who reads it may want to go on with each file
        except LostOutput as lost:
            self.lost = lost


_begun: list[_Document] = []  # the one that is not ended yet


def forget_document() -> None:
    """Another run begins, which prints a document of its own."""
    _begun.clear()


def begin_document(command: str, extra: Mapping[str, object] | None = None) -> None:
    """Begin the one JSON document of a run, on stdout; `print_document` ends it. `command` is empty where none was recognised."""
    facts = {"schema": f"gsvckpt.{command}/1" if command else "gsvckpt/1", "gsvckpt": __version__, **(extra or {})}
    _begun.append(_Document())
    _begun[0].write(f'{{{_members(facts)},\n  "files": [')


def add_file(file: Mapping[str, object]) -> None:
    """One file of the document that is begun."""
    document = _begun[0]
    document.write(f"{',' if document.files else ''}\n    {_dump(file, 4)}")
    document.files += 1


def print_document(command: str, exit_code: int, files: Iterable[Mapping[str, object]], extra: Mapping[str, object] | None = None) -> None:
    """End the one JSON document of a run, or print all of it where it is not begun. Its files go out one by one; the exit code stands last.

    Raises LostOutput.
    """
    if not _begun:
        begin_document(command)
    for file in files:
        add_file(file)
    document = _begun.pop()
    end = "\n  ]" if document.files else "]"
    document.write(f"{end},{_members({**(extra or {}), 'exit_code': exit_code})}\n}}\n")
    if document.lost is not None:
        raise document.lost


def _members(facts: Mapping[str, object]) -> str:
    return ",".join(f"\n  {_dump(key, 2)}: {_dump(value, 2)}" for key, value in facts.items())


def _dump(value: object, indent: int) -> str:
    """JSON whose later lines are indented by so many blanks more."""
    import json

    return json.dumps(finite(value), indent=2, allow_nan=False).replace("\n", "\n" + " " * indent)  # within texts, line ends are escaped


def finite(value: object) -> object:
    """JSON has no NaN and no infinity: they become the texts "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, (list, tuple)) else value
