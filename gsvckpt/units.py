"""Read and write sizes, durations and counts as people write them; shorten names for display."""

from __future__ import annotations

import re
import time

from gsvckpt.characters import escape_shown
from gsvckpt.errors import UsageError

_SIZES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_WORDS = {"sec": 1, "second": 1, "min": 60, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_SECONDS = {"s": 1, "h": 3600, "d": 86_400, "w": 604_800, **_WORDS, **{f"{word}s": seconds for word, seconds in _WORDS.items()}}
_PART = r"([0-9]{1,12}(?:\.[0-9]{1,6})?) *([a-z]+) *"  # digits are bounded because int() is not


def parse_size(text: str, where: str) -> int:
    """Bytes: `500MB`, `4GiB`, `1.5 G`. Raises UsageError, at `where`."""
    number = text.strip().rstrip("BbKkMmGgTtIi ")
    unit = text.strip()[len(number) :].strip().lower().removesuffix("b")
    try:
        count = int(float(number) * _SIZES[unit])
    except (ValueError, KeyError, OverflowError):
        count = 0
    if count <= 0:
        raise UsageError(f"{text[:20]!r} must be a size such as 20GB", where=where, hint="500MB, 4GiB or a number of bytes")
    return count


def spell_duration(seconds: int) -> str:
    """`7d`, as `parse_duration` reads it."""
    unit = next(unit for unit in ("d", "h", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_duration(text: str, where: str) -> int:
    """Seconds: `7d`, `36h`, `2w`, `90min`, `1d12h`; not `m`, which is months to some. Raises UsageError, at `where`."""
    spelt = text.strip().lower()
    parts = re.findall(_PART, spelt) if re.fullmatch(f"(?:{_PART})+", spelt) else []
    known = all(unit in _SECONDS for _, unit in parts)
    seconds = int(sum(float(number) * _SECONDS[unit] for number, unit in parts)) if known else 0
    if seconds <= 0:
        raise UsageError(f"{text[:20]!r} must be a duration such as 7d", where=where, hint="7d, 36h, 2w or 90min")
    return seconds


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STEPS = ((60, "s", 1), (3_600, "min", 60), (86_400, "h", 3_600), (86_400 * 60, "days", 86_400))


def size(count: int) -> str:
    """`82.9 MB`: decimal, as file managers on Linux and macOS and disk makers count."""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 999.95 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # the last unit always returns


def count(number: int) -> str:
    """`42.4 M`: parameters and values."""
    if number < 10_000:
        return f"{number:,}"
    for limit, divisor, unit in ((999_950, 1e3, "k"), (999_950_000, 1e6, "M"), (999_950_000_000, 1e9, "G")):
        if number < limit:
            return f"{number / divisor:.1f} {unit}"
    return f"{number / 1e12:,.1f} T"


def plural(number: int, word: str) -> str:
    """`1 file`, `3 files`."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def ago(mtime: float) -> str:
    """`3 min ago`."""
    seconds = max(time.time() - mtime, 0)
    for limit, word, unit in _STEPS:
        if seconds < limit:
            number = int(seconds / unit)
            return f"{number} {'day' if number == 1 and word == 'days' else word} ago"
    return time.strftime("%Y-%m-%d", time.localtime(mtime))


def printable(text: str) -> str:
    """Text from a file, harmless on a terminal: control characters, lone surrogates and what turns or hides text become escapes."""
    return escape_shown(text)


def shape(sizes: tuple[int, ...]) -> str:
    """`[512, 192, 7]`; `scalar` for a 0-d tensor."""
    return f"[{', '.join(map(str, sizes))}]" if sizes else "scalar"
