"""Which device a name means. Importing this imports neither NumPy nor torch; each comes when it has something to do."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from gsvckpt.devices.costs import Choice, Work, choose_by_time
from gsvckpt.devices.device import Audit, Device, Extremes, Matrix, Moments
from gsvckpt.dtypes import DType
from gsvckpt.errors import UsageError

if TYPE_CHECKING:
    import torch

    from gsvckpt.devices.host import Host

_NAME = re.compile(r"([a-z]+)(:[0-9]{1,4})?")
_HINT = "use cpu, cuda, cuda:N or auto"
_OTHERS = "--device auto takes a GPU only where one is"
_KINDS = ("cuda", "xpu", "mps")  # what is looked for when the devices that are there have to be listed


def warn(text: str) -> None:
    """Python's own way to say something beside the result; the command line has another."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def choose(name: str, *, warn: Callable[[str], None] = warn) -> Device:
    """The device called `cpu`, `cuda`, `cuda:N` or as torch calls any other. `warn` hears of it when the host has to step in for a full device.

    `auto` is the host here: only work that is known is done sooner elsewhere (see `choose_for`). Raises UsageError for other names and, naming those
    that are there, for a device that is not there.
    """
    if name in ("cpu", "auto"):
        return HostOnDemand()  # NumPy, never torch: see costs
    try:
        device = torch_device(name)  # before what imports torch: it says so where there is none
        from gsvckpt.devices.accelerator import Accelerator

        return Accelerator(device, warn)
    except RuntimeError as error:
        from gsvckpt.devices.memory import is_full

        if not is_full(error):
            raise
    warn(f"{name} has no memory left; computing on the cpu")
    return HostOnDemand()


def choose_for(work: Work, *, warn: Callable[[str], None] = warn) -> tuple[Device, str]:
    """The device on which this work is done soonest, and why that one."""
    choice = choose_by_time(work, torch_is_loaded=sys.modules.get("torch") is not None)
    if choice.name != "cpu":
        from gsvckpt.devices.presence import may_have_gpu

        try:
            if may_have_gpu():
                return choose(choice.name, warn=warn), choice.why
            choice = Choice("cpu", "there is no GPU that torch could use")
        except UsageError as error:
            choice = Choice("cpu", error.why)
    return HostOnDemand(), choice.why


def torch_device(name: str) -> torch.device:
    """The torch device of that name, found to work. Imports torch. Raises UsageError as `choose` does, and torch's own error where it is full."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name[:40]!r} is no device", where="device", hint=_HINT)
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of its own that is broken or missing
        raise UsageError(f"{name} needs torch, which cannot be imported: {error}", where="device", hint="pip install torch, or use cpu") from error
    from gsvckpt.devices.memory import is_full

    try:
        torch.device(match[1])
    except RuntimeError as error:
        raise UsageError(f"{name[:40]!r} is no device", where="device", hint=_HINT) from error
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # every backend has its own way to say whether it is there; work is the one common way
    except Exception as error:  # its own errors, too
        if is_full(error):
            raise
        raise UsageError(f"there is no {name} device here; devices: {', '.join(_present())}", where="device", hint=_OTHERS) from error
    return device


def _present() -> list[str]:
    import torch

    counts = {kind: getattr(getattr(torch, kind, None), "device_count", lambda: 0)() for kind in _KINDS}
    return ["cpu", *(f"{kind}:{n}" for kind, count in counts.items() for n in range(count))]


class HostOnDemand:
    """The host, whose NumPy is imported at the first number: often there is nothing to compute."""

    name = "cpu"

    @cached_property
    def _host(self) -> Host:
        from gsvckpt.devices.host import Host

        return Host()

    def cast(self, raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
        return self._host.cast(raw, dtype, out, to, clamp=clamp)

    def add_product(self, base: Matrix, up: Matrix, down: Matrix) -> memoryview:
        return self._host.add_product(base, up, down)

    def measure(self, raw: memoryview, dtype: DType) -> Moments:
        return self._host.measure(raw, dtype)

    def extremes(self, raw: memoryview, dtype: DType) -> Extremes:
        return self._host.extremes(raw, dtype)

    def histogram(self, raw: memoryview, dtype: DType, low: float, high: float, bins: int) -> list[int]:
        return self._host.histogram(raw, dtype, low, high, bins)

    def max_difference(self, one: memoryview, one_dtype: DType, two: memoryview, two_dtype: DType) -> float:
        return self._host.max_difference(one, one_dtype, two, two_dtype)
