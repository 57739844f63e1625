"""The other checkpoint of `verify --against`: opened, and compared with the one at hand."""

from __future__ import annotations

from gsvckpt.commands.verify.checks import tensors
from gsvckpt.commands.verify.checks.against import compare
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, UnsupportedError
from gsvckpt.files.progress import Progress


def compare_with(examination: Examination, other: str, jobs: int, progress: Progress) -> list[Finding]:
    """What differs from the checkpoint at `other`. Where the two cannot be compared, one `container.unsupported` finding says why."""
    try:
        with open_checkpoint(other) as checkpoint:
            other_one = examine(checkpoint)
            for side in (examination, other_one):
                if tensors.overclaiming(side.state, side.checkpoint.source.size):
                    raise UnsupportedError("claims more than it has", where="tensors", check="tensor.bounds")
            return compare(examination, other_one, jobs, progress)
    except GsvError as error:
        where = f"{other}: {error.where}" if error.where else other
        return [Finding("container.unsupported", "error", where, f"cannot be compared with it: {error.why}", error.hint)]
