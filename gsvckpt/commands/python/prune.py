"""gsvckpt.prune"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal, get_args

from gsvckpt.commands.prune.policy import DemoteTo
from gsvckpt.commands.prune.run import PruneFiles, PruneResult, PruneRules, clear, make_plan, places_of, prepare, require_folders, settle
from gsvckpt.commands.prune.undo import Trash, TrashResult, empty, find_old, undo
from gsvckpt.commands.python.arguments import (
    AnyPath,
    Paths,
    Texts,
    path_or_none,
    paths_of,
    require_at_least,
    require_choice,
    resources_of,
    texts_of,
)
from gsvckpt.files.progress import Silent


def prune(
    folders: Paths,
    *,
    keep_last: int | None = None,
    keep_best: int | None = None,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    metrics: AnyPath | None = None,
    keep_every: int | str | None = None,
    keep_within: str | None = None,
    keep: Texts = (),
    max_size: int | str | None = None,
    demote_after: int | None = None,
    demote_to: DemoteTo | None = None,
    policy: AnyPath | None = None,
    archive: AnyPath | None = None,
    purge: bool = False,
    dry_run: bool = False,
    undo: bool = False,
    empty_trash: bool = False,
    older_than: str | None = None,
    device: str = "cpu",
    jobs: int | None = None,
) -> PruneResult | TrashResult:
    """Move old saves to the trash by rules, as `gsvckpt prune --yes` does, without asking. With `dry_run` the result is only the plan.

    Raises GsvError where nothing could be planned; a file that could not be moved stays and is in `errors`.
    """
    for option, number in (("--keep-last", keep_last), ("--keep-best", keep_best), ("--demote-after", demote_after)):
        require_at_least(1, number, option)
    require_choice(mode, ("min", "max"), "--mode")
    require_choice(demote_to, get_args(DemoteTo), "--demote-to")
    every, largest = str(keep_every) if keep_every is not None else None, str(max_size) if max_size is not None else None
    written = PruneRules(keep_last, keep_best, metric, mode, every, keep_within, texts_of(keep), largest, demote_after, demote_to)
    files = PruneFiles(path_or_none(policy), path_or_none(metrics), path_or_none(archive))
    named, rules, old = paths_of(folders), written.policy(), Trash(undo, empty_trash, older_than)
    require_folders(named)
    if old.asked(rules, files, purge=purge):
        return _handle_trash(old, places_of(named), dry_run=dry_run)
    prepared = prepare(named, rules, files, resources_of(device, jobs), purge=purge, dry_run=dry_run)
    warnings = settle(prepared.places, allowed=not dry_run)
    found = make_plan(prepared, Silent())
    found = replace(found, warnings=(*warnings, *found.warnings))
    if dry_run or found.plan.empty:
        return found
    return replace(found, cleared=clear(found.plan, prepared, lambda _: nullcontext(Silent())))


def _handle_trash(old: Trash, places: Sequence[str], *, dry_run: bool) -> TrashResult:
    if old.undo:
        return undo(places, dry_run=dry_run)
    found = find_old(places, old.seconds)
    return found if dry_run else replace(found, errors=empty(places, old.seconds))
