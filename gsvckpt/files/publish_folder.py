"""Publish a folder of files in one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gsvckpt.errors import GsvError
from gsvckpt.files.obstacles import folder_obstacle
from gsvckpt.files.publish import fail, require_space, resolve, sync_folder
from gsvckpt.files.temporary import sweep, temporary_folder


def publish_folder(path: str, size: int, fill: Callable[[str], None], *, settle: Callable[[], None] = lambda: None) -> None:
    """Create a folder in one step: `fill` publishes files in a temporary one beside it, which then takes the name.

    A kill at any moment leaves nothing at `path`, or all of it. Raises RefusedError where something else than an empty folder is at `path`, also when
    another process makes it meanwhile, and OutputError; after any error no temporary folder is left.
    """
    try:
        destination = resolve(path.rstrip(f"/{os.sep}") or path)
        sweep(destination.parent)
        taken = folder_obstacle(path)
        if taken is not None:
            raise taken
        require_space(destination, size)
        with temporary_folder(destination.parent) as temp:
            try:
                fill(str(temp))
            except GsvError as error:
                error.path = error.path.replace(str(temp), path.rstrip(f"/{os.sep}") or path)  # nobody will see the other folder
                raise
            sync_folder(temp)
            settle()
            _take_folder(temp, destination, path)
        sync_folder(destination.parent)
    except OSError as error:
        fail(path, error)


def _take_folder(temp: Path, destination: Path, path: str) -> None:
    try:
        if destination.is_dir():
            os.rmdir(destination)  # empty, as was seen
        os.rename(temp, destination)
    except OSError:
        taken = folder_obstacle(path)  # by another process, or by a file that came meanwhile
        if taken is not None:
            raise taken from None
        raise
