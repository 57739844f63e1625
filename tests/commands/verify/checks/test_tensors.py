"""NaN and infinity, counted; values that float16 cannot hold; what is all zero."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest
import torch
from support.builders import tensor, torch_stream, torch_zip
from support.verified import ids, remarkable, verify


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64])
def test_nan_and_infinity_are_counted(tmp_path: Path, dtype: torch.dtype) -> None:
    good = torch.ones(50).to(dtype)
    bad = torch.tensor([1.0, nan, 2.0, inf, -inf, nan, nan]).to(dtype)
    torch.save({"dec.good": good, "dec.bad": bad}, tmp_path / "x.pth")
    (finding,) = remarkable(verify(tmp_path / "x.pth"))
    assert (finding.check, finding.severity, finding.where) == ("tensor.finite", "error", "dec.bad")
    assert finding.found == "3 NaN, 2 infinite"


@pytest.mark.parametrize("wrap", [torch_zip, torch_stream])
def test_far_apart_and_in_views(tmp_path: Path, wrap) -> None:
    values = [0.5] * 600_000
    values[-1] = nan
    tree = {"dec.large": tensor("float32", (600, 1000), values)}
    assert ids(verify(tmp_path / "x.pth", wrap(tree))) == {"tensor.finite"}
    base = torch.arange(20.0)
    base[3] = nan
    torch.save({"a": base.reshape(4, 5).t(), "b": base[4:], "c": base[::2]}, tmp_path / "v.pth")
    assert {finding.where for finding in remarkable(verify(tmp_path / "v.pth"))} == {"a"}


def test_optimizer_state_is_looked_at(tmp_path: Path) -> None:
    moments = {"state": {0: {"exp_avg": tensor("float32", (2,), [nan, 1.0])}}, "param_groups": [{"params": [0]}]}
    tree = {"model": {"dec.w": tensor("float32", (2,))}, "iteration": 1, "optimizer": moments, "learning_rate": 0.1}
    (finding,) = remarkable(verify(tmp_path / "G_1.pth", torch_zip(tree)))
    assert finding.where == "optimizer/state/0/exp_avg"


@pytest.mark.parametrize(("largest", "beyond"), [(65504.0, 0), (65519.0, 0), (65520.0, 1), (-1e30, 1)])
def test_range_of_float16(tmp_path: Path, largest: float, beyond: int) -> None:
    result = verify(tmp_path / "x.pth", torch_zip({"dec.w": tensor("float32", (3,), [1.0, largest, 0.0])}))
    assert ids(result) == ({"tensor.range"} if beyond else set())
    assert result.status == ("suspect" if beyond else "sound")


def test_sums_of_the_quantizer_are_expected_to_be_large(tmp_path: Path) -> None:
    name = "quantizer.vq.layers.0._codebook.cluster_size"
    result = verify(tmp_path / "x.pth", torch_zip({name: tensor("float32", (2,), [1e6, 1.0])}))
    assert result.status == "sound"
    assert [finding.check for finding in result.findings] == ["tensor.range"]


def test_zero_and_constant_tensors_are_remarks(tmp_path: Path) -> None:
    tree = {
        "dec.zero": tensor("float32", (5,)),
        "dec.same": tensor("float16", (5,), [2.0] * 5),
        "dec.n": tensor("int64", (3,)),
        "dec.x": tensor("float32", (2,), [1, 2]),
    }
    result = verify(tmp_path / "x.pth", torch_zip(tree))
    assert result.status == "sound"
    assert [(finding.severity, finding.where, finding.why) for finding in result.findings] == [
        ("info", "dec.zero", "dec.zero is all zero"),
        ("info", "dec.same", "dec.same is all of one value"),
    ]


def test_many_bad_tensors_are_summed_up(tmp_path: Path) -> None:
    tree = {f"dec.{n}": tensor("float32", (1,), [nan]) for n in range(50)}
    findings = remarkable(verify(tmp_path / "x.pth", torch_zip(tree)))
    assert len(findings) == 21
    assert "30 more" in findings[-1].why
