"""Who is told how far the work is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how many bytes there are to go through, and how many went. Called from several threads."""

    def expect(self, count: int) -> None: ...
    def advance(self, count: int) -> None: ...


class Silent:
    """No progress display."""

    def expect(self, count: int) -> None:
        """Nobody looks."""

    def advance(self, count: int) -> None:
        """Nobody looks."""
