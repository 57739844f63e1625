"""The JSON document of a run as a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from types import MappingProxyType

from gsvckpt.version import __version__

_NOTHING: Mapping[str, object] = MappingProxyType({})


def document(
    command: str,
    files: Iterable[Mapping[str, object]],
    exit_code: int,
    before: Mapping[str, object] = _NOTHING,
    after: Mapping[str, object] = _NOTHING,
) -> dict[str, object]:
    """The document that `--json` prints, as values that `json.dumps` takes; `before` and `after` are the command's own keys around `files`."""
    whole = {**head(command), **before, "files": list(files), **after, "exit_code": exit_code}
    return {key: finite(value) for key, value in whole.items()}


def head(command: str) -> dict[str, object]:
    """The first keys of every document. `command` is empty where none was recognised."""
    return {"schema": f"gsvckpt.{command}/2" if command else "gsvckpt/2", "gsvckpt": __version__}


def finite(value: object) -> object:
    """JSON has no NaN and no infinity: they become the texts "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, (list, tuple)) else value
