"""The voices that demo and bench build are what GPT-SoVITS's own would be."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from gsvckpt.engine.write import lay_out
from gsvckpt.model import Checkpoint, Container, Storage, walk
from gsvckpt.sovits.kinds import identify
from gsvckpt.sovits.layouts import layout
from gsvckpt.sovits.upstream import Detection, detect
from gsvckpt.transforms.plan import begin
from tests import demo
from tests.support import voices


@pytest.fixture(scope="module")
def maker():
    return voices.Maker()


@pytest.fixture
def utils(monkeypatch):
    """GPT-SoVITS's module that the config's pickle names."""
    module = ModuleType("utils")
    module.HParams = type("HParams", (), {})
    monkeypatch.setitem(sys.modules, "utils", module)


def imagined(root):
    """A checkpoint that is in no file yet."""
    return Checkpoint(voices.Nothing(), Container("torch-zip", 0, head="PK"), root)


def test_sovits_weights_open_in_torch_and_in_gpt_sovits(maker, utils, tmp_path):
    path = voices.write(voices.sovits_weights(maker, "alice", "v2", epoch=8, step=200), tmp_path / demo.SOVITS.name, "v2")
    with path.open("rb") as file:
        assert detect(file.read(8192), path.stat().st_size) == Detection("v2", "v2", False, "size")
    loaded = torch.load(path, weights_only=False, mmap=True)
    expected = layout("sovits-v2-small")
    assert {name: tuple(tensor.shape) for name, tensor in loaded["weight"].items()} == {name: shape for name, (_, shape) in expected.items()}
    assert {tensor.dtype for tensor in loaded["weight"].values()} == {torch.float16}
    assert loaded["config"].model.version == "v2"
    weight = loaded["weight"]["enc_p.ssl_proj.weight"].float()
    assert 0.019 < weight.std() < 0.021
    del loaded, weight
    path.unlink()  # pytest keeps the folders of its last runs


@pytest.mark.parametrize(
    ("make", "path", "kind", "epoch"),
    [
        (lambda maker: voices.sovits_weights(maker, "alice", "v2", epoch=8, step=200), demo.SOVITS, "sovits-weights", 8),
        (lambda maker: voices.gpt_weights(maker, "alice", "v2", epoch=15), demo.GPT, "gpt-weights", 15),
        (lambda maker: voices.generator_training(maker, "v2", epoch=8, step=200), demo.TRAINING, "sovits-generator-training", 8),
    ],
)
def test_each_is_known_for_what_it_is(maker, make, path, kind, epoch):
    identity = identify(imagined(make(maker)), path.as_posix(), b"PK")
    assert (identity.kind, identity.version, identity.progress.epoch, identity.notes) == (kind, "v2", epoch, ())


def test_training_files_are_as_large_as_real_ones(maker):
    for version, storages, size in (("v2", 3086, 613_505_381), ("v2ProPlus", 3106, 1_177_847_981)):
        root = voices.generator_training(maker, version, epoch=8, step=200)
        assert len({leaf if isinstance(leaf, Storage) else leaf.storage for _, leaf in walk(root)}) == storages
        assert lay_out(begin(imagined(root))).size == pytest.approx(size, rel=0.001)


def test_half_and_full_precision_agree(maker):
    half, full = (maker.tensor("enc_p.proj.weight", (64,), dtype) for dtype in ("float16", "float32"))
    values = []
    for tensor in (half, full):
        buffer = bytearray(tensor.nbytes)
        tensor.storage.source.read_into(tensor.storage.offset, memoryview(buffer))
        values.append(torch.frombuffer(buffer, dtype=getattr(torch, tensor.dtype.name)))
    assert torch.equal(values[0], values[1].half())
