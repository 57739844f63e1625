"""Make small weights from training files, and full weights from a LoRA and its base, with the right config."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from gsvckpt.commands.rewrite import training_config
from gsvckpt.commands.rewrite.optimizer_steps import count_steps
from gsvckpt.commands.rewrite.recipe import Planned
from gsvckpt.engine.examine import Examination
from gsvckpt.errors import RefusedError
from gsvckpt.files.paths import absolute
from gsvckpt.sovits import names, small_weights, upstream
from gsvckpt.sovits.config import fields, find_config, make_hparams
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.sections import split_sections
from gsvckpt.sovits.upstream import Detection
from gsvckpt.transforms.merge_lora import Merged, merge, put_over
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.small_weights import SmallWeights, to_inference


class Request(NamedTuple):
    """The options for extracting: the config and the step, whether values are clamped, and whether a base's own bytes are to be kept."""

    config: str | None = None
    step: int | None = None
    clamp: bool = False
    over_base: bool = False


def extract(planned: Planned, request: Request) -> Planned:
    """Plan the small weights that GPT-SoVITS would have saved beside a training file.

    Raises RefusedError for any other file and where its config belongs to another version, MissingError where there is none.
    """
    plan, identity = planned.plan, planned.identity
    path, root = plan.checkpoint.source.path, plan.root
    state = split_sections(root).tensors
    warnings: tuple[str, ...] = ()
    consulted: tuple[str, ...] = ()
    if identity.kind == "gpt-training":
        config = find_config(root)
        if not isinstance(config, dict):
            raise RefusedError("holds no config (hyper_parameters/config), which small weights need", where="hyper_parameters")
        found = small_weights.extract_gpt(identity, state, config, path)
        told = names.folder_version(absolute(path))  # the tensors do not tell what is later than v1
        listed_in = names.weights_folder("gpt", told[0] if told is not None else found.version)
        warnings = (
            ("a GPT training file has its own config and step; --config and --step are for SoVITS",)
            if (request.config or request.step) is not None
            else ()
        )
    elif identity.kind == "sovits-generator-training":
        found, config, where, warnings = _of_generator(plan, identity, request)
        listed_in = names.weights_folder("sovits", found.version)
        plan = replace(plan, changes=(*plan.changes, Change("to-inference", "config", "", where)))
        consulted = (where,)
    else:
        raise RefusedError(
            f"is not a training file that small weights can be made from (it is a {identity.kind})", where="--to-inference", hint=_advice(identity)
        )
    weights = SmallWeights(found.tensors, config, found.info, found.rank, found.ordered, found.head)
    plan = replace(to_inference(plan, weights, len(state), clamp=request.clamp), head=found.head)
    return replace(_extend(planned, plan, found.name, warnings, consulted), listed_in=listed_in)


def merge_lora(planned: Planned, base: Examination, request: Request) -> Planned:
    """Plan the full weights of a LoRA, or of a LoRA training file, on a base that was checked.

    Raises RefusedError where it is no LoRA or does not fit the base.
    """
    plan, identity, name = planned.plan, planned.identity, planned.name
    if identity.lora_rank is None or identity.kind not in ("sovits-lora", "sovits-generator-training"):
        raise RefusedError(f"is not a LoRA of GPT-SoVITS (it is a {identity.kind})", where="--merge-lora")
    root = plan.root if isinstance(plan.root, dict) else {}
    state = split_sections(root).tensors
    config, info = root.get("config"), root.get("info")
    if identity.kind == "sovits-lora" and not fields(config):
        raise RefusedError("has no config, which GPT-SoVITS needs to load weights", where="config")
    version: str | None = identity.version or base.identity.version
    warnings: tuple[str, ...] = ()
    consulted: tuple[str, ...] = ()
    if identity.kind == "sovits-generator-training":
        found, config, where, warnings = _of_generator(plan, identity, request)
        consulted = (where,)
        info, version, state, name = found.info, found.version, dict(found.tensors), found.name
    merged = merge(state, base.state)
    called, suffix = name or names.basename(plan.checkpoint.source.path), f"_l{identity.lora_rank}.pth"
    name = called.replace(suffix, ".pth") if called.endswith(suffix) else name
    told = f"{len(merged.products):,} matrices merged, {merged.from_base:,} from the base"
    change = Change("merge-lora", "model", f"rank {identity.lora_rank}", told)
    plan = replace(plan, products={**plan.products, **merged.products}, head=upstream.head_for(version, lora=False))
    if request.over_base:
        plan = _put_over(replace(plan, changes=(*plan.changes, change)), base, merged, request)
        return _extend(planned, plan, name, (*warnings, _OF_THE_BASE), consulted)
    plan = to_inference(plan, SmallWeights(merged.state, config, str(info or "")), len(state), clamp=request.clamp)
    return _extend(planned, replace(plan, changes=(*plan.changes, change)), name, warnings, consulted)


