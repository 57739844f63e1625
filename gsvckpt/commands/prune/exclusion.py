"""One run at a time in a tree of folders: what keeps two prunes apart, wherever in it each of them begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from gsvckpt.errors import OutputError, RefusedError
from gsvckpt.files.lock import locked
from gsvckpt.files.publish import TRASH


@contextmanager
def alone(folders: Sequence[str]) -> Iterator[None]:
    """Hold what keeps two runs apart: the trash of each folder, of those below, and of those above. Raises RefusedError where another run has it."""
    places: dict[str, None] = {}
    for folder in folders:
        places[os.path.join(folder, TRASH)] = None
        places |= dict.fromkeys(os.path.join(place, TRASH) for place, names, _ in os.walk(folder) if TRASH in names)
        above = os.path.dirname(os.path.abspath(folder))
        while above != os.path.dirname(above):
            if os.path.isdir(os.path.join(above, TRASH)):
                places[os.path.join(above, TRASH)] = None
            above = os.path.dirname(above)
    with ExitStack() as stack:
        for place in places:
            require_trash(os.path.dirname(place))
            try:
                os.makedirs(place, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot be made: {error.strerror}", path=place, hint="gsvckpt needs to write in the folder") from error
            stack.callback(_leave, place)
            try:
                stack.enter_context(locked(place, patience=0))
            except OutputError as error:
                if "another process" not in error.why:
                    raise
                raise RefusedError("another prune is at work here", path=os.path.dirname(place), hint="wait for it, then try again") from error
        yield


def require_trash(folder: str) -> None:
    """Raise RefusedError where the name of a folder's trash is taken by something else; a link could lead anywhere."""
    place = os.path.join(folder, TRASH)
    if os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place)):
        raise RefusedError("is no folder, so it cannot be the trash", path=place, hint="move it away")


def _leave(place: str) -> None:
    with suppress(OSError):
        os.rmdir(place)  # where nothing is in it
