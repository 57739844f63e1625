"""Tensors that are more than numbers in a storage are named, counted and kept exactly; whole modules show the names of their `state_dict()`."""

from __future__ import annotations

import io
import warnings

import pytest
import torch

import gsvckpt as api
from gsvckpt.errors import UnsupportedError

G = torch.Generator().manual_seed(3)


def complex_numbers():
    return torch.randn(4, 4, dtype=torch.complex64, generator=G)


def quantized_per_channel(axis=0):
    scales, zeros = torch.full((4,), 0.1, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    return torch.quantize_per_channel(torch.randn(4, 4, generator=G), scales, zeros, axis, torch.qint8)


def with_attributes():
    made = torch.nn.Parameter(torch.randn(3, 3, generator=G))
    made.ds_id = 7
    return made


class Labelled(torch.Tensor):
    pass


def labelled():
    made = torch.randn(2, 3, generator=G).as_subclass(Labelled)
    made.label = "x"
    return made


def quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own sparse and nested tensors
        return make()


# What makes it, the form that is told, its dtype and its logical shape.
SPECIAL = {
    "conj": (lambda: complex_numbers().conj(), "conjugated", "complex64", [4, 4]),
    "conj transposed": (lambda: complex_numbers().mH, "conjugated", "complex64", [4, 4]),
    "neg": (lambda: complex_numbers().conj().imag, "negated", "float32", [4, 4]),
    "per tensor": (
        lambda: torch.quantize_per_tensor(torch.randn(4, 8, generator=G), 0.05, 3, torch.quint8),
        "quantized per tensor",
        "quint8",
        [4, 8],
    ),
    "per channel": (quantized_per_channel, "quantized per channel", "qint8", [4, 4]),
    "per channel 1": (lambda: quantized_per_channel(1), "quantized per channel", "qint8", [4, 4]),
    "qint32": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint32), "quantized per tensor", "qint32", [2]),
    "COO": (lambda: torch.eye(5).to_sparse(), "sparse COO", "float32", [5, 5]),
    "uncoalesced": (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (3, 4)), "sparse COO", "float32", [3, 4]),
    "hybrid": (lambda: torch.sparse_coo_tensor([[0, 2]], torch.ones(2, 3), (4, 3)), "sparse COO", "float32", [4, 3]),
    "CSR": (lambda: torch.eye(5).to_sparse_csr(), "sparse CSR", "float32", [5, 5]),
    "CSC": (lambda: torch.eye(5).to_sparse_csc(), "sparse CSC", "float32", [5, 5]),
    "BSR": (lambda: torch.eye(4).to_sparse_bsr((2, 2)), "sparse BSR", "float32", [4, 4]),
    "BSC": (lambda: torch.eye(4).to_sparse_bsc((2, 2)), "sparse BSC", "float32", [4, 4]),
    "nested": (lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)]), "nested", "float32", [2, None, None]),
    "meta": (lambda: torch.empty(2, 2, device="meta"), "meta, without numbers", "float32", [2, 2]),
    "subclass": (labelled, "Labelled", "float32", [2, 3]),
    "sparse parameter": (lambda: torch.nn.Parameter(torch.eye(3).to_sparse()), "sparse COO", "float32", [3, 3]),
    "meta parameter": (lambda: torch.nn.Parameter(torch.empty(3, device="meta")), "meta, without numbers", "float32", [3]),
}
PLAIN = {
    "complex": complex_numbers,
    "real": lambda: complex_numbers().real,
    "parameter": with_attributes,
    "grad": lambda: torch.randn(2, requires_grad=True),
    "float8": lambda: torch.randn(8).to(torch.float8_e4m3fn),
    "uint16": lambda: torch.tensor([1, 2, 65535]).to(torch.uint16),
    "complex32": lambda: torch.zeros(3, dtype=torch.complex32),
    "empty": lambda: torch.zeros(0, 3),
    "bool": lambda: torch.tensor([True, False]),
}


