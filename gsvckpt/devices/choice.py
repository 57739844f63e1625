"""Choose the device that a name means. NumPy and torch are only imported when there is something to compute."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from gsvckpt.devices.device import Audit, Device, Extremes, Matrix, Moments
from gsvckpt.devices.presence import require_torch
from gsvckpt.dtypes import DType
from gsvckpt.errors import UsageError

if TYPE_CHECKING:
    import torch

    from gsvckpt.devices.host import Host

AUTO_FROM = 4 << 30  # bytes: below, starting torch and CUDA takes longer than the host takes for all of it
_NAME = re.compile(r"([a-z]+)(:[0-9]{1,4})?")
_HINT = "use cpu, cuda, cuda:N or auto"
_OTHERS = "--device auto takes a GPU only where one is"
_KINDS = ("cuda", "xpu", "mps")  # what is looked for when the devices that are there have to be listed
_DRIVERS = (  # NVIDIA's, twice; Windows' own inside WSL; AMD's, which torch calls cuda
    "/dev/nvidia0",
    "/proc/driver/nvidia/gpus",
    "/dev/dxg",
    "/dev/kfd",
)
_BUILT_FOR = r"(?m)^(?:cuda|hip)\b[^=\n]*= *['\"]"
_LARGEST = 1 << 16  # bytes; torch's file has 300


class Work(NamedTuple):
    """What has to be computed, and for how many bytes."""

    kind: Literal["cast", "stats", "difference", "product"]
    nbytes: int


def warn(text: str) -> None:
    """Python's own way to say something beside the result; the command line has another."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def choose(name: str, *, warn: Callable[[str], None] = warn) -> Device:
    """The device called `cpu`, `cuda`, `cuda:N` or as torch calls any other. `warn` hears of it when the host has to step in for a full device.

    `auto` is the host here: what it means depends on the work (see `choose_for`). Raises UsageError for other names and, naming those
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
    """The device that `auto` means for this work, and why that one: a GPU if there is one and AUTO_FROM bytes or more are to be computed."""
    if work.kind == "product":
        return HostOnDemand(), "the last bits of a product depend on the device"
    if work.nbytes < AUTO_FROM:
        return HostOnDemand(), "less than 4 GiB are to be computed"
    if not may_have_gpu():
        return HostOnDemand(), "there is no GPU that torch could use"
    try:
        return choose("cuda", warn=warn), "there is a GPU, and 4 GiB or more are to be computed"
    except UsageError as error:
        return HostOnDemand(), error.why


def torch_device(name: str) -> torch.device:
    """The torch device of that name, found to work. Imports torch. Raises UsageError as `choose` does, and torch's own error where it is full."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name[:40]!r} is not a device", where="device", hint=_HINT)
    require_torch(f"the device {name}", "device")
    import torch

    from gsvckpt.devices.memory import is_full

    try:
        torch.device(match[1])
    except RuntimeError as error:
        raise UsageError(f"{name[:40]!r} is not a device", where="device", hint=_HINT) from error
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


def may_have_gpu() -> bool:
    """Whether the system has a GPU driver, the GPU is not hidden from CUDA, and torch is built for it. Only using it shows whether it works."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and _has_driver() and _torch_is_built_for_gpus()


def _has_driver() -> bool:
    if sys.platform == "win32":
        return os.path.exists(os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll"))
    return any(os.path.exists(path) for path in _DRIVERS)


def _torch_is_built_for_gpus() -> bool:
    from importlib.util import find_spec

    try:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return False
        with open(os.path.join(os.path.dirname(spec.origin), "version.py"), encoding="utf-8", errors="replace") as file:
            return re.search(_BUILT_FOR, file.read(_LARGEST)) is not None
    except (OSError, ValueError):  # ValueError: something else is called torch
        return False
