"""gsvckpt strip-optimizer"""

from __future__ import annotations

from typing import Annotated

import typer

from gsvckpt.cli.options import Outputs, Settings, shared_options
from gsvckpt.cli.writing import rewrite_each
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.strip_optimizer import StripOptimizer

EXAMPLES = """
**Examples**

`gsvckpt strip-optimizer G_16.pth  # writes weights-G_16.pth beside it`

`gsvckpt strip-optimizer logs_s2_v2/[GD]_16.pth --in-place  # frees the space`

`gsvckpt strip-optimizer run.ckpt -o small.ckpt --drop callbacks  # and these`

`gsvckpt strip-optimizer *.ckpt --check  # exit 1 where something can go`
"""


@shared_options()
def strip_optimizer(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Training checkpoints (.pth, .ckpt, .pt); also URLs.", show_default=False)
    ],
    drop: Annotated[list[str] | None, typer.Option("--drop", metavar="KEY", help="Remove this root entry, too (repeatable).")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="KEY", help="Do not remove this root entry (repeatable).")] = None,
    *,
    outputs: Outputs,
    settings: Settings,
) -> int:
    """Remove optimizer, scheduler, scaler and callback state: about two thirds of a training file.

    Every tensor that stays keeps its exact bytes. GPT-SoVITS still resumes from the result, at the same epoch, with fresh optimizer moments: S2 files
    keep `optimizer: None`, GPT files keep empty lists and their `loops`, which hold the epoch. Strip a G and its D together.
    """
    recipe = StripOptimizer(tuple(drop or ()), tuple(keep or ()), outputs.force)
    return rewrite_each("strip-optimizer", sources, Destination("weights", *outputs), recipe, settings)
