"""gsvckpt convert-fp16"""

from __future__ import annotations

from typing import Annotated

import typer

from gsvckpt.cli.options import Outputs, Settings, shared_options
from gsvckpt.cli.writing import rewrite_each
from gsvckpt.commands.rewrite.convert_fp16 import ConvertFp16
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.engine.write import OnOverflow

EXAMPLES = """
**Examples**

`gsvckpt convert-fp16 G_16.pth  # writes fp16-G_16.pth beside it`

`gsvckpt convert-fp16 voices/*.pth -o small/  # several files into a folder`

`gsvckpt convert-fp16 a.safetensors --keep 'dec.*'  # but the decoder`

`gsvckpt convert-fp16 https://host/a.pth -o s3://bucket/small/  # needs no disk`

`gsvckpt convert-fp16 G_16.pth --dry-run --json  # the audit alone, for scripts`
"""


@shared_options()
def convert_fp16(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Checkpoints (.pth, .ckpt, .safetensors); also URLs.", show_default=False)
    ],
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="GLOB", help="Do not cast matching tensors (repeatable).")] = None,
    on_overflow: Annotated[
        OnOverflow,
        typer.Option("--on-overflow", help="For values beyond 65,504: keep the dtype of that tensor, clamp the values, or refuse the file."),
    ] = "keep",
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error", metavar="X", min=0, help="Refuse the file if a tensor's largest error, relative to its largest value, is above X."
        ),
    ] = None,
    *,
    outputs: Outputs,
    settings: Settings,
) -> int:
    """Cast weights to float16: half the size, and an audit of what the cast did to the values.

    float32, float64 and bfloat16 weights become float16. Integers, booleans and optimizer state stay. A tensor with values that float16 cannot hold
    keeps its dtype, and the report says so. GPT-SoVITS reads the result as the same version. It casts weights to its own precision when it loads
    them, so converting neither cures nor causes silent audio on 10- and 16-series cards: that is its `is_half` setting.
    """
    destination = Destination("fp16", *outputs)
    recipe = ConvertFp16(tuple(keep or ()), on_overflow, max_error)
    return rewrite_each("convert-fp16", sources, destination, recipe, settings)
