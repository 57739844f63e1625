"""Does time grow as bytes and tensors do? Three sizes each, and how far the times are from a straight line."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.files import FLOATS, HUNDRED, MANY_FLOATS, THOUSANDS, Input, place
from tests.bench.jobs import Growth, gsvckpt


def jobs() -> tuple[Growth, ...]:
    return (
        _growth("verify", "GiB", _BYTES, "verify"),
        _growth("convert", "GiB", _BYTES, "convert-fp16", writes=True),
        _growth("inspect-tensors", "tensors", _TENSORS, "inspect"),
        _growth("verify-tensors", "tensors", _TENSORS, "verify", "--checks=-layout"),
        _growth("convert-tensors", "tensors", _TENSORS, "convert-fp16", writes=True),
    )


_BYTES = tuple((file.size / (1 << 30), file) for file in (HUNDRED, FLOATS, MANY_FLOATS))
_TENSORS = tuple(zip((25_000, 50_000, 100_000), THOUSANDS, strict=True))


def _growth(name: str, unit: str, sizes: Sequence[tuple[float, Input]], *command: str, writes: bool = False) -> Growth:
    output = place(FLOATS).with_name(f"grown-{name}.pth") if writes else None
    more = ("-o", output) if output else ()
    points = tuple((size, gsvckpt(*command, place(file), *more, output=output), file) for size, file in sizes)
    return Growth(f"growth-{name}", f"{' '.join(command)}: time against {unit}", unit, points)


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Least squares through (size, seconds): (seconds at nothing, seconds for each unit, the largest distance from the line as a part of a time)."""
    count = len(points)
    mean_x, mean_y = (sum(values) / count for values in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    start = mean_y - slope * mean_x
    return start, slope, max(abs(y - (start + slope * x)) / y for x, y in points)


def needs(growth: Growth) -> tuple[Input, ...]:
    return tuple(file for _, _, file in growth.sizes)
