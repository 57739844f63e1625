"""Check the arguments of the Python interface: paths, globs, numbers and choices."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

from gsvckpt.engine.resources import Resources, require_device
from gsvckpt.errors import UsageError
from gsvckpt.files.secrets import conceal

AnyPath: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = AnyPath | Iterable[AnyPath]
Texts: TypeAlias = str | Iterable[str]


def paths_of(paths: Paths) -> list[str]:
    """One path or several. Raises UsageError where there is none."""
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise UsageError("names no file and no folder", where="paths")
    return [path_of(path) for path in several]


def path_of(path: AnyPath) -> str:
    """The path or URL without secrets, so that none gets into a result or an error."""
    return conceal(os.fspath(path))


def path_or_none(path: AnyPath | None) -> str | None:
    return path_of(path) if path is not None else None


def texts_of(texts: Texts) -> tuple[str, ...]:
    """One glob or key, or several."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


def resources_of(device: str, jobs: int | None, cluster: str | None = None) -> Resources:
    """Raise UsageError for an unknown device, and for fewer than one worker."""
    require_at_least(1, jobs, "--jobs")
    return Resources(require_device(device), jobs, cluster)


def require_at_least(least: int, value: int | None, option: str) -> None:
    """Raise UsageError for a number that is too small."""
    if value is not None and value < least:
        raise UsageError(f"must be at least {least}, not {value}", where=option)


def require_choice(value: str | None, choices: Iterable[str], option: str) -> None:
    """Raise UsageError for a value that the option does not have."""
    known = tuple(choices)
    if value is not None and value not in known:
        raise UsageError(f"{value!r} must be one of {', '.join(known)}", where=option)