def told(value):
    """All that a reader can tell of a tensor."""
    facts = [type(value), value.dtype, value.layout, value.device, value.requires_grad, vars(value) if hasattr(value, "__dict__") else {}]
    if value.is_nested:
        return [*facts, [told(part) for part in value.unbind()]]
    facts += [value.shape]
    if value.is_meta:
        return [*facts, value.stride()]
    if value.is_quantized:
        scheme = value.qscheme()
        channels = [value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis()] if "channel" in str(scheme) else []
        return [*facts, scheme, *map(str, channels), *([value.q_scale(), value.q_zero_point()] if not channels else []), value.int_repr().tolist()]
    if value.layout is torch.sparse_coo:
        value = value.detach()
        return [*facts, value.is_coalesced(), value._indices().tolist(), value._values().tolist()]
    if value.layout is not torch.strided:
        return [*facts, str(value)]
    raw = value.detach().contiguous()
    return [
        *facts,
        value.is_conj(),
        value.is_neg(),
        value.stride(),
        value.storage_offset(),
        raw.resolve_conj().resolve_neg().cpu().view(torch.uint8).tolist(),
    ]


UNSAVED = ("nested", "float8", "uint16", "complex32")


@pytest.fixture(params=["zip", "stream"])
def saved(request, tmp_path):
    def save(tree):
        name = next((name for name in UNSAVED if f"-{name}]" in request.node.name), None)
        if name is not None and request.param == "stream":
            pytest.skip(f"torch does not save {name} tensors so, or not so that it loads them")
        quiet(lambda: torch.save(tree, tmp_path / "x.pth", _use_new_zipfile_serialization=request.param == "zip"))
        return tmp_path / "x.pth"

    return save


@pytest.mark.parametrize("name", [*SPECIAL, *PLAIN])
def test_every_command_keeps_them_exactly(gsvckpt, tmp_path, saved, name):
    make = SPECIAL[name][0] if name in SPECIAL else PLAIN[name]
    tree = {"state_dict": {"special": quiet(make), "w": torch.ones(3)}, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}
    source = saved(tree)
    outputs = [
        gsvckpt.json("strip-optimizer", source, "-o", tmp_path / "strip.pth").file["output"],
        gsvckpt.json("migrate", source, "--include", "*", "-o", tmp_path / "migrate.pth").file["output"],
    ]
    expected = quiet(lambda: told(torch.load(source, weights_only=False)["state_dict"]["special"]))
    for output in outputs:
        assert quiet(lambda output=output: told(torch.load(output, weights_only=False)["state_dict"]["special"])) == expected
        assert name == "subclass" or gsvckpt.json("verify", output).file["status"] == "sound"  # a class of ours is not known to be safe


@pytest.mark.parametrize("name", SPECIAL)
def test_inspect_names_them_with_their_shapes(gsvckpt, saved, name):
    make, form, dtype, shape = SPECIAL[name]
    source = saved({"special": quiet(make), "w": torch.ones(3)})
    file = gsvckpt.json("inspect", source, "--tensors").file
    (found,) = file["special"]
    assert (found["name"], found["form"], found["dtype"], found["shape"]) == ("special", form, dtype, shape)
    assert [tensor["name"] for tensor in file["state"]] == ["w"]
    assert form in " ".join(gsvckpt("inspect", source).out.replace("│", " ").split())
    assert f"special ({form})" in gsvckpt("inspect", source, "--tensors").out


@pytest.mark.parametrize("name", SPECIAL)
def test_convert_leaves_them_and_says_so(gsvckpt, tmp_path, saved, name):
    source = saved({"special": quiet(SPECIAL[name][0]), "w": torch.ones(3)})
    file = gsvckpt.json("convert-fp16", source, "-o", tmp_path / "out.pth").file
    assert [f"special ({SPECIAL[name][1]}) is left as it is" in warning for warning in file["warnings"]] == [True]
    after = quiet(lambda: torch.load(file["output"], weights_only=False))
    assert after["w"].dtype is torch.float16
    assert quiet(lambda: told(after["special"])) == quiet(lambda: told(torch.load(source, weights_only=False)["special"]))


