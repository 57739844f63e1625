"""Checkpoints of real shape without a model: GPT-SoVITS's own tree around the reference layouts, filled with numbers that are always the same.

`write` needs NumPy but not torch, and the memory of one table of numbers whatever the file's size.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.write import Engine
from gsvckpt.model import Checkpoint, Container, Global, Opaque, Storage, Tensor, contiguous_stride
from gsvckpt.sovits import upstream
from gsvckpt.sovits.layouts import layout
from gsvckpt.transforms.plan import Plan

TABLE = (1 << 22) + 59  # odd, so that the rows of a large matrix do not repeat


class Numbers:
    """A source without end that repeats one table. A storage begins at a place drawn from its name, so equal names hold equal values in any dtype."""

    def __init__(self, values: np.ndarray) -> None:
        self.path = "numbers"
        self.size = 1 << 62
        self._itemsize = values.itemsize
        self._bytes = memoryview(values.tobytes())

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            start = (offset + done) % len(self._bytes)
            count = min(len(buffer) - done, len(self._bytes) - start)
            buffer[done : done + count] = self._bytes[start : start + count]
            done += count

    def place(self, name: str) -> int:
        return zlib.crc32(name.encode()) % TABLE * self._itemsize


class Maker:
    """Makes tensors: weights, Adam's moments, and the counters of a codebook. `tiny` gives a layout's tensors one element each, but for the table by
    whose rows versions are told apart. `loud` gives the vocoder weights with which one hears something.
    """

    def __init__(self, *, tiny: bool = False, loud: bool = False) -> None:
        self._tiny = tiny
        self._loud = loud
        rng = np.random.default_rng(20240117)
        normal = rng.standard_normal(TABLE, np.float32)
        counts = rng.uniform(1, 4000, TABLE).astype(np.float32)  # how often a codebook entry was used
        self._tables = {
            "weight": normal * np.float32(0.02),
            "exp_avg": normal * np.float32(1e-4),
            "exp_avg_sq": np.square(normal) * np.float32(1e-8),
            "count": counts,
            "gain": (np.abs(normal) + 1) * np.float32(0.625),
        }
        self._sources: dict[tuple[str, str], Numbers] = {}

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "float32", table: str = "weight") -> Tensor:
        if name.endswith("cluster_size"):
            table = "count"
        elif self._loud and name.startswith("dec.") and name.endswith("weight_g"):
            table = "gain"
        storage = self._storage(name, int(np.prod(shape)), dtype, table)
        return Tensor(storage, storage.dtype, shape, contiguous_stride(shape))

    def constant(self, value: float, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        numel = int(np.prod(shape))
        source = Numbers(np.full(numel, value, dtype))
        return Tensor(Storage("", DTYPES[dtype], numel, "cpu", source, 0), DTYPES[dtype], shape, contiguous_stride(shape))

    def state(self, name: str, dtype: str) -> dict[str, Tensor]:
        """The state dict of a reference layout."""
        found = {}
        for key, (_, shape) in layout(name).items():
            if self._tiny:
                shape = (shape[0] if key.endswith(("text_embedding.weight", "text_embedding.word_embeddings.weight")) else 1, *(1 for _ in shape[1:]))  # noqa: PLW2901 - the same, smaller
            found[key] = self.constant(1, shape, dtype) if key.endswith("_codebook.inited") else self.tensor(key, shape, dtype)
        return found

    def _storage(self, name: str, numel: int, dtype: str, table: str) -> Storage:
        key = dtype, table
        if key not in self._sources:
            self._sources[key] = Numbers(self._tables[table].astype(dtype))
        return Storage("", DTYPES[dtype], numel, "cpu", self._sources[key], self._sources[key].place(name))


# --- the trees that upstream's training saves ---------------------------------------------------------------------------------------------------


def sovits_weights(maker: Maker, name: str, version: str, epoch: int, step: int, epochs: int | None = None) -> OrderedDict[str, object]:
    """Weights for inference (process_ckpt.py:41-60), of a run of so many epochs, by default of one that ends here."""
    weight = maker.state(f"sovits-{version}-small" if version not in ("v3", "v4") else f"sovits-{version}", "float16")
    return OrderedDict(weight=weight, config=_hparams(_sovits_config(name, version, epochs or epoch)), info=f"{epoch}epoch_{step}iteration")


def lora_weights(maker: Maker, name: str, version: str, epoch: int, step: int) -> OrderedDict[str, object]:
    """A LoRA of rank 32 for inference (s2_train_v3_lora.py:361-387)."""
    config = _hparams(_sovits_config(name, version, epoch))
    return OrderedDict(weight=maker.state(f"lora-{version}", "float16"), config=config, info=f"{epoch}epoch_{step}iteration", lora_rank=32)


def gpt_weights(maker: Maker, name: str, version: str, epoch: int, epochs: int | None = None) -> OrderedDict[str, object]:
    """Weights for inference (s1_train.py:62-81), of a run of so many epochs, by default of one that ends here."""
    weight = OrderedDict(maker.state("gpt-v1" if version == "v1" else "gpt-v2", "float16"))
    return OrderedDict(weight=weight, config=_gpt_config(name, version, epochs or epoch), info=f"GPT-e{epoch}")


def generator_training(maker: Maker, version: str, epoch: int, step: int) -> dict[str, object]:
    """What v1, v2 and v2Pro resume from (utils.py:75-90)."""
    model = OrderedDict(maker.state(f"sovits-{version}", "float32"))
    modules = dict.fromkeys(".".join(key.split(".")[:depth]) for key in model for depth in range(key.count(".") + 1))
    model._metadata = OrderedDict((module, {"version": 1}) for module in modules)  # type: ignore[attr-defined]  # torch's own attribute
    return {"model": model, "iteration": epoch, "optimizer": _adamw(maker, model, step), "learning_rate": 1e-4}


def gpt_training(maker: Maker, version: str, epoch: int, step: int) -> dict[str, object]:
    """What Lightning writes for a GPT run, without optimizer moments (s1_train.py, measured with pytorch-lightning 2.5.6)."""
    return {
        "epoch": epoch - 1,
        "global_step": step,
        "pytorch-lightning_version": "2.5.6",
        "state_dict": OrderedDict(maker.state("gpt-v1" if version == "v1" else "gpt-v2", "float32")),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": _gpt_config("alice", version, epoch), "output_dir": "logs/alice/logs_s1_v2", "is_train": True},
    }


def lora_training(maker: Maker, version: str, epoch: int, step: int) -> dict[str, object]:
    """What a LoRA run of rank 32 resumes from: the whole model with its frozen base, and one optimizer group (s2_train_v3_lora.py)."""
    model = OrderedDict(maker.state(f"lora-training-{version}", "float32"))
    trained = [name for name in model if "lora_" in name or name.startswith(("wns1.", "bridge.", "linear_mel.", "ref_enc."))]
    state = {
        index: {
            "step": maker.constant(step, ()),
            **{table: maker.tensor(name, model[name].shape, table=table) for table in ("exp_avg", "exp_avg_sq")},
        }
        for index, name in enumerate(trained)
    }
    optimizer = {"state": state, "param_groups": [{"lr": 1e-4, "params": list(range(len(trained)))}]}
    return {"model": model, "iteration": epoch, "optimizer": optimizer, "learning_rate": 1e-4}


def sovits_config(name: str, version: str, epochs: int) -> dict[str, object]:
    """An experiment's config.json: what the config in small weights has, but for what the argument parser adds (utils.py:213-232)."""
    return {key: value for key, value in _sovits_config(name, version, epochs).items() if key not in ("pretrain", "resume_step")}


