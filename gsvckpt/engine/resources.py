"""The resources of a command: a device, a number of workers, a cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.files.paths import is_url

if TYPE_CHECKING:
    from gsvckpt.engine.placement import Threads


_KNOWN_DEVICES = ("cpu", "auto", "cuda", "xpu", "mps")


def require_device(name: str) -> str:
    """Refuse an unknown device, even if nothing will be computed. Whether a known one exists is checked when it is needed."""
    kind, colon, number = name.partition(":")
    if kind not in _KNOWN_DEVICES or (colon and (kind == "auto" or not number.isdecimal())):
        from gsvckpt.devices.choice import choose

        choose(name)  # asks torch, which knows other kinds
    return name


class Resources(NamedTuple):
    """The options --device, --jobs and --cluster."""

    device: str
    jobs: int | None
    cluster: str | None = None

    @property
    def workers(self) -> int:
        """The number of threads: as asked, else the cores this process may use."""
        if self.jobs is not None:
            return self.jobs
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def threads(self) -> Threads:
        """The same for choosing a device, which may use more threads if the user did not set a number."""
        from gsvckpt.engine.placement import Threads  # inspect starts without it

        return Threads(self.workers, self.jobs is not None)

    def locate(self, path: str) -> str:
        """The path as it may be sent: absolute if another machine will open it."""
        if self.cluster is None or is_url(path):
            return path
        return os.path.join(os.path.abspath(path), "") if path.endswith(("/", os.sep)) else os.path.abspath(path)
