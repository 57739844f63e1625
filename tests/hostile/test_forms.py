"""Harmless classes in harmful forms: each is never called safe, and no state or argument makes gsvckpt itself stumble."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.builders import Make, Name, Raw, Store, View, read, tensor, torch_zip
from support.verified import verify

from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.calls import tell_calls
from gsvckpt.formats.pickle.forms import FORMS
from gsvckpt.formats.pickle.safety import judge_checkpoint
from gsvckpt.model import Global, Opaque, Storage, Tensor

DTYPE, ARRAY, SCALAR = Name("numpy", "dtype"), Name("numpy._core.multiarray", "_reconstruct"), Name("numpy._core.multiarray", "scalar")
ENCODE, CONSTRUCT = Name("_codecs", "encode"), Name("copyreg", "_reconstructor")
RANDOM, UTILS = "numpy.random._pickle", "torch._utils"
BIT_GENERATOR = Name(RANDOM, "__bit_generator_ctor")
SMALL = tensor("float32", (2,), [1, 2])
ORDERED = Raw(b"ccollections\nOrderedDict\n)R")


def raw(data: str) -> Make:
    return Make(ENCODE, (data, "latin1"))


def dtype(code: str, *state: object, copy: bool = True) -> Make:
    return Make(DTYPE, (code, False, copy), state)


def array(kind: Make, data: object, shape: tuple[int, ...] = (1,)) -> Make:
    return Make(ARRAY, (Name("numpy", "ndarray"), (0,), raw("b")), (1, shape, kind, False, data))


FLOAT = dtype("f4", 3, "<", None, None, None, -1, -1, 0)
OBJECTS = dtype("O8", 3, "|", None, None, None, -1, -1, 63)
CLEARED = dtype("O8", 3, "|", None, None, None, -1, -1, 0)
UINT = dtype("u4", 3, "<", None, None, None, -1, -1, 0)
KEY = array(UINT, raw("\0" * 4 * 624), (624,))


def twister(position: object) -> Make:
    return Make(BIT_GENERATOR, ("MT19937",), {"bit_generator": "MT19937", "state": {"key": KEY, "pos": position}})


ODD: dict[str, object] = {
    "a dtype of objects with its flags cleared": array(CLEARED, raw("A" * 8)),
    "such a dtype alone": CLEARED,
    "objects from bytes": array(OBJECTS, raw("A" * 8)),
    "more objects than there are": array(OBJECTS, [1], (2,)),
    "an array shorter than its shape": array(FLOAT, raw("A" * 4), (1 << 40,)),
    "a dtype that changes NumPy's own": dtype("f4", 3, ">", None, None, None, -1, -1, 0, copy=False),
    "a structure with objects that its flags deny": dtype("V8", 3, "|", None, ("a",), {"a": (OBJECTS, 0)}, 8, 1, 16),
    "a field behind the end": dtype("V4", 3, "|", None, ("a",), {"a": (FLOAT, 4)}, 4, 1, 16),
    "a field before the beginning": dtype("V4", 3, "|", None, ("a",), {"a": (FLOAT, -4)}, 4, 1, 16),
    "an object under a number": dtype("V8", 3, "|", None, ("a", "b"), {"a": (OBJECTS, 0), "b": (FLOAT, 0)}, 8, 1, 27),
    "a subarray larger than its bytes": dtype("V4", 3, "|", (FLOAT, (9,)), None, None, 4, 4, 0),
    "a text of another size": dtype("U5", 3, "<", None, None, None, 2000, 4, 8),
    "a scalar of objects": Make(SCALAR, (OBJECTS, raw("A" * 8))),
    "a scalar that is too short": Make(SCALAR, (FLOAT, raw("A"))),
    "an array by its class": Make(Name("numpy", "ndarray"), ((9,), OBJECTS, raw("A" * 72))),
    "a buffer of objects": Make(Name("numpy._core.numeric", "_frombuffer"), (raw("A" * 8), CLEARED, (1,), "C")),
    "a generator's position behind its table": twister(1 << 30),
    "a generator's position before its table": twister(-1),
    "a Philox generator's position": Make(
        BIT_GENERATOR, ("Philox",), {"bit_generator": "Philox", "state": {"counter": KEY, "key": KEY}, "buffer": KEY, "buffer_pos": 99}
    ),
    "a generator of another class": Make(BIT_GENERATOR, (Name("torch", "Tensor"),)),
    "a generator by another function": Make(Name(RANDOM, "__generator_ctor"), ("MT19937", Name("torch", "Tensor"))),
    "a tensor with hooks that reaches outside": Make(Name(UTILS, "_rebuild_tensor"), (SMALL.store, 0, (1 << 30,), (1,))),
    "a tensor before its storage": Make(Name(UTILS, "_rebuild_tensor"), (SMALL.store, -8, (2,), (1,))),
    "a quantized tensor that reaches outside": Make(
        Name(UTILS, "_rebuild_qtensor"), (SMALL.store, 0, (99,), (1,), (Name("torch", "per_tensor_affine"), 1.0, 0), False, ORDERED)
    ),
    "a quantized tensor with an axis that it lacks": Make(
        Name(UTILS, "_rebuild_qtensor"), (SMALL.store, 0, (2,), (1,), (Name("torch", "per_channel_affine"), SMALL, SMALL, 7), False, ORDERED)
    ),
    "a quantized tensor with too few scales": Make(
        Name(UTILS, "_rebuild_qtensor"), (SMALL.store, 0, (1, 2), (2, 1), (Name("torch", "per_channel_affine"), SMALL, SMALL, 0), False, ORDERED)
    ),
    "a tensor without memory": Make(
        Name(UTILS, "_rebuild_wrapper_subclass"), (Name("torch", "Tensor"), Name("torch", "float32"), (9,), (1,), 0, None, None, False)
    ),
    "a tensor by its class": Make(Name("torch", "FloatTensor"), (1 << 20,)),
    "a storage by its class": Make(Name("torch", "FloatStorage"), (1 << 20,)),
    "a typed tensor of another function": Make(
        Name("torch._tensor", "_rebuild_from_type_v2"), (Name("builtins", "list"), Name("torch", "Tensor"), (), {})
    ),
    "a typed tensor whose class is set": Make(
        Name("torch._tensor", "_rebuild_from_type_v2"),
        (Name(UTILS, "_rebuild_parameter"), Name("torch", "Tensor"), (SMALL, True, ORDERED), {"__class__": Name("torch", "Size")}),
    ),
    "a parameter whose data are set": Make(Name(UTILS, "_rebuild_parameter_with_state"), (SMALL, True, ORDERED, {"data": 1})),
    "a namespace with slots": Make(Name("argparse", "Namespace"), (), (None, {"__class__": 1}), new=True),
    "a namespace from arguments": Make(Name("types", "SimpleNamespace"), ({"a": 1},)),
    "HParams with a list for a state": Make(Name("utils", "HParams"), (), [1], new=True),
    "a dtype by way of copyreg": Make(CONSTRUCT, (DTYPE, Name("builtins", "object"), None)),
    "a set from a range": Make(Name("builtins", "set"), (Make(Name("builtins", "range"), (1 << 40,)),)),
    "a buffer of a size": Make(Name("builtins", "bytearray"), (1 << 40,)),
    "bytes of a size": Make(Name("builtins", "bytes"), (1 << 40,)),
    "a class that is made": Make(Name("builtins", "type"), ("X", (), {})),
    "a fraction that never ends": Make(Name("fractions", "Fraction"), ("1e999999999",)),
    "a date without a month": Make(Name("datetime", "datetime"), (raw("\x07\xea\xff\1\0\0\0\0\0\0"),)),
    "a file beyond its end": Make(Name("_io", "BytesIO"), (), (raw("ab"), 1 << 60, None)),
    "a UUID with another attribute": Make(Name("uuid", "UUID"), (), {"int": 1, "__class__": 2}, new=True),
    "a codec that unpacks": Make(ENCODE, ("x", "zip")),
    "a time zone that is read": Make(Name("zoneinfo", "ZoneInfo"), ("UTC",)),
    "an enum that is made": Make(Name("enum", "Enum"), ("X", "a b")),
}
FINE: dict[str, object] = {
    "an array": array(FLOAT, raw("\0" * 4)),
    "an array of objects": array(OBJECTS, [None]),
    "a generator": twister(624),
    "a scalar": Make(SCALAR, (FLOAT, raw("\0" * 4))),
    "a tensor": Make(Name(UTILS, "_rebuild_tensor"), (SMALL.store, 0, (2,), (1,))),
    "a Python 2 object": Make(Name("copy_reg", "_reconstructor"), (Name("utils", "HParams"), Name("__builtin__", "object"), None), {"a": 1}),
    "a Python 2 dict": Make(Name("UserDict", "UserDict"), (), {"data": {}}, new=True),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_form_is_not_safe(tmp_path: Path, name: str) -> None:
    result = verify(tmp_path / "x.pth", torch_zip({"w": SMALL, "x": ODD[name]}))
    assert result.safety.verdict == "unknown", result.safety
    (finding,) = (finding for finding in result.findings if finding.check == "pickle.safety")
    assert "so loading it may do harm" in finding.why


@pytest.mark.parametrize("name", ["a dtype of objects with its flags cleared", "a generator's position behind its table"])
def test_an_odd_form_that_is_thrown_away_counts_as_well(name: str) -> None:
    assert judge_checkpoint(read(torch_zip([ODD[name], Raw(b"N")]))).verdict == "unknown"
    whole = torch_zip({"a": Make(Name("builtins", "list"), ([ODD[name]],))})
    assert judge_checkpoint(read(whole)).verdict == "unknown"


@pytest.mark.parametrize("name", FINE)
def test_the_usual_form_is_safe(name: str) -> None:
    found = judge_checkpoint(read(torch_zip({"w": SMALL, "x": FINE[name]})))
    assert found.verdict == ("unknown" if name == "a Python 2 dict" else "safe"), found  # a module of that name may be somebody's


def test_the_pointer_is_real(tmp_path: Path) -> None:
    """NumPy follows the bytes of such an array as addresses, and the process dies; otherwise the rules above would prove little."""
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"x": ODD["a dtype of objects with its flags cleared"]}))
    program = "import sys, torch; repr(torch.load(sys.argv[1], weights_only=False))"
    assert subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=False).returncode not in (0, 1)


def test_an_odd_form_beside_the_pickle_is_found(tmp_path: Path) -> None:
    from support.builders import Entry, pickled, torch_entries, zipped

    entries = [*torch_entries({"w": SMALL}), Entry("archive/extra.pkl", pickled(CLEARED))]
    assert verify(tmp_path / "x.pth", zipped(entries)).safety.verdict == "unknown"
    honest = [*torch_entries({"w": SMALL}), Entry("archive/extra.pkl", torch_entries({"w": SMALL, "x": FLOAT})[0].data)]
    assert verify(tmp_path / "x.pth", zipped(honest)).safety.verdict == "safe"


_NAMES = [*FORMS, Global("os", "system"), Global("somebody", "Thing")]
_DTYPE = read(torch_zip({"w": SMALL})).root["w"].dtype
_STORAGE = Storage("0", _DTYPE, 4, "cpu", None, 0)
_LEAVES = (
    None,
    True,
    0,
    -1,
    3,
    1 << 70,
    1.5,
    "",
    "f4",
    "O8",
    "V8",
    "MT19937",
    "latin1",
    b"",
    b"12345678",
    _STORAGE,
    Tensor(_STORAGE, _DTYPE, (4,), (1,)),
)
_KEYS = ("a", "data", "int", "state", "key", "pos", "bit_generator", 3)


def anything(chance: random.Random, depth: int = 0) -> object:
    match chance.randrange(6 if depth < 4 else 2):
        case 0:
            return chance.choice(_LEAVES)
        case 1:
            return chance.choice(_NAMES)
        case 2:
            return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
        case 3:
            return tuple(anything(chance, depth + 1) for _ in range(chance.randrange(10)))
        case 4:
            return {key: anything(chance, depth + 1) for key in _KEYS if chance.random() < 0.4}
    return an_object(chance, depth + 1)


def an_object(chance: random.Random, depth: int = 0) -> Opaque:
    args = tuple(anything(chance, depth + 1) for _ in range(chance.randrange(6)))
    steps = [(chance.choice(("build", "append", "setitem")), anything(chance, depth + 1)) for _ in range(chance.randrange(3))]
    return Opaque(chance.choice(_NAMES), chance.choice(("reduce", "newobj", "newobj_ex")), args, steps)


@pytest.mark.parametrize("seed", range(8))
def test_no_form_makes_the_judge_stumble(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(1_000):
        made = [an_object(chance) for _ in range(3)]
        assert {call.name for call in tell_calls(made)} == {one.name for one in made}


def test_the_finding_tells_calls_from_mentions(tmp_path: Path) -> None:
    result = verify(tmp_path / "x.pth", torch_zip([Make(Name("posix", "system"), ("calc.exe",)), Name("os", "remove"), Name("a", "B")]))
    (finding,) = (finding for finding in result.findings if finding.check == "pickle.safety")
    assert finding.why == 'would run posix.system("calc.exe") when it is loaded and names os.remove, which can run code'


def test_a_dtype_inside_itself_ends() -> None:
    inner = Opaque(Global("numpy", "dtype"), "reduce", ("V8", False, True))
    inner.steps.append(("build", (3, "|", None, ("a",), {"a": (inner, 0)}, 8, 1, 16)))
    (call,) = tell_calls([inner])
    assert call.oddity


def test_a_view_of_a_small_storage_is_damage_and_never_safe() -> None:
    with pytest.raises(GsvError):
        read(torch_zip({"w": View(Store("float32", b"\0" * 8), (1 << 30,), (1,))}))
