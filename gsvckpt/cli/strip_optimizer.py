"""gsvckpt strip-optimizer"""

from __future__ import annotations

from typing import Annotated

import typer

from gsvckpt.cli.options import (
    CheckOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    InPlaceOption,
    JobsOption,
    JsonOption,
    OutputOption,
    ProgressOption,
    QuietOption,
    Settings,
    VerboseOption,
)
from gsvckpt.cli.writing import rewrite_each
from gsvckpt.destinations import Destination
from gsvckpt.errors import RefusedError, UsageError
from gsvckpt.examination import Examination
from gsvckpt.report.writes import removed
from gsvckpt.rewriting import Planned
from gsvckpt.sovits.resume import missing_keys, required, training_state
from gsvckpt.transforms.plan import Plan
from gsvckpt.transforms.strip import strip

EXAMPLES = """
**Examples**

`gsvckpt strip-optimizer logs/me/logs_s2_v2/G_16.pth`  writes weights-G_16.pth beside it

`gsvckpt strip-optimizer logs/me/logs_s2_v2/[GD]_16.pth --in-place`  frees the space at once

`gsvckpt strip-optimizer run.ckpt -o small.ckpt --drop callbacks`

`gsvckpt strip-optimizer *.ckpt --check`  exit 1 when there is something to strip
"""


def strip_optimizer(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Training checkpoints: .pth, .ckpt, .pt.", show_default=False)],
    drop: Annotated[list[str] | None, typer.Option("--drop", metavar="KEY", help="Remove this root entry, too (repeatable).")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="KEY", help="Leave this root entry (repeatable).")] = None,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    check: CheckOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    progress: ProgressOption = None,
    device: DeviceOption = "cpu",
    jobs: JobsOption = None,
) -> int:
    """Remove optimizer, scheduler, scaler and callback state: about two thirds of a training file.

    Every tensor that stays keeps its exact bytes. GPT-SoVITS still resumes from the result, at the same epoch, with fresh optimizer moments: S2 files
    keep `optimizer: None`, GPT files keep empty lists and their `loops`, which hold the epoch. Strip a G and its D together.
    """
    settings = Settings(json, quiet, verbose, progress, device, jobs)
    destination = Destination("weights", output, in_place, force, dry_run, check)

    def make(examination: Examination, plan: Plan) -> Planned:
        for option, keys in (("--drop", drop or ()), ("--keep", keep or ())):
            unknown = missing_keys(plan.root, keys)
            if unknown:
                raise UsageError(f"there is no root entry {unknown[0]!r}", where=option, hint=f"root entries: {', '.join(_keys(plan.root))}")
        needed = [key for key in drop or () if key in required(plan.root, examination.identity.kind)]
        if needed and not force:
            raise RefusedError(f"training could not go on from it without {needed[0]}", where="--drop", hint="--force insists")
        kind, known = examination.identity.kind, examination.roles
        usual = training_state(plan.root, kind, known=known)
        more = [key for key in drop or () if key not in usual]  # a key that goes anyhow keeps what resuming needs in its place
        return Planned(strip(plan, training_state(plan.root, kind, drop=more, keep=keep or (), known=known)), examination.identity)

    return rewrite_each("strip-optimizer", sources, destination, settings, make, removed)


def _keys(root: object) -> list[str]:
    return [str(key) for key in root] if isinstance(root, dict) else []
