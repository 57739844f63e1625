"""gsvckpt.inspect"""

from __future__ import annotations

from typing import Literal

from gsvckpt.commands.inspect.result import View
from gsvckpt.commands.inspect.run import InspectResult, compare_silently, inspect_all
from gsvckpt.commands.python.arguments import AnyPath, Paths, Texts, path_of, paths_of, require_choice, resources_of, texts_of
from gsvckpt.errors import UsageError


def inspect(
    paths: Paths,
    *,
    tensors: bool = False,
    stats: bool = False,
    config: bool = False,
    memory: bool = False,
    diff: AnyPath | None = None,
    include: Texts = (),
    exclude: Texts = (),
    sort: Literal["name", "size"] | None = None,
    recursive: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    cluster: str | None = None,
) -> InspectResult:
    """Show what checkpoints are, without running any code from them; `files` has the objects of `gsvckpt inspect --json`.

    Raises GsvError where no file could be read; of several, `errors` has those that could not.
    """
    require_choice(sort, ("name", "size"), "--sort")
    view = View(
        tensors=tensors,
        stats=stats,
        config="json" if config else None,
        memory=memory,
        include=texts_of(include),
        exclude=texts_of(exclude),
        sort=sort,
    )
    several, resources = paths_of(paths), resources_of(device, jobs, cluster)
    if diff is None:
        return inspect_all(several, view, resources, recursive=recursive)
    if len(several) != 1:
        raise UsageError("compares one file with another, so give one PATH", where="--diff")
    return compare_silently(several[0], path_of(diff), view, resources)
