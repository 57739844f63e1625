"""Writing a file from its beginning to its end, by several threads, where a target takes nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gsvckpt.errors import ChangedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.publish import Target
from gsvckpt.files.streams import Buffers, for_each
from gsvckpt.formats.layout import Layout, Text
from gsvckpt.model import Storage


def write_in_order(
    layout: Layout,
    known: Mapping[Storage, int],
    move: Callable[[Storage, Buffers], tuple[int, object]],
    target: Target,
    *,
    jobs: int,
    progress: Progress,
) -> Mapping[Storage, int]:
    """Write all of `layout`, whose headers state the checksums `known`; `move` writes one storage. Returns the checksums of what was written.

    Raises ChangedError where these are others than those that are known.
    """
    pieces = layout.in_order(known)
    progress.expect(sum(piece.nbytes for piece in pieces if isinstance(piece, Storage)))

    def write(piece: Text | Storage, buffers: Buffers) -> int | None:
        try:
            if isinstance(piece, Storage):
                return move(piece, buffers)[0]
            target.write_at(piece.offset, piece.data)
        except BaseException:
            target.stop()  # the others would wait for what never comes
            raise
        return None

    written = for_each(pieces, write, jobs=jobs, progress=progress)  # its threads take pieces in order, so there is always one whose turn it is
    checksums = {piece: crc for piece, crc in written.items() if isinstance(piece, Storage) and crc is not None}
    changed = next((storage for storage, crc in checksums.items() if known.get(storage, crc) != crc), None)
    if changed is not None:
        raise ChangedError("gave other bytes the second time", where=f"storage {changed.key}", path=changed.source.path)
    return checksums