@pytest.mark.parametrize("name", SPECIAL)
def test_load_state_dict_never_lacks_a_name_in_silence(saved, name):
    source = saved({"special": quiet(SPECIAL[name][0]), "w": torch.ones(3)})
    with pytest.raises(UnsupportedError, match="special: is a special tensor"):
        api.load_state_dict(source)
    assert list(api.load_state_dict(source, include="w")) == ["w"]
    with pytest.raises(UnsupportedError):
        api.load_state_dict(source, include=lambda name: name != "w")


@pytest.mark.parametrize("name", PLAIN)
def test_load_state_dict_gives_the_others(saved, name):
    source = saved({"plain": PLAIN[name](), "w": torch.ones(3)})
    found = api.load_state_dict(source)["plain"]
    expected = torch.load(source, weights_only=False)["plain"].detach()
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.resolve_conj().contiguous().view(torch.uint8).tolist() == expected.contiguous().view(torch.uint8).tolist()


def test_dynamically_quantized_layers_are_counted(gsvckpt, tmp_path):
    net = quiet(lambda: torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(16, 8)), {torch.nn.Linear}, dtype=torch.qint8))
    torch.save(net.state_dict(), tmp_path / "x.pth")
    names = {one["name"]: one["form"] for one in gsvckpt.json("inspect", tmp_path / "x.pth").file["special"]}
    assert names == {"0._packed_params._packed_params.0": "quantized per tensor"}


def test_optimizer_state_may_hold_them(gsvckpt, tmp_path):
    tree = {"state_dict": {"w": torch.ones(3)}, "optimizer": {"state": {0: {"m": torch.eye(3).to_sparse()}}, "param_groups": [{"params": [0]}]}}
    torch.save(tree, tmp_path / "x.pth")
    assert gsvckpt.json("inspect", tmp_path / "x.pth").file["special"] == []
    output = gsvckpt.json("strip-optimizer", tmp_path / "x.pth").file["output"]
    assert torch.load(output)["state_dict"]["w"].tolist() == [1, 1, 1]


# --- whole modules -------------------------------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.BatchNorm1d(3), torch.nn.ReLU())
        self.tied = torch.nn.Linear(3, 3)
        self.again = self.tied
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_parameter("none", None)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.body[0].weight = self.tied.weight


MODULES = {"alone": lambda net: net, "in a dict": lambda net: {"model": net, "epoch": 3}, "parallel": torch.nn.DataParallel}


@pytest.mark.parametrize("place", MODULES)
def test_a_whole_module_shows_the_names_of_its_state_dict(gsvckpt, tmp_path, saved, place):
    net = Net()
    tree = MODULES[place](net)
    source = quiet(lambda: saved(tree))
    expected = (tree if place == "parallel" else net).state_dict()
    torch.save(expected, tmp_path / "state.pth")
    assert [tensor["name"] for tensor in gsvckpt.json("inspect", source, "--tensors").file["state"]] == list(expected)
    found = api.load_state_dict(source)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert gsvckpt("inspect", source, "--diff", tmp_path / "state.pth").code == 0
    assert gsvckpt("verify", source, "--against", tmp_path / "state.pth", "--checks", "against").code == 0
    output = gsvckpt.json("convert-fp16", source, "-o", tmp_path / "half.pth").file["output"]
    after = quiet(lambda: torch.load(output, weights_only=False))
    state = (after["model"] if place == "in a dict" else after).state_dict()
    assert list(state) == list(expected)
    assert state["tied.weight" if place != "parallel" else "module.tied.weight"].dtype is torch.float16


def test_modules_that_hold_each_other_without_end_are_no_bomb(gsvckpt, tmp_path):
    """Each level holds the next one twice, which is 2 to the 60 names."""
    inner = torch.nn.Linear(1, 1)
    for _ in range(60):
        outer = torch.nn.Module()
        outer._modules.update(a=inner, b=inner)
        inner = outer
    file = io.BytesIO()
    torch.save(inner, file)
    (tmp_path / "x.pth").write_bytes(file.getvalue())
    assert gsvckpt("inspect", tmp_path / "x.pth").code in (0, 3)