def _extend(planned: Planned, plan: Plan, name: str | None, warnings: tuple[str, ...], consulted: tuple[str, ...]) -> Planned:
    """The next plan, under the name that upstream would give the file (None: any)."""
    told, others = (*planned.warnings, *warnings), (*planned.consulted, *consulted)
    return replace(planned, plan=plan, name=name, warnings=told, consulted=others)


_OF_THE_BASE = "its config and info are those of the base, because GPT-SoVITS recognises the file by these bytes"


def _put_over(plan: Plan, base: Examination, merged: Merged, request: Request) -> Plan:
    """The merged tensors in a copy of the base's own bytes, by whose beginning GPT-SoVITS knows it."""
    path = base.checkpoint.source.path
    if not isinstance(base.upstream, Detection) or base.upstream.rule != "hash":
        raise RefusedError(
            f"{path} is not a base that GPT-SoVITS recognises by its first bytes", where="--over-base", hint="name the official s2Gv4.pth"
        )
    root, casts, made = put_over(base.checkpoint.root, base.state, merged.state)
    products = {storage: merged.products[original] for storage, original in made.items() if original in merged.products}
    head = base.checkpoint.container.head or "PK"
    plan = replace(plan, container="torch-zip", products=products, casts=casts, clamp=request.clamp, over=base.checkpoint, head=head)
    return plan.with_root(root, Change("merge-lora", "container", "written again", f"over a copy of {path}"))


def _of_generator(plan: Plan, identity: Identity, request: Request) -> tuple[small_weights.SmallFile, object, str, tuple[str, ...]]:
    """(the small file, its config as an object, where that stood, warnings) of a `G_*.pth`, which holds no config itself."""
    path = plan.checkpoint.source.path
    state = split_sections(plan.root).tensors
    settings, where = training_config.find(path, request.config)
    small_weights.check_config(settings, identity, state, where)
    step, warnings = _step_of(plan.root, identity, request)
    if request.config is not None:
        warnings += _doubt(settings, where, path)
    return small_weights.extract_sovits(identity, state, settings, path, step), make_hparams(small_weights.completed(settings)), where, warnings


def _doubt(settings: dict[str, object], where: str, path: str) -> tuple[str, ...]:
    """A warning where a config that was named is of another experiment than the folder of the checkpoint."""
    told, experiment = small_weights.experiments_of(settings), names.experiment(absolute(path))
    if experiment is None or not told or experiment in told:
        return ()
    return (f"{where} is the config of {' or '.join(sorted(told))}, but this checkpoint is of {experiment} by its path",)


def _step_of(root: object, identity: Identity, request: Request) -> tuple[int, tuple[str, ...]]:
    """The number of steps: as named, else from the name, else as the optimizer counted."""
    known = request.step if request.step is not None else identity.progress.step
    if known is not None:
        return known, ()
    counted = count_steps(root)
    if counted is None:
        raise RefusedError(
            "its name does not state the step, and there is no optimizer state to count it",
            where="step",
            hint="--step N; any number will do, upstream only prints it",
        )
    return counted, (f"step {counted} is the optimizer's count, as the file's name does not state it",)


def _advice(identity: Identity) -> str:
    if identity.kind in ("gpt-weights", "sovits-weights", "sovits-lora"):
        return "it already holds small weights"
    return (
        "name a G_*.pth or epoch=*-step=*.ckpt of GPT-SoVITS" if identity.kind != "sovits-discriminator-training" else "D is only needed for training"
    )
