"""NumPy's arrays and numbers as plain values. NumPy itself is the judge, and torch.load(weights_only=True) of what becomes of them."""

from __future__ import annotations

import pickle
import shlex

import numpy as np
import pytest
import torch
from cli.samples import Program

from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.numpy_values import plain_value
from gsvckpt.model import Opaque

RNG = np.random.default_rng(1)
NUMBERS = {
    **{code: (RNG.standard_normal((3, 4)) * 50).astype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "c8", "c16")},
    **{code: RNG.integers(0, 200, (3, 4)).astype(code) for code in ("u1", "u2", "u4", "u8")},
    "bool": RNG.integers(0, 2, (5,)).astype(bool),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big": np.arange(6, dtype=">i4").reshape(2, 3),
    "big complex": (np.arange(4) * (1 + 2j)).astype(">c16"),
    "big fortran": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "no axis": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "empty behind": np.zeros((2, 0, 3), ">i2"),
    "a view": np.arange(20.0)[::2],
}
OTHERS = {
    "texts": np.array([["a", "声音"], ["", "é"]]),
    "big texts": np.array(["a", "bc"], dtype=">U2"),
    "bytes": np.array([b"a", b"bcd"]),
    "objects": np.array([[1, "x"], [None, 2.5]], dtype=object),
    "fortran objects": np.asfortranarray(np.array([[1, "x", 3], [None, 2.5, "z"]], dtype=object)),
    "fortran texts": np.asfortranarray(np.array([["a", "b", "c"], ["d", "e", "f"]])),
    "an object": np.array({"a": 1}, dtype=object),
    "no text": np.array([], dtype="U3"),
    "text": np.array("one"),
}
SCALARS = [
    np.float64(1e-4),
    np.float32(0.5),
    np.float16(2),
    np.int64(-7),
    np.uint8(3),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.str_("声"),
    np.uint64(2**63),
]
STAY = {
    "times": np.array(["2026-01-01"], dtype="M8[D]"),
    "spans": np.array([1], dtype="m8[s]"),
    "a structure": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "raw": np.zeros(2, dtype="V5"),
    "long": np.zeros(2, dtype=np.longdouble),
    "bytes that are no text": np.array([b"\xff"]),
    "a matrix": np.ma.masked_array([1, 2], [0, 1]),
}


def made(value: object, protocol: int = 2) -> object:
    found = Machine(pickle.dumps(value, protocol), reduce=lambda _name, _args: None).run()
    return plain_value(found) if isinstance(found, Opaque) else found


def saved(gsvckpt, tmp_path, tree):
    """The file that --plain makes of a tree."""
    torch.save(tree, tmp_path / "x.pth")
    return gsvckpt.json("migrate", tmp_path / "x.pth", "--plain", "-o", tmp_path / "plain.pth", "--force")


@pytest.fixture
def gsvckpt(capsys):
    return Program(capsys)


def test_arrays_of_numbers_become_tensors(gsvckpt, tmp_path):
    saved(gsvckpt, tmp_path, dict(NUMBERS))
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    for name, array in NUMBERS.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert isinstance(found[name], torch.Tensor), name
        assert found[name].numpy().dtype == native.dtype, name
        assert np.array_equal(found[name].numpy(), native), name
        assert found[name].shape == native.shape, name
    assert found["fortran"].stride() == (1, 2, 6)


def test_arrays_of_texts_and_objects_become_lists_and_scalars_python_values(gsvckpt, tmp_path):
    saved(gsvckpt, tmp_path, {"arrays": dict(OTHERS), "scalars": SCALARS})
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    for name, array in OTHERS.items():
        expected = array.tolist() if array.dtype.kind != "S" else [text.decode() for text in array]
        assert found["arrays"][name] == expected, name
    assert found["scalars"] == [scalar.item() for scalar in SCALARS]
    assert [type(value) for value in found["scalars"]] == [type(scalar.item()) for scalar in SCALARS]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol):
    for name, array in OTHERS.items():
        expected = array.tolist() if array.dtype.kind != "S" else [text.decode() for text in array]
        assert made(array, protocol) == expected, name


@pytest.mark.parametrize("name", STAY)
def test_what_has_no_plain_form_stays_and_what_removes_it_is_named(gsvckpt, tmp_path, name):
    run = saved(gsvckpt, tmp_path, {"w": torch.ones(2), "odd one": STAY[name]})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "plain.pth", weights_only=True)
    (warning,) = (warning for warning in run.file["warnings"] if "refuses the remaining classes" in warning)
    mend = shlex.split(warning.rpartition("; ")[2].removesuffix(" removes what they are in"))
    assert mend == ["strip-optimizer", "--drop", "odd one"]
    assert gsvckpt(mend[0], tmp_path / "plain.pth", *mend[1:], "-o", tmp_path / "rest.pth").code == 0
    assert list(torch.load(tmp_path / "rest.pth", weights_only=True)) == ["w"]


def test_a_random_state_is_plain_but_for_its_classes(gsvckpt, tmp_path):
    np.random.seed(0)  # noqa: NPY002 - what trainers save
    saved(gsvckpt, tmp_path, {"rng": np.random.get_state(), "more": {"deep": [np.float32(1.5), {"a": np.ones(2)}]}})  # noqa: NPY002
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert found["rng"][0] == "MT19937"
    assert found["rng"][1].numpy().tolist() == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert found["more"]["deep"][1]["a"].tolist() == [1, 1]


def test_a_shared_array_stays_shared(gsvckpt, tmp_path):
    array = np.arange(5.0)
    saved(gsvckpt, tmp_path, {"a": array, "b": [array]})
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert found["a"].data_ptr() == found["b"][0].data_ptr()
