"""The device that a command computes on, and what `-v` and a full device say of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.cli.options import Settings
from gsvckpt.devices.choice import choose, choose_for
from gsvckpt.devices.costs import Work
from gsvckpt.devices.measures import Device
from gsvckpt.report.console import print_line, print_warning
from gsvckpt.report.units import size

if TYPE_CHECKING:
    from gsvckpt.engine import Engine, OnOverflow
    from gsvckpt.progress import Progress
    from gsvckpt.transforms.plan import Plan

_THREADS_A_CORE = 2  # with a device: one thread reads or writes while the other waits for what it has sent there


class Computing(NamedTuple):
    """A device, and how many threads keep it and the disk busy."""

    device: Device
    threads: int


def open_device(settings: Settings, work: Work) -> Computing:
    """The device that was asked for; for `auto` the one on which this work is done soonest. Raises UsageError for one that is not there."""
    warn = partial(print_warning, "")
    if settings.device == "auto":
        device, why = choose_for(work._replace(threads=settings.workers), warn=warn)
    else:
        device, why = choose(settings.device, warn=warn), "as asked for"
    if settings.verbose:
        tell(device.name, f"{why} ({size(work.nbytes)})")
    if device.name == "cpu" or settings.jobs is not None:
        return Computing(device, settings.workers)
    return Computing(device, settings.workers * _THREADS_A_CORE)


def tell(name: str, why: str) -> None:
    """One line on stderr."""
    print_line(f"device: {name}: {why}")


def make_engine(settings: Settings, progress: Progress, on_overflow: OnOverflow, plan: Plan) -> Engine:
    """What carries out a plan, with a device where it computes something."""
    from gsvckpt.engine import Engine  # not for inspect

    if not plan.casts and not plan.products:
        return Engine(None, settings.workers, progress, on_overflow)
    work = Work("product" if plan.products else "cast", sum(storage.nbytes for storage in {*plan.casts, *plan.products}))
    device, threads = open_device(settings, work)
    return Engine(device, threads, progress, on_overflow)