def _adamw(maker: Maker, model: Mapping[str, Tensor], step: int) -> dict[str, object]:
    """Four groups (s2_train.py:172-192). Buffers have no state, and neither has ssl_proj, whose gradient the frozen quantizer stops."""
    slow = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")
    parameters = [name for name in model if "_codebook." not in name]
    groups = [[name for name in parameters if not name.startswith(slow)], *([name for name in parameters if name.startswith(part)] for part in slow)]
    state, described = {}, []
    count = 0
    for group, rate in zip(groups, (1e-4, 4e-5, 4e-5, 4e-5), strict=True):
        for index, name in enumerate(group, count):
            if not name.startswith("ssl_proj."):
                moments = {table: maker.tensor(name, model[name].shape, table=table) for table in ("exp_avg", "exp_avg_sq")}
                state[index] = {"step": maker.constant(step, ()), **moments}
        described.append({"lr": rate, "betas": (0.8, 0.99), "eps": 1e-9, "weight_decay": 0.01, "amsgrad": False, "maximize": False, "foreach": None})
        described[-1] |= {"capturable": False, "differentiable": False, "fused": None, "decoupled_weight_decay": True, "initial_lr": rate}
        described[-1]["params"] = list(range(count, count + len(group)))
        count += len(group)
    return {"state": state, "param_groups": described}


