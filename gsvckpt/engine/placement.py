"""Choose the device for some work: the one that was asked for, or the one that `auto` picks, and the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.devices.choice import Work, choose, choose_for
from gsvckpt.devices.device import Device
from gsvckpt.model import Tensor
from gsvckpt.transforms.plan import Plan

if TYPE_CHECKING:
    from gsvckpt.engine.write import Engine, OnOverflow
    from gsvckpt.files.progress import Progress

_THREADS_A_CORE = 2  # with a device: one thread reads or writes while the other waits for what it has sent there


class Threads(NamedTuple):
    """The number of threads; `fixed` if the user chose it."""

    number: int
    fixed: bool = False


class Computing(NamedTuple):
    """A device, how many threads keep it and the disk busy, and why that device."""

    device: Device
    threads: int
    why: str


class Computed(NamedTuple):
    """Where something is computed, why there, and of how many bytes."""

    device: str
    why: str
    nbytes: int


def open_device(name: str, work: Work, threads: Threads, *, warn: Callable[[str], None]) -> Computing:
    """The device called `name`; for `auto` the one that suits this work (see `choose_for`). Raises UsageError for one that is not there."""
    if name == "auto":
        device, why = choose_for(work, warn=warn)
    else:
        device, why = choose(name, warn=warn), "the default" if name == "cpu" else "as asked for"
    busy = 1 if device.name == "cpu" or threads.fixed else _THREADS_A_CORE
    return Computing(device, threads.number * busy, why)


def is_host(name: str) -> bool:
    """Whether all work on the device of that name is the host's, so that several files may be in work at once."""
    if name != "auto":
        return name == "cpu"
    from gsvckpt.devices.choice import may_have_gpu

    return not may_have_gpu()


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """What the tensors take in the file: those that share memory once."""
    return sum({tensor.storage: tensor.storage.nbytes for tensor in tensors.values()}.values())


def work_of(plan: Plan) -> Work | None:
    """What a plan has to have computed; None where nothing."""
    computed = {*plan.casts, *plan.products}
    return Work("product" if plan.products else "cast", sum(storage.nbytes for storage in computed)) if computed else None


def engine_for(
    plan: Plan, device: str, threads: Threads, progress: Progress, *, warn: Callable[[str], None], on_overflow: OnOverflow = "keep"
) -> tuple[Engine, Computed | None]:
    """The engine for a plan, with the device called `device` if there is anything to compute; the choice is reported."""
    from gsvckpt.engine.write import Engine  # inspect needs devices, and writes nothing

    work = work_of(plan)
    if work is None:
        return Engine(None, threads.number, progress, on_overflow), None
    found = open_device(device, work, threads, warn=warn)
    return Engine(found.device, found.threads, progress, on_overflow), Computed(found.device.name, found.why, work.nbytes)
