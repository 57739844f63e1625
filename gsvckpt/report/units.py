"""Numbers and names as people read them."""

from __future__ import annotations

import time

from gsvckpt.characters import escape_shown

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
