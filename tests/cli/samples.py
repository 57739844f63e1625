"""Checkpoints of every kind, shrunk to the tensors by which they are told apart, and a way to run the program on them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.builders import Make, Name, Store, View, hparams, row_major, tensor, torch_zip
from support.hints import problems_in

from gsvckpt.cli.app import main

ROOT = Path(__file__).parents[2]
KEYS = {"schema", "gsvckpt", "exit_code", "files"}
ERROR_KEYS = {"kind", "where", "why", "hint"}


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def file(self):
        (file,) = self.document["files"]
        return file


class Program:
    """Runs `main` in this process and hands back what it printed."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *argv):
        self._capsys.readouterr()
        code = main([os.fspath(word) for word in argv])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert problems_in(f"{out}\n{err}") == []
        return Run(code, out, err)

    def json(self, *argv, exit_code=0):
        """The document of a run with --json, whose promises hold for every command."""
        run = self(*argv, "--json")
        assert run.code == exit_code, run.err
        document = json.loads(run.out)
        assert document.keys() >= KEYS
        assert document["schema"] == f"gsvckpt.{argv[0]}/2"
        assert document["exit_code"] == run.code
        for file in document["files"]:
            assert ("error" in file) is False or file["error"].keys() == ERROR_KEYS
        return run


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | more


def spawn(*argv, **options):
    """A real process; its output as bytes."""
    command = [sys.executable, "-m", "gsvckpt", *map(os.fspath, argv)]
    return subprocess.run(command, capture_output=True, check=False, env=environment(), timeout=60, **options)


def convert(gsvckpt, source, *options):
    """Run convert-fp16 to another name: its JSON object, and that name."""
    output = source.with_name(f"out{source.suffix}")
    file = gsvckpt.json("convert-fp16", source, "-o", output, "--force", *options).file
    return file, output


def assert_one_error(run, path, code):
    """One error line that names the path, then at most a hint."""
    assert run.code == code, run
    lines = run.err.splitlines()
    assert lines[0].startswith("gsvckpt: ")
    assert str(path) in lines[0]
    assert [line.startswith("hint: ") for line in lines[1:]] in ([], [True])


def leftovers(folder: Path) -> list[str]:
    """Temporary files."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".gsvckpt-")]


# --- trees ---------------------------------------------------------------------------------------------------------------------------------------


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 1) -> View:
    count = 1
    for n in shape:
        count *= n
    rng = random.Random(f"{seed}{shape}")
    return tensor(dtype, shape, [rng.gauss(0, 0.02) for _ in range(count)])


def weights(shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> dict[str, View]:
    return {name: numbers(shape, dtype, seed) for seed, (name, shape) in enumerate(shapes.items())}


SYMBOLS = {"v1": 322, "v2": 732, "v2Pro": 732, "v2ProPlus": 732}


def generator(version: str, dtype: str = "float32", *, enc_q: bool = False) -> dict[str, View]:
    """A SoVITS generator in the fewest tensors that show its version."""
    shapes = {"enc_p.ssl_proj.weight": (8, 4)}
    if version in ("v3", "v4"):
        shapes |= {"cfm.estimator.transformer_blocks.0.attn.to_q.weight": (8, 8), "bridge.0.weight": (4, 4)}
    else:
        shapes |= {"enc_p.text_embedding.weight": (SYMBOLS[version], 2), "dec.conv_pre.weight": (768 if version == "v2ProPlus" else 512, 1)}
    shapes |= {"sv_emb.weight": (4, 4)} if "Pro" in version else {}
    shapes |= {"enc_q.pre.weight": (4, 4)} if enc_q else {}
    return weights(shapes, dtype)


def lora(rank: int = 4) -> dict[str, View]:
    place = "cfm.estimator.transformer_blocks.0.attn.to_q"
    return weights({f"{place}.lora_A.weight": (rank, 8), f"{place}.lora_B.weight": (8, rank), "bridge.0.weight": (4, 4)}, "float16")


def gpt(rows: int = 732, dtype: str = "float16") -> dict[str, View]:
    return weights({"model.h.layers.0.linear1.weight": (8, 4), "model.ar_text_embedding.word_embeddings.weight": (rows, 2)}, dtype)


def discriminator(count: int = 6) -> dict[str, View]:
    return weights({f"discriminators.{n}.convs.0.weight": (4, 2) for n in range(count)})


def sovits_config(version: str) -> Make:
    model = {"version": version, "gin_channels": 512, "upsample_rates": [10, 8, 2, 2, 2], "p_dropout": 0.1}
    data = {"mel_fmax": None, "exp_dir": "logs/声音", "cleaned_text": True}
    return hparams({"train": hparams({"epochs": 8, "lora_rank": "32"}), "data": hparams(data), "model": hparams(model), "name": "声音"})


def small(state: Mapping[str, View], version: str, **more: object) -> OrderedDict[str, object]:
    """S2 weights for inference (process_ckpt.py:41-60)."""
    return OrderedDict(weight=dict(state), config=sovits_config(version), info="8epoch_16iteration", **more)


def adamw(state: Mapping[str, View]) -> dict[str, object]:
    moments = {
        index: {"step": tensor("float32", (), [16.0]), "exp_avg": numbers(v.shape), "exp_avg_sq": numbers(v.shape)}
        for index, v in enumerate(state.values())
    }
    return {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.8, 0.99), "fused": None, "params": list(range(len(state)))}]}


def s2_training(state: Mapping[str, View], epoch: int = 8) -> dict[str, object]:
    """utils.py:75-90"""
    return {"model": OrderedDict(state), "iteration": epoch, "optimizer": adamw(state), "learning_rate": 1e-4}


def s1_training(state: Mapping[str, View]) -> dict[str, object]:
    """What Lightning writes for a GPT run."""
    moments = {"step": 12, "delta": numbers((1, 8, 4)), "exp_avg_sq": numbers((1, 8, 4)), "model_norms": numbers((10,))}
    callback = {"best_model_score": tensor("float32", (), [0.5]), "best_model_path": "/home/me/epoch=1-step=12.ckpt"}
    return {
        "epoch": 1,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": 2}}}},
        "callbacks": {"my_model_ckpt{'monitor': 'top_3_acc'}": callback},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 0.01, "betas": (0.9, 0.95), "params": [0, 1]}]}],
        "lr_schedulers": [{"init_lr": 1e-5, "_current_step": 12}],
        "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0},
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "config": {"train": {"epochs": 2, "precision": "16-mixed"}, "data": {"pad_val": None}},
            "output_dir": Make(Name("pathlib", "PosixPath"), ("logs", "xxx", "logs_s1_v2")),
            "is_train": True,
        },
    }


def shared(dtype: str, shape: tuple[int, ...], store: Store, start: int = 0) -> View:
    return View(store, shape, row_major(shape), start)


def save(path: Path, tree: object, head: bytes = b"PK", **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(torch_zip(tree, head=head, **more))
    return path


def evil() -> dict[str, object]:
    """A voice whose pickle would run a command."""
    return {**small(generator("v2"), "v2"), "extra": Make(Name("os", "system"), ("touch /tmp/gsvckpt-was-here",))}
