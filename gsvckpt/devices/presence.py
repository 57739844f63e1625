"""Whether there is a GPU that torch could use, found out without importing torch, which takes seconds only to say no."""

from __future__ import annotations

import os
import re
import sys

_DRIVERS = (
    "/dev/nvidia0",
    "/proc/driver/nvidia/gpus",
    "/dev/dxg",
    "/dev/kfd",
)  # NVIDIA's, twice; Windows' own inside WSL; AMD's, which torch calls cuda
_BUILT_FOR = re.compile(r"^(?:cuda|hip)\b[^=\n]*= *['\"]", re.MULTILINE)
_LARGEST = 1 << 16  # bytes; torch's file has 300


def may_have_gpu() -> bool:
    """Whether the system has a GPU's driver, nobody has hidden it from CUDA, and torch is built for it. Only using it shows whether it works."""
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
            return _BUILT_FOR.search(file.read(_LARGEST)) is not None
    except (OSError, ValueError):  # ValueError: something else is called torch
        return False
