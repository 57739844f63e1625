"""The rules by which `make readers` compares what a program loaded, and judges it; and the references that torch itself writes for it."""

from __future__ import annotations

import zipfile

import pytest
import torch

from tests.runtimes.__main__ import CONTROL, spoil
from tests.runtimes.lite import Loaded, compare, is_same
from tests.runtimes.outputs import SOVITS, TRAINED_GPT, TRAINED_SOVITS, Output
from tests.runtimes.rows import Row, Verdict, judge_genie, judge_lite, make_row, table

EXACT = Output("migrate", (), "out.pth")
CAST = Output("migrate --dtype bfloat16", (), "out.pth", cast="bfloat16")
STATE = {"a": torch.tensor([[1.0, 0.0], [-2.0, 4.0]]), "b": torch.arange(3), "c": torch.tensor(1.0)}
SOUND = torch.tensor([0.5, -0.5, 0.25, 0.0])


def loaded(made: torch.Tensor = SOUND, missing: tuple[str, ...] = (), unexpected: tuple[str, ...] = (), **state: torch.Tensor) -> Loaded:
    return Loaded({**STATE, **state}, made, list(missing), list(unexpected))


def flipped(tensor: torch.Tensor, index: int, bit: int) -> torch.Tensor:
    """A copy in which one bit of one byte is the other one."""
    data = tensor.clone().reshape(-1).view(torch.uint8)
    data[index] ^= 1 << bit
    return data.view(tensor.dtype).reshape(tensor.shape)


def test_the_same_is_the_same() -> None:
    found = compare(loaded(), loaded())
    assert judge_lite(EXACT, found) == Verdict(("3 equal", "equal"))


@pytest.mark.parametrize("name", STATE)
def test_each_bit_of_each_tensor_counts(name: str) -> None:
    """Signs of zeros, bits that make a NaN, and the last bit of a counter included."""
    for index in range(STATE[name].nbytes):
        for bit in range(8):
            found = compare(loaded(), loaded(**{name: flipped(STATE[name], index, bit)}))
            assert found["differ"] == 1
            assert judge_lite(EXACT, found).problems


def test_each_bit_of_the_sound_counts() -> None:
    for index in range(SOUND.nbytes):
        for bit in range(8):
            assert judge_lite(EXACT, compare(loaded(), loaded(flipped(SOUND, index, bit)))).problems


def test_nan_is_itself() -> None:
    tensor = torch.tensor([float("nan"), 1.0])
    assert is_same(tensor, tensor.clone())


@pytest.mark.parametrize("other", [STATE["a"].double(), STATE["a"].reshape(4), STATE["a"].t().contiguous(), STATE["a"][:1]])
def test_other_types_and_shapes_differ(other: torch.Tensor) -> None:
    assert compare(loaded(), loaded(a=other))["differ"] == 1


def test_strides_do_not_count() -> None:
    assert is_same(STATE["a"], STATE["a"].t().contiguous().t())


@pytest.mark.parametrize("other", [loaded(missing=("x",)), loaded(unexpected=("x",)), loaded(more=SOUND)])
def test_keys_missing_unwanted_or_strange_are_problems(other: Loaded) -> None:
    assert judge_lite(EXACT, compare(loaded(), other)).problems
    assert judge_lite(CAST, {**compare(loaded(a=SOUND), other), "by_torch": compare(other, other)}).problems


def test_what_does_not_load_is_a_problem() -> None:
    assert judge_lite(EXACT, {"error": "KeyError: 'config'"}) == Verdict(("-", "-"), ("GSV-TTS-Lite: KeyError: 'config'",))


def test_a_cast_must_be_what_torch_casts() -> None:
    cast = loaded(SOUND + 0.001, a=STATE["a"] + 0.01)
    near = compare(loaded(), cast)
    verdict = judge_lite(CAST, {**near, "by_torch": compare(cast, cast)})
    assert verdict == Verdict(("1 of 3 differ, by 2.5e-03", "51.5 dB"))  # 10 * log10(0.5625 / 4e-6)
    assert judge_lite(EXACT, near).problems
    assert judge_lite(CAST, {**near, "by_torch": compare(cast, loaded(cast.made, a=flipped(cast.state["a"], 0, 0)))}).problems
    assert judge_lite(CAST, {**near, "by_torch": compare(cast, loaded(flipped(cast.made, 0, 0), a=cast.state["a"]))}).problems


def test_a_cast_that_did_nothing_is_a_problem() -> None:
    same = compare(loaded(), loaded())
    assert judge_lite(CAST, {**same, "by_torch": same}).problems


def test_tokens_have_no_decibels() -> None:
    verdict = judge_lite(EXACT, compare(loaded(torch.tensor([1, 2])), loaded(torch.tensor([1, 3]))))
    assert verdict.cells == ("3 equal", "other tokens")
    assert verdict.problems


@pytest.mark.parametrize("made", [{}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "b": "2", "c": "3"}])
def test_onnx_must_be_there_and_equal(made: dict[str, str]) -> None:
    must = {"a": "1", "b": "2"}
    assert judge_genie(must, dict(must)) == Verdict(("2 files equal",))
    assert judge_genie(must, made).problems
    assert judge_genie({}, {}).problems


def test_what_was_not_asked_has_dashes() -> None:
    assert make_row("v2Pro", "migrate", judge_lite(EXACT, None), judge_genie(None, None)) == Row("v2Pro", "migrate", "-", "-", "-", "")


def test_the_table_has_a_row_for_each_output() -> None:
    rows = [Row("v2", "migrate", "578 equal", "equal", "7 files equal", ""), Row("v2Pro", "migrate", "583 equal", "equal", "-", "")]
    lines = table(rows, 89.6).splitlines()
    assert lines[0].startswith("2 outputs, 90 s on ")
    assert lines[0].endswith("the same ONNX of 1 of 1.")
    assert lines[-2:] == ["| v2 | migrate | 578 equal | equal | 7 files equal |", "| v2Pro | migrate | 583 equal | equal | - |"]


def test_a_spoiled_file_has_one_other_bit_in_its_largest_tensor(tmp_path) -> None:
    path = tmp_path / "x.pth"
    small, large = torch.arange(64.0), torch.arange(30_000.0)
    torch.save({"small": small, "large": large}, path)
    before = path.read_bytes()
    spoil(path)
    changed = [one ^ two for one, two in zip(before, path.read_bytes(), strict=True) if one != two]
    assert changed == [1]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == "x/data/1"


@pytest.mark.parametrize("outputs", [(*SOVITS, *TRAINED_SOVITS), TRAINED_GPT])
def test_outputs_have_names_of_their_own(outputs: tuple[Output, ...]) -> None:
    names = [output.name for output in (*outputs, CONTROL)]
    assert len(set(names)) == len(names)
