"""gsvckpt.convert_fp16"""

from __future__ import annotations

from typing import get_args

from gsvckpt.commands.python.arguments import AnyPath, Paths, Texts, path_or_none, paths_of, require_choice, resources_of, texts_of
from gsvckpt.commands.rewrite.convert_fp16 import ConvertFp16
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.run import RewriteResult, assign, rewrite
from gsvckpt.engine.write import OnOverflow


def convert_fp16(
    sources: Paths,
    *,
    keep: Texts = (),
    on_overflow: OnOverflow = "keep",
    max_error: float | None = None,
    output: AnyPath | None = None,
    in_place: bool = False,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    cluster: str | None = None,
) -> RewriteResult:
    """Cast weights to float16, as `gsvckpt convert-fp16` does; each of `files` has the audit of its values in `details`.

    Raises GsvError where no source could be converted; of several, `errors` has those that could not.
    """
    require_choice(on_overflow, get_args(OnOverflow), "--on-overflow")
    recipe = ConvertFp16(texts_of(keep), on_overflow, max_error)
    destination = Destination("fp16", path_or_none(output), in_place, force, dry_run, check)
    return rewrite(assign("convert-fp16", paths_of(sources), destination, recipe, resources_of(device, jobs, cluster)))
