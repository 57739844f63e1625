"""What is known of a file that could not be read as a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

from gsvckpt.errors import GsvError
from gsvckpt.model import Call, Container, Global, Record


class Known(NamedTuple):
    """Facts of a file of `size` bytes whose reading failed: its outer form, and the names and calls in its pickles as far as they were read."""

    size: int
    container: Container
    globals: tuple[Global, ...] = ()
    calls: tuple[Call, ...] = ()
    records: tuple[Record, ...] = ()


def known_of(error: GsvError) -> Known | None:
    """What a reader could tell of the file that this error is about."""
    return error.known if isinstance(error.known, Known) else None
