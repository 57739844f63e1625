"""The two outputs. Tables go to stdout, everything else to stderr; colours and widths follow the terminal, NO_COLOR and pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from typing import Any

from rich.console import Console
from rich.text import Text

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


def print_line(line: str, style: str = "") -> None:
    """One line on stderr, never wrapped, so that it can be searched and pasted."""
    with suppress(OSError):  # nobody reads it; the work goes on
        make_console(stderr=True).print(Text(printable(line), style=style), soft_wrap=True)


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
