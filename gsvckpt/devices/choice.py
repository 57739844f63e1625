"""Which device a name means. Importing this imports neither NumPy nor torch; each comes when it has something to do."""

from __future__ import annotations

import re
import sys
from functools import cached_property
from typing import TYPE_CHECKING

from gsvckpt.devices.measures import Audit, Device, Extremes, Matrix, Moments
from gsvckpt.dtypes import DType
from gsvckpt.errors import UsageError

if TYPE_CHECKING:
    import torch

    from gsvckpt.devices.host import Host

_NAME = re.compile(r"([a-z]+)(:[0-9]{1,4})?")
_HINT = "use cpu, cuda, cuda:N or auto"
_KINDS = ("cuda", "xpu", "mps")  # what is looked for when the devices that are there have to be listed


def choose(name: str) -> Device:
    """The device called `cpu`, `auto`, `cuda`, `cuda:N` or as torch calls any other.

    Raises UsageError for other names and, naming those that are there, for a device that is not there.
    """
    if name == "auto":
        torch = sys.modules.get("torch")  # importing it only to look would cost more than most of the work it could then speed up
        name = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return HostOnDemand()  # NumPy, never torch: computing is faster there, but importing it costs seconds and 200 MB
    from gsvckpt.devices.accelerator import Accelerator

    return Accelerator(torch_device(name))


def torch_device(name: str) -> torch.device:
    """The torch device of that name, found to work. Imports torch. Raises UsageError as `choose` does."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name[:40]!r} is no device", where="device", hint=_HINT)
    try:
        import torch
    except ImportError as error:
        raise UsageError(f"{name} needs torch, which cannot be imported: {error}", where="device", hint="pip install torch, or use cpu") from error
    try:
        torch.device(match[1])
    except RuntimeError as error:
        raise UsageError(f"{name[:40]!r} is no device", where="device", hint=_HINT) from error
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # every backend has its own way to say whether it is there; work is the one common way
    except Exception as error:  # its own errors, too
        raise UsageError(f"there is no {name} device here; devices: {', '.join(_present())}", where="device") from error
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
