"""Checkpoints as literals: trees built straight from the data model, around state dicts made from the reference layouts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gsvckpt.dtypes import DTYPES
from gsvckpt.model import Checkpoint, Container, Global, Opaque, Storage, Tensor, contiguous_stride
from gsvckpt.sovits.kinds import Identity, identify
from gsvckpt.sovits.layouts import layout


@dataclass(frozen=True)
class NoBytes:
    """A source that fails the test when anything reads it: everything here must be told without tensor bytes."""

    path: str = "x.pth"
    size: int = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("tensor bytes were read")


def tensor(*shape: int, dtype: str = "float32") -> Tensor:
    numel = 1
    for n in shape:
        numel *= n
    return Tensor(Storage("0", DTYPES[dtype], numel, "cpu", NoBytes(), 0), DTYPES[dtype], shape, contiguous_stride(shape))


def parameter(*shape: int) -> Opaque:
    return Opaque(Global("torch._utils", "_rebuild_parameter"), "reduce", (tensor(*shape), True, OrderedDict()))


def state(name: str, rank: int = 32, without: str = "\0") -> dict[str, Tensor]:
    return {key: tensor(*shape) for key, (_, shape) in layout(name, rank).items() if without not in key}


def hparams(values: Mapping[str, object]) -> Opaque:
    nested = {key: hparams(value) if isinstance(value, dict) else value for key, value in values.items()}
    return Opaque(Global("utils", "HParams"), "newobj", (), [("build", nested)])


def config(version: str | None = None, **more: object) -> Opaque:
    model = {"gin_channels": 512} | ({"version": version} if version else {})
    return hparams({"model": model, **({"version": version} if version else {}), **more})


def posix(*parts: str, kind: str = "PosixPath", module: str = "pathlib") -> Opaque:
    return Opaque(Global(module, kind), "reduce", parts)


def small(weight: object, version: str | None = None, info: object = "8epoch_16iteration", **more: object) -> dict[str, object]:
    return {"weight": weight, "config": config(version), "info": info, **more}


def optimizer() -> dict[str, object]:
    return {"state": {0: {"step": tensor(), "exp_avg": tensor(4), "exp_avg_sq": tensor(4)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}


def s2_training(model: object, epoch: int = 8) -> dict[str, object]:
    return {"model": model, "iteration": epoch, "optimizer": optimizer(), "learning_rate": 1e-4}


def s1_training(model: object) -> dict[str, object]:
    return {
        "epoch": 1,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"my_model_ckpt{'monitor': 'top_3_acc'}": {"best_model_score": tensor()}},
        "optimizer_states": [optimizer()],
        "lr_schedulers": [{"init_lr": 1e-5}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": {"train": {"epochs": 2}}, "output_dir": posix("logs", "xxx", "logs_s1_v2"), "is_train": True},
    }


def checkpoint(root: object, head: str | None = "PK", size: int = 1000) -> Checkpoint:
    return Checkpoint(NoBytes(size=size), Container("torch-zip", 10, head=head), root)


def identity(root: object, name: str = "x.pth", head: str = "PK", first8k: bytes = b"", size: int = 1000) -> Identity:
    return identify(checkpoint(root, head, size), name, first8k or head.encode() + b"\3\4")
