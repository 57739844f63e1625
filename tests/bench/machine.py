"""What a measurement depends on besides the program: the machine and the versions of what runs."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("gsvckpt", "torch", "numpy", "typer", "rich", "isal")


def facts() -> dict[str, object]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, object] = {"system": f"{platform.system()} {platform.release()}", "processor": _processor(), "cores": cores, "memory": memory}
    found["load"] = round(os.getloadavg()[0], 2)  # more than a little, and the figures are not worth much
    return {**found, "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def describe(found: dict[str, object]) -> str:
    memory = found["memory"]
    assert isinstance(memory, int)
    versions = " · ".join(f"{name} {found[name]}" for name in ("python", *PACKAGES) if found[name])
    return f"{found['processor']} · {found['cores']} cores · {memory / (1 << 30):.0f} GiB · {found['system']} · load {found['load']}\n{versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
