"""Texts that people write: files of them, and words that are nearly right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gsvckpt.errors import MissingError, UsageError

_LARGEST = 1_000_000  # bytes
_LOOKED_AT = 5_000  # names that are compared with a wrong one


def read_text(path: str, *, hint: str = "", largest: int = _LARGEST) -> str:
    """The text of a file, with plain line ends. Raises MissingError, with `hint`, and UsageError for what is no text or too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingError(f"cannot be read: {why}", path=path, hint=hint) from error
    if len(data) > largest:
        raise UsageError(f"is larger than {largest:,} bytes", where=path)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")  # Windows' own editor puts a mark in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError("is no text in UTF-8", where=f"{path}:{line}", hint="save it as UTF-8") from error


def hint_at(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint: which of the known words was meant, else `otherwise`."""
    from difflib import get_close_matches  # only errors need it

    found = get_close_matches(word, list(known), 1)
    return f"did you mean {found[0]}?" if found else otherwise


def similar_names(glob: str, names: Sequence[str]) -> str:
    """A hint of a few names that `glob`, which matches none, may have meant."""
    from difflib import get_close_matches  # only errors need it

    near = get_close_matches(glob.strip("*?"), names[:_LOOKED_AT], 3, 0.3) or names[:3]
    return f"names are like {', '.join(near)}"
