"""Write to standard output, which may be closed; and styled lines of text, before it is decided how they are shown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TextIO

from gsvckpt.errors import OutputError


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
        if os.name == "nt" and error.errno == errno.EINVAL and error.filename is None:  # what its C runtime says for a pipe whose reader left
            raise LostOutput(None, code) from None
        failure = OutputError(f"cannot be written: {error.strerror or error}", path=str(error.filename or "standard output"))
        raise LostOutput(failure, code) from error


def write_out(text: str) -> None:
    """Plain text on stdout."""
    with printing():
        sys.stdout.write(text)


class Line(NamedTuple):
    """A line of (text, style) parts, behind `indent` blanks, also where it is wrapped."""

    parts: tuple[tuple[str, str], ...]
    indent: int = 0


def line(text: str, style: str = "", indent: int = 0) -> Line:
    """A line of one style."""
    return Line(((text, style),), indent)


def is_terminal(stream: TextIO) -> bool:
    """Whether colours and widths mean anything there. Elsewhere lines go out as they are, and rich, which takes 30 ms to import, is not needed."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"))
