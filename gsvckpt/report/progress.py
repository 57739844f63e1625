"""A progress bar on stderr for work that takes long enough to wonder about."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gsvckpt.report.terminal import make_console
from gsvckpt.report.units import printable

_PATIENCE = 0.7  # seconds before a bar appears: most files are done by then
_PERIOD = 0.1  # seconds between two pictures


class Bar:
    """Counts bytes from several threads; appears after a moment, and disappears when closed. The work goes on where it cannot be shown."""

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._lock = threading.Lock()
        self._total = self._done = 0
        self._shown: Progress | None = None
        self._next = time.monotonic() + _PATIENCE
        self._lost = False  # stderr takes no more

    def expect(self, count: int) -> None:
        with self._lock:
            self._total += count
            self._update()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
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
            columns = (TextColumn("{task.description}", markup=False), BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            # rich's own thread would print a traceback where stderr fails, and nothing else is printed meanwhile that it would have to catch
            self._shown = Progress(
                *columns, console=make_console(stderr=True), transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._shown.add_task(self._label, total=None)
            self._shown.start()
        self._shown.update(self._shown.task_ids[0], completed=self._done, total=self._total, refresh=True)

    def close(self) -> None:
        """Take the bar away."""
        with self._lock, suppress(OSError):
            if self._shown is not None and not self._lost:
                self._shown.stop()
