"""gsvckpt.migrate"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from gsvckpt.commands.python.arguments import (
    AnyPath,
    Paths,
    Texts,
    path_of,
    path_or_none,
    paths_of,
    require_at_least,
    require_choice,
    resources_of,
    texts_of,
)
from gsvckpt.commands.rewrite.migrate_options import ContainerName, MigrateDType, MigrateOptions, refuse_beside_bundle
from gsvckpt.commands.rewrite.run import RewriteResult, assign, rewrite
from gsvckpt.engine.open import blame
from gsvckpt.engine.resources import Resources
from gsvckpt.engine.write import OnOverflow
from gsvckpt.errors import OutputError, UsageError, as_error
from gsvckpt.files.paths import require_local
from gsvckpt.files.progress import Silent

if TYPE_CHECKING:
    from gsvckpt.commands.bundle.result import BundleResult


def migrate(
    sources: Paths,
    *,
    salvage: bool = False,
    to_inference: bool = False,
    config: AnyPath | None = None,
    step: int | None = None,
    merge_lora: AnyPath | None = None,
    over_base: bool = False,
    rules: Paths = (),
    include: Texts = (),
    exclude: Texts = (),
    like: AnyPath | None = None,
    fill: bool = False,
    plain: bool = False,
    scrub_paths: bool = False,
    dtype: MigrateDType | None = None,
    on_overflow: OnOverflow = "keep",
    to: ContainerName | None = None,
    head: str = "auto",
    max_shard_size: str | int | None = None,
    compact: bool = False,
    bundle: AnyPath | None = None,
    output: AnyPath | None = None,
    in_place: bool = False,
    force: bool = False,
    dry_run: bool = False,
    check: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    cluster: str | None = None,
) -> RewriteResult | BundleResult:
    """Convert checkpoints to the form that is needed next, as `gsvckpt migrate` does; with `bundle`, copy one voice to that folder.

    Raises GsvError where no source could be done; of several, `errors` has those that could not.
    """
    require_choice(dtype, get_args(MigrateDType), "--dtype")
    require_choice(on_overflow, get_args(OnOverflow), "--on-overflow")
    require_choice(to, get_args(ContainerName), "--to")
    require_at_least(0, step, "--step")
    resources = resources_of(device, jobs, cluster)
    asked = MigrateOptions(
        salvage,
        to_inference,
        path_or_none(config),
        step,
        path_or_none(merge_lora),
        over_base,
        tuple(paths_of(rules)) if rules else (),
        texts_of(include),
        texts_of(exclude),
        path_or_none(like),
        fill,
        plain,
        scrub_paths,
        dtype,
        on_overflow,
        to,
        head,
        str(max_shard_size) if max_shard_size is not None else None,
        compact,
    )
    destination = asked.destination(path_or_none(output), in_place, force, dry_run, check)
    if bundle is not None:
        refuse_beside_bundle(asked, destination)
        return _bundle(paths_of(sources), path_of(bundle), asked, resources, dry_run=dry_run)
    return rewrite(assign("migrate", paths_of(sources), destination, asked.recipe(destination, resources), resources))


def _bundle(sources: Sequence[str], folder: str, asked: MigrateOptions, resources: Resources, *, dry_run: bool) -> BundleResult:
    from gsvckpt.commands.bundle.bundle import bundle
    from gsvckpt.commands.bundle.contents import BundleOptions
    from gsvckpt.commands.bundle.result import BundleResult

    require_local([*sources, folder], "--bundle")
    if len(sources) != 1:
        raise UsageError("bundles one experiment, so give one SOURCE", where="--bundle")
    options = BundleOptions(asked.config, asked.step, dry_run, resources.workers, resources.threads.fixed, resources.device)
    try:
        with blame(sources[0]):
            done = bundle(sources[0], folder, options, Silent())
    except OSError as caught:
        raise as_error(caught, sources[0], OutputError) from caught
    return BundleResult(done, done.warnings)
