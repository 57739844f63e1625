"""Saves as other programs write them, in the fewest tensors, and what a plan would take of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from support.builders import Make, Name, View, pickled, safetensors, tensor, torch_zip

from .samples import adamw, numbers, weights
from .trees import dated

_DCP = "torch.distributed.checkpoint"


def going(gsvckpt, root: Path, *rules: str) -> set[str]:
    """The files below a folder that rules would take: those of the plan, which must not touch the disk."""
    before = sorted(root.rglob("*"))
    run = gsvckpt("prune", root, *rules, "--dry-run", "--json")
    assert sorted(root.rglob("*")) == before
    assert run.code == 0, run.err
    return {os.path.relpath(path, root).replace(os.sep, "/") for group in run.document["groups"] for one in group["remove"] for path in one["paths"]}


def left(gsvckpt, root: Path, *rules: str) -> dict[str, str]:
    """What a plan leaves alone, and why."""
    document = gsvckpt.json("prune", root, *rules, "--dry-run").document
    return {os.path.relpath(one["path"], root).replace(os.sep, "/"): one["why"] for one in document["ignored"]}


def notes(gsvckpt, root: Path, *rules: str) -> list[str]:
    """What a plan says of its groups."""
    return [group["note"] for group in gsvckpt.json("prune", root, *rules, "--dry-run").document["groups"] if group.get("note")]


def below(root: Path, *folders: str) -> set[str]:
    """The files in folders."""
    return {path.relative_to(root).as_posix() for folder in folders for path in (root / folder).rglob("*") if path.is_file()}


def put(path: Path, content: object, hours: float = 0) -> Path:
    """A file of bytes, of a text, of state for safetensors by its name, or of a tree for torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".safetensors" and isinstance(content, Mapping):
        path.write_bytes(flat(content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_bytes(torch_zip(content))
    return dated(path, hours)


def fill(folder: Path, files: Mapping[str, object], hours: float = 0) -> Path:
    """A folder of files of one time."""
    for name, content in files.items():
        put(folder / name, content, hours)
    return folder


def flat(state: Mapping[str, View], metadata: Mapping[str, str] | None = None) -> bytes:
    """State as safetensors."""
    return safetensors({name: ("F32", view.shape, view.store.data) for name, view in state.items()}, metadata)


def model(seed: int = 1, names: Iterable[str] = ("a", "b")) -> dict[str, View]:
    """A network that nobody knows."""
    return {f"net.{name}.weight": numbers((4, 4), seed=seed) for name in names}


def vits(epoch: int, state: Mapping[str, View] | None = None) -> dict[str, object]:
    """What VITS and all that came of it save (utils.save_checkpoint), of a network that is not GPT-SoVITS's."""
    state = weights({"emb_g.weight": (1, 8), "pre.weight": (8, 8, 5), "f0_decoder.proj.weight": (1, 8, 1)}) if state is None else state
    return {"model": dict(state), "iteration": epoch, "optimizer": adamw(state), "learning_rate": 1e-4}


def lightning(epoch: int, step: int, folder: str = "", **callback: object) -> dict[str, object]:
    """What Lightning saves; `epoch` counts from 0."""
    told = {"monitor": "val_loss", "best_model_path": "", "dirpath": folder, **callback}
    return {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": model(),
        "loops": {},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": told} if folder or callback else {},
        "optimizer_states": [adamw(model())],
        "lr_schedulers": [],
    }


def trainer(folder: Path, step: int, hours: float, *, ranks: int = 1, best: str | None = None) -> Path:
    """A `checkpoint-N` of Hugging Face's Trainer."""
    states = {f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth": {"cpu": tensor("uint8", (16,))} for rank in range(ranks)}
    files = {
        "model.safetensors": model(),
        "config.json": {"model_type": "bert"},
        "optimizer.pt": adamw(model()),
        "scheduler.pt": {"last_epoch": step, "_step_count": step + 1},
        "trainer_state.json": {"global_step": step, "epoch": step / 100, "best_model_checkpoint": best, "log_history": []},
        "training_args.bin": {"seed": 42},
        **states,
    }
    return fill(folder / f"checkpoint-{step}", files, hours)


def deepspeed(step: int, ranks: int) -> dict[str, object]:
    """The files of DeepSpeed's ZeRO-3 for one step."""
    models = {
        f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt": {"module": model(rank), "ds_version": "0.15", "global_steps": step}
        for rank in range(ranks)
    }
    partition = {"zero_stage": 3, "fp32_flat_groups": [numbers((20,))]}
    optimizers = {
        f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt": {"optimizer_state_dict": partition, "ds_version": "0.15"} for rank in range(ranks)
    }
    return {**models, **optimizers}


def distributed(files: int = 2, size: int = 256) -> dict[str, object]:
    """What torch.distributed.checkpoint saves: `.metadata`, and a file for each rank."""
    names = [f"__{rank}_0.distcp" for rank in range(files)]

    def stored(name: str) -> Make:
        return _made("filesystem", "_StorageInfo", relative_path=name, offset=0, length=size)

    def index(name: str) -> Make:
        return _made("metadata", "MetadataIndex", fqn=name, offset=None, index=None)

    sizes = {name: _made("metadata", "TensorStorageMetadata", size=Make(Name("torch", "Size"), ((4, 4),))) for name in ("model.a", "model.b")}
    metadata = _made("metadata", "Metadata", state_dict_metadata=sizes, storage_data={index(name): stored(name) for name in names}, planner_data=None)
    return {".metadata": pickled(metadata), **{name: bytes(size) for name in names}}


def _made(module: str, name: str, **state: object) -> Make:
    return Make(Name(f"{_DCP}.{module}", name), new=True, state=state)


def cut(path: Path, share: float = 0.5) -> Path:
    """A file of which the disk took only the beginning; its time stays."""
    facts = path.stat()
    path.write_bytes(path.read_bytes()[: int(facts.st_size * share)])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return path
