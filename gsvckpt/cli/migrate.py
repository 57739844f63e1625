"""gsvckpt migrate"""

from __future__ import annotations

from typing import Annotated

import typer

from gsvckpt.cli.options import Outputs, Settings, shared_options
from gsvckpt.cli.writing import bundle_one, rewrite_each
from gsvckpt.commands.rewrite.migrate_options import ContainerName, MigrateDType, MigrateOptions, refuse_beside_bundle
from gsvckpt.engine.write import OnOverflow
from gsvckpt.files.paths import require_local

EXAMPLES = """
**Examples**

`gsvckpt migrate old-voice.pth  # into the form that GPT-SoVITS expects`

`gsvckpt migrate logs/alice/logs_s2_v2/G_16.pth --to-inference  # small weights`

`gsvckpt migrate alice_e8_s16_l32.pth --merge-lora s2Gv3.pth  # full v3 weights`

`gsvckpt migrate epoch=1-step=12.ckpt --plain -o fixed/  # for Lightning 2.6`

`gsvckpt migrate broken.pth --salvage --like base.pth --fill  # rest from base`

`gsvckpt migrate model.pth --rules ddp --dtype float16 --dry-run  # a plan`

`gsvckpt migrate logs/alice --bundle alice/  # one voice, for another machine`

**Steps**, in this order: --salvage, --to-inference, --merge-lora, --rules, --include/--exclude, --like and --fill,
--plain, --scrub-paths, --dtype, --to, --head
"""
_STEPS = "Steps"


@shared_options()
def migrate(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Checkpoints (.pth, .ckpt, .bin, .safetensors); also URLs.", show_default=False)
    ],
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage", help="Write the tensors that survived in a damaged file, and list those that are lost (exit 1).", rich_help_panel=_STEPS
        ),
    ] = False,
    to_inference: Annotated[
        bool, typer.Option("--to-inference", help="Make small weights for inference from a training file.", rich_help_panel=_STEPS)
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Take the config from the run's config.json, TOML printed by inspect --config, or small weights of that run.",
            show_default=False,
            rich_help_panel=_STEPS,
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", min=0, metavar="N", help="The step, if the file's name does not state it.", show_default=False, rich_help_panel=_STEPS
        ),
    ] = None,
    merge_lora: Annotated[
        str | None, typer.Option("--merge-lora", metavar="BASE", help="Merge a LoRA into its base, giving full weights.", rich_help_panel=_STEPS)
    ] = None,
    over_base: Annotated[
        bool,
        typer.Option(
            "--over-base",
            help="With --merge-lora: keep the first bytes of the official base, by which GPT-SoVITS recognises v4.",
            rich_help_panel=_STEPS,
        ),
    ] = False,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules", metavar="FILE", help="Rename, drop, keep and cast tensors by a TOML file or a preset (repeatable).", rich_help_panel=_STEPS
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Keep only matching tensors (repeatable).", rich_help_panel=_STEPS)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out matching tensors (repeatable).", rich_help_panel=_STEPS)
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="REF",
            help="Keep only tensors that have the same name and shape in this checkpoint or layout (v2).",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill", help="Take missing tensors from the checkpoint of --like, if it is of the same version.", rich_help_panel=_STEPS)
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Replace classes by plain values (HParams by dicts, paths by text, cuda by cpu); a warning names those that stay.",
            rich_help_panel=_STEPS,
        ),
    ] = False,
    scrub_paths: Annotated[
        bool, typer.Option("--scrub-paths", help="Remove private folders and the experiment's name.", rich_help_panel=_STEPS)
    ] = False,
    dtype: Annotated[
        MigrateDType | None,
        typer.Option("--dtype", metavar="DTYPE", help="Cast the model's floats: float32, float16, bfloat16.", rich_help_panel=_STEPS),
    ] = None,
    on_overflow: Annotated[
        OnOverflow,
        typer.Option(
            "--on-overflow",
            help="For values beyond the new dtype: keep the dtype of that tensor, clamp the values, or refuse the file.",
            rich_help_panel=_STEPS,
        ),
    ] = "keep",
    to: Annotated[ContainerName | None, typer.Option("--to", help="Write this container.", rich_help_panel=_STEPS)] = None,
    head: Annotated[
        str,
        typer.Option(
            "--head", metavar="auto|PK|00..07", help="Write these first two bytes, from which GPT-SoVITS reads the version.", rich_help_panel=_STEPS
        ),
    ] = "auto",
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Split into safetensors files of at most this size, with an index: 500MB, 4GiB.",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Leave out bytes that no tensor reaches, as around slices of a larger one.", rich_help_panel=_STEPS)
    ] = False,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle",
            metavar="DIR",
            help="Copy one voice of an experiment to this folder: checkpoints by epoch, small weights, config, log, manifest.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    *,
    outputs: Outputs,
    settings: Settings,
) -> int:
    """Convert a checkpoint to the form that is needed next.

    Without any step it writes today's container (old torch files and compressed zips become plain zips) with the head that GPT-SoVITS expects.
    The result says which version GPT-SoVITS detects before and after; a file that it would misread is not written.
    """
    asked = MigrateOptions(
        salvage,
        to_inference,
        config,
        step,
        merge_lora,
        over_base,
        tuple(rules or ()),
        tuple(include or ()),
        tuple(exclude or ()),
        like,
        fill,
        plain,
        scrub_paths,
        dtype,
        on_overflow,
        to,
        head,
        max_shard_size,
        compact,
    )
    destination = asked.destination(*outputs)
    if bundle is not None:
        refuse_beside_bundle(asked, destination)
        require_local([*sources, bundle], "--bundle")
        return bundle_one(sources, bundle, config, step, settings, dry_run=outputs.dry_run)
    return rewrite_each("migrate", sources, destination, asked.recipe(destination, settings.resources), settings)