def _hparams(values: Mapping[str, object]) -> Opaque:
    nested = {key: _hparams(value) if isinstance(value, dict) else value for key, value in values.items()}
    return Opaque(Global("utils", "HParams"), "newobj", (), [("build", nested)])


def _sovits_config(name: str, version: str, epochs: int) -> dict[str, object]:
    pro = version.startswith("v2Pro")
    plus = version == "v2ProPlus"
    train = {
        "batch_size": 4,
        "c_kl": 1.0,
        "c_mel": 45,
        "epochs": epochs,
        "fp16_run": True,
        "learning_rate": 1e-4,
        "lora_rank": "32",
        "save_every_epoch": 4,
    }
    train |= {"segment_size": 20480, "seed": 1234, "text_low_lr_rate": 0.4}
    data = {"filter_length": 2048, "hop_length": 640, "win_length": 2048, "sampling_rate": 32000, "max_wav_value": 32768.0, "n_mel_channels": 128}
    data |= {"n_speakers": 300, "add_blank": True, "cleaned_text": True, "mel_fmin": 0.0, "mel_fmax": None, "exp_dir": f"logs/{name}"}
    model = {"inter_channels": 192, "hidden_channels": 192, "filter_channels": 768, "n_heads": 2, "n_layers": 6, "n_layers_q": 3, "kernel_size": 3}
    model |= {"p_dropout": 0.1, "resblock": "1", "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3}
    model |= {"upsample_rates": [10, 8, 2, 2, 2], "upsample_initial_channel": 768 if plus else 512}
    model |= {"upsample_kernel_sizes": [20 if plus else 16, 16, 8, 2, 2], "use_spectral_norm": False, "gin_channels": 1024 if pro else 512}
    model |= {"semantic_frame_rate": "25hz", "freeze_quantizer": True, "version": version}
    config = {"train": train, "data": data, "model": model, "s2_ckpt_dir": f"logs/{name}", "content_module": "cnhubert"}
    return {**config, "save_weight_dir": f"SoVITS_weights_{version}", "name": name, "version": version, "pretrain": None, "resume_step": None}


def _gpt_config(name: str, version: str, epochs: int) -> dict[str, object]:
    folder = f"GPT_weights_{version}"
    train = {"seed": 1234, "epochs": epochs, "batch_size": 8, "save_every_n_epoch": 5, "precision": "16-mixed", "gradient_clip": 1.0}
    train |= {"if_save_every_weights": True, "if_save_latest": True, "if_dpo": False, "half_weights_save_dir": folder, "exp_name": name}
    model = {"vocab_size": 1025, "phoneme_vocab_size": 512 if version == "v1" else 732, "embedding_dim": 512, "hidden_dim": 512, "head": 16}
    model |= {"linear_units": 2048, "n_layer": 24, "dropout": 0, "EOS": 1024, "random_bert": 0}
    config = {"train": train, "optimizer": {"lr": 0.01, "lr_init": 1e-5, "lr_end": 1e-4, "warmup_steps": 2000, "decay_steps": 40000}}
    config |= {"data": {"max_eval_sample": 8, "max_sec": 54, "num_workers": 4, "pad_val": 1024}, "model": model, "inference": {"top_k": 15}}
    return {**config, "output_dir": f"logs/{name}/logs_s1_{version}"}


# --- writing ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nothing:
    """The source of a checkpoint that comes from no file."""

    path: str = "nothing"
    size: int = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("its tensors have sources of their own")


def write(root: object, path: Path, version: str | None = None) -> Path:
    """Write a tree as a torch zip; with `version`, under the head or in the size window by which GPT-SoVITS tells it."""
    return _write(root, path, upstream.head_for(version, lora=False), version)


def write_lora(root: object, path: Path, version: str) -> Path:
    """Write a LoRA under its head."""
    return _write(root, path, upstream.head_for(version, lora=True), version)


def _write(root: object, path: Path, head: str, version: str | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    window = upstream.size_window(version) if head == "PK" else None
    checkpoint = Checkpoint(Nothing(), Container("torch-zip", records=0), root)
    Engine(jobs=os.cpu_count() or 1).write(Plan(checkpoint, root, "torch-zip", head, window), str(path), overwrite=True)
    return path
