"""The device that a command computes on, and what `-v` and a full device say of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gsvckpt.cli.options import Settings
from gsvckpt.devices.choice import Work
from gsvckpt.engine import placement
from gsvckpt.engine.placement import Computing, Threads, work_of
from gsvckpt.report.console import print_line, print_warning
from gsvckpt.units import size

if TYPE_CHECKING:
    from gsvckpt.engine.write import Engine
    from gsvckpt.files.progress import Progress
    from gsvckpt.transforms.plan import Plan


def threads_of(settings: Settings) -> Threads:
    return Threads(settings.workers, settings.jobs is not None)


def open_device(settings: Settings, work: Work) -> Computing:
    """The device for some work, told with `-v`. Raises UsageError for one that is not there."""
    found = placement.open_device(settings.device, work, threads_of(settings), warn=partial(print_warning, ""))
    if settings.verbose:
        tell(found.device.name, f"{found.why} ({size(work.nbytes)})")
    return found


def tell(name: str, why: str) -> None:
    """One line on stderr."""
    print_line(f"device: {name}: {why}")


def make_engine(settings: Settings, progress: Progress, plan: Plan) -> Engine:
    """What carries out a plan, with a device where it computes something."""
    from gsvckpt.engine.write import Engine  # not for inspect

    work = work_of(plan)
    if work is None:
        return Engine(None, settings.workers, progress)
    found = open_device(settings, work)
    return Engine(found.device, found.threads, progress)
