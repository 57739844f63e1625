"""A progress bar on stderr for work that takes long enough to wonder about."""

from __future__ import annotations

import threading
import time

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gsvckpt.report.console import make_console
from gsvckpt.report.units import printable

_PATIENCE = 0.7  # seconds before a bar appears: most files are done by then


class Bar:
    """Counts bytes from several threads; appears after a moment, and disappears when closed."""

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._lock = threading.Lock()
        self._total = self._done = 0
        self._begin = time.monotonic()
        self._shown: Progress | None = None

    def expect(self, count: int) -> None:
        with self._lock:
            self._total += count
            self._update()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._update()

    def _update(self) -> None:
        if self._shown is None:
            if time.monotonic() - self._begin < _PATIENCE:
                return
            columns = (TextColumn("{task.description}", markup=False), BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=make_console(stderr=True), transient=True)
            self._shown.add_task(self._label, total=None)
            self._shown.start()
        self._shown.update(self._shown.task_ids[0], completed=self._done, total=self._total)

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._shown is not None:
                self._shown.stop()
