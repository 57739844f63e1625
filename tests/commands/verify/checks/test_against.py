"""--against: the same tensors or not, whatever holds them; torch makes the rounded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.verified import ids, verify

from gsvckpt.commands.verify.findings import CHECKS
from gsvckpt.commands.verify.result import Options

STATE = {
    "enc_p.text_embedding.weight": torch.randn(732, 3),
    "dec.a": torch.randn(4, 6),
    "dec.b": torch.tensor([float("nan"), 1.0, -0.0]),
    "dec.n": torch.arange(3),
}


def against(path: Path, other: Path):
    return verify(path, options=Options(checks=frozenset(c for c in CHECKS if c.startswith("against")), against=str(other)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save({"model": STATE, "iteration": 1, "optimizer": None, "learning_rate": 0.1}, tmp_path / "G_1.pth")
    return tmp_path / "G_1.pth"


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_file_is_the_same(source: Path, dtype: torch.dtype | None) -> None:
    cast = {name: value if dtype is None or not value.is_floating_point() else value.to(dtype) for name, value in STATE.items()}
    torch.save({"weight": cast}, source.with_name("x.pth"))
    save_file(cast, source.with_name("x.safetensors"))
    for path in (source.with_name("x.pth"), source.with_name("x.safetensors")):
        result = against(path, source)
        assert ids(result) == set()
        assert [finding.found for finding in result.findings if finding.check == "against.dtype"] == (
            [] if dtype is None else [str(dtype).removeprefix("torch.")]
        )
        said = "type and value" if dtype is None else "up to the change of type"
        assert [(finding.severity, said in finding.why) for finding in result.findings if finding.check == "against.values"] == [("info", True)]


def test_a_view_and_a_plain_tensor_are_the_same(source: Path) -> None:
    torch.save({"weight": {**STATE, "dec.a": STATE["dec.a"].t().contiguous().t()}}, source.with_name("x.pth"))
    assert ids(against(source.with_name("x.pth"), source)) == set()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"dec.a": STATE["dec.a"] + 1}, "against.values"),
        ({"dec.a": STATE["dec.a"].half() * 1.001}, "against.values"),
        ({"dec.n": torch.arange(3) + 1}, "against.values"),
        ({"dec.n": torch.arange(3).float()}, "against.dtype"),
        ({"dec.a": STATE["dec.a"].reshape(6, 4)}, "against.shape"),
        ({"dec.c": torch.ones(1)}, "against.extra"),
    ],
)
def test_what_differs_is_named(source: Path, change: dict, check: str) -> None:
    torch.save({"weight": {**STATE, **change}}, source.with_name("x.pth"))
    result = against(source.with_name("x.pth"), source)
    assert check in ids(result)
    assert not any("the same as" in finding.why for finding in result.findings)
    assert {finding.where for finding in result.findings if finding.check == check} == set(change)


def test_a_missing_tensor_is_an_error_but_enc_q_is_not(source: Path) -> None:
    full = {**STATE, "enc_q.pre.weight": torch.ones(2)}
    torch.save({"model": full, "iteration": 1, "optimizer": None, "learning_rate": 0.1}, source)
    torch.save({"weight": STATE, "config": {"model": {}}, "info": "1epoch_1iteration"}, source.with_name("x_e1_s1.pth"))
    assert ids(against(source.with_name("x_e1_s1.pth"), source)) == set()
    torch.save({"weight": {"dec.a": STATE["dec.a"]}}, source.with_name("y.pth"))
    assert ids(against(source.with_name("y.pth"), source)) == {"against.missing"}


def test_one_that_cannot_be_opened_is_never_the_same(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    for other in (tmp_path / "bad.pth", tmp_path / "none.pth"):
        result = verify(source, options=Options(against=str(other)))
        assert result.status == "unchecked"
