"""gsvckpt.strip_optimizer"""

from __future__ import annotations

from gsvckpt.commands.python.arguments import AnyPath, Paths, Texts, path_or_none, paths_of, resources_of, texts_of
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.run import RewriteResult, assign, rewrite
from gsvckpt.commands.rewrite.strip_optimizer import StripOptimizer


def strip_optimizer(
    sources: Paths,
    *,
    drop: Texts = (),
    keep: Texts = (),
    output: AnyPath | None = None,
    in_place: bool = False,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    cluster: str | None = None,
) -> RewriteResult:
    """Remove optimizer, scheduler, scaler and callback state, as `gsvckpt strip-optimizer` does; each of `files` says in `details` what was removed.

    Raises GsvError where no source could be stripped; of several, `errors` has those that could not.
    """
    recipe = StripOptimizer(texts_of(drop), texts_of(keep), force)
    destination = Destination("weights", path_or_none(output), in_place, force, dry_run, check)
    return rewrite(assign("strip-optimizer", paths_of(sources), destination, recipe, resources_of(device, jobs, cluster)))
