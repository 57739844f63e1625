"""A progress bar on stderr for long work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gsvckpt.report.console import give_way
from gsvckpt.report.terminal import make_console
from gsvckpt.units import printable

_PATIENCE = 0.7  # seconds before a bar appears: most files are done by then
_PERIOD = 0.1  # seconds between two pictures


class Bar:
    """Counts bytes and files from several threads; appears after a moment, gives way to lines that are printed, and disappears when closed.

    The work goes on where it cannot be shown.
    """

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._lock = threading.Lock()
        self._total = self._done = 0
        self._files = self._ended = 0
        self._shown: Progress | None = None
        self._next = time.monotonic() + _PATIENCE
        self._visible = False
        self._lost = False  # stderr takes no more

    def expect(self, count: int) -> None:
        with self._lock:
            self._total += count
            self._update()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._update()

    def expect_files(self, count: int) -> None:
        with self._lock:
            self._files += count  # shown with their bytes, which are told next

    def end_file(self) -> None:
        with self._lock:
            self._ended += 1
            self._update()

    def _update(self) -> None:
        now = time.monotonic()
        if self._lost or now < self._next:
            return
        self._next = now + _PERIOD
        try:
            self._show()
        except OSError:
            self._lost = True

    def _show(self) -> None:
        if self._shown is None:
            # rich's own thread would print a traceback where stderr fails, and nothing else is printed meanwhile that it would have to catch
            self._shown = Progress(
                *self._columns(), console=make_console(stderr=True), transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._shown.add_task(self._label, total=None, files="")
        if not self._visible:
            self._shown.start()
            self._visible = True
            give_way(self.close)
        done, total = (self._done, self._total) if self._total else (self._ended, self._files)  # where nothing is read, files count
        said = f"{self._ended:,}/{self._files:,} files"
        self._shown.update(self._shown.task_ids[0], completed=done, total=total, refresh=True, files=said)

    def _columns(self) -> Iterator[ProgressColumn]:
        many = self._files > 1
        yield TextColumn("{task.description}", markup=False)
        yield BarColumn(10 if many else 24)  # all of it fits into 80 columns
        if many:
            yield TextColumn("{task.fields[files]}", markup=False)
        if self._total or not many:
            yield DownloadColumn()
            yield TransferSpeedColumn()
        yield TimeRemainingColumn()

    def close(self) -> None:
        """Take the bar away; the next count that is due shows it again."""
        give_way(None)
        with self._lock, suppress(OSError):
            if self._shown is not None and self._visible and not self._lost:
                self._visible = False
                self._shown.stop()
