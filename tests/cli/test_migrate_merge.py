"""gsvckpt migrate --merge-lora: to the bit what peft merges, read by GPT-SoVITS as full weights, and nothing where LoRA and base do not fit."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support.readers import Detection, HParams, detect, load_sovits, load_three_ways, pretend_utils, zip_is_clean

from gsvckpt.sovits.layouts import layout
from tests.support.voices import Maker, sovits_config, sovits_weights, write

from .samples import assert_one_error, discriminator, generator, gpt, leftovers, numbers, s1_training, s2_training, save, small
from .test_migrate_containers import deflated
from .test_migrate_states import FLOATS, load

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
MATRICES = [f"cfm.estimator.transformer_blocks.{block}.attn.{target}" for block in range(22) for target in TARGETS]


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """A folder for large files, which do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def adapter(matrix: str, side: str) -> str:
    return f"{matrix.replace('cfm.', 'cfm.base_model.model.')}.lora_{side}.default.weight"


def wrapped(values):
    made = HParams()
    vars(made).update(values)
    return made


def saved(path: Path, tree: object, head: bytes = b"PK") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pretend_utils():
        torch.save(tree, path)
    with path.open("r+b") as file:
        file.write(head)
    return path


# --- against peft --------------------------------------------------------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(1024, 1024) for _ in range(3))
        self.to_out = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.Dropout(0.1))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()


class Flow(torch.nn.Module):
    """Of `cfm`, what GPT-SoVITS adapts."""

    def __init__(self):
        super().__init__()
        self.estimator = torch.nn.Module()
        self.estimator.transformer_blocks = torch.nn.ModuleList(Block() for _ in range(22))


class Model(torch.nn.Module):
    def __init__(self, rank):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft's own imports call deprecated
            from peft import LoraConfig, get_peft_model
        with torch.device("meta"):
            flow = Flow()
        config = LoraConfig(target_modules=["to_k", "to_q", "to_v", "to_out.0"], r=rank, lora_alpha=rank, init_lora_weights=False)
        self.cfm = get_peft_model(flow.to_empty(device="cpu"), config)


def peft_merges(base, lora, rank) -> dict[str, torch.Tensor]:
    """As inference_webui.py:356-375 does, in float32."""
    model = Model(rank)
    bases = {f"{name.replace('cfm.', 'cfm.base_model.model.')}.base_layer.weight": base[f"{name}.weight"] for name in MATRICES}
    wanted = {name for name, _ in model.named_parameters() if "lora_" in name or name.endswith(".base_layer.weight")}
    given = {**bases, **{name: value for name, value in lora.items() if ".lora_" in name}}
    assert given.keys() == wanted
    missing = model.load_state_dict({name: value.float() for name, value in given.items()}, strict=False).missing_keys
    assert all(name.endswith("bias") for name in missing)
    merged = model.cfm.merge_and_unload().state_dict()
    return {f"{name}.weight": merged[f"{name.removeprefix('cfm.')}.weight"] for name in MATRICES}


def random_base(dtype) -> dict[str, torch.Tensor]:
    """All 685 tensors of a v3 base. Those that are adapted are whole; every other is one number of its own, expanded."""
    pool = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(3)) * 0.02
    names = {f"{name}.weight": pool.roll(97 * n + 1, 0).roll(n, 1).to(dtype) for n, name in enumerate(MATRICES)}
    return {name: names.get(name, torch.tensor(n / 3).to(dtype).expand(shape)) for n, (name, (_, shape)) in enumerate(layout("sovits-v3").items())}


def random_lora(rank, dtype) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(rank)
    return {
        name: (torch.randn(shape, generator=source) * 0.1).to(dtype) if ".lora_" in name else torch.tensor(-n / 3).to(dtype).expand(shape)
        for n, (name, (_, shape)) in enumerate(layout("lora-v3", rank).items())
    }


def same_bits(one, other):
    assert one.dtype is other.dtype
    whole = torch.int16 if one.element_size() == 2 else torch.int32
    return one.shape == other.shape and torch.equal(one.contiguous().view(whole), other.contiguous().view(whole))


@pytest.mark.parametrize(
    ("rank", "base_dtype", "lora_dtype"),
    [(32, "float32", "float32"), (4, "float16", "float16"), (128, "bfloat16", "float16")],
)
def test_all_88_matrices_are_those_of_peft_to_the_bit(gsvckpt, folder, rank, base_dtype, lora_dtype):
    base, lora = random_base(FLOATS[base_dtype]), random_lora(rank, FLOATS[lora_dtype])
    config = {"version": "v3", "model": {"version": "v3"}}
    source = saved(folder / f"alice_e8_s16_l{rank}.pth", {"weight": lora, "config": config, "info": "8epoch_16iteration", "lora_rank": rank}, b"03")
    other = saved(folder / "base.pth", {"weight": base, "config": {"version": "v3", "name": "base"}, "info": "another"})
    data = source.read_bytes(), other.read_bytes()
    expected = {name: value.float() for name, value in base.items()}
    expected |= {name.replace("cfm.base_model.model.", "cfm."): value.float() for name, value in lora.items() if ".lora_" not in name}
    merged = peft_merges(base, lora, rank)
    assert len(merged) == 88
    assert not any(torch.equal(merged[name], expected[name]) for name in merged)  # every adapter does something
    expected |= merged
    for options, dtype in ((["--dtype", "float32"], torch.float32), ([], torch.float16)):
        output = folder / f"{dtype}.pth"
        argv = ("migrate", source, "--merge-lora", other, *options, "-o", output, "--force")  # most of it is expanded: too small for a v3 file
        file = gsvckpt.json(*argv).file
        assert file["bytes_after"] == output.stat().st_size
        after = torch.load(output, weights_only=True)
        assert list(after) == ["weight", "config", "info"]
        assert (after["config"], after["info"]) == (config, "8epoch_16iteration")
        assert list(after["weight"]) == list(base)
        wrong = [name for name, value in after["weight"].items() if not same_bits(value, expected[name].to(dtype))]
        assert wrong == []
        assert zip_is_clean(output)
        told = next(change for change in file["changes"] if change["step"] == "merge-lora")
        kept = len(base) - 88 - sum(".lora_" not in name for name in lora)
        assert (told["from"], told["to"]) == (f"rank {rank}", f"88 matrices merged, {kept} from the base")
        output.unlink()
    assert (source.read_bytes(), other.read_bytes()) == data
    assert leftovers(folder) == []


# --- files of real size, as GPT-SoVITS reads them ------------------------------------------------------------------------------------------------


def voices(folder, version):
    """(a LoRA of rank 32, a base), both of real size and GPT-SoVITS's own tree."""
    maker = Maker()
    base = sovits_weights(maker, "base", version, 1, 1)
    shapes = layout(f"lora-{version}", 32).items()
    lora = OrderedDict(
        weight={name: maker.tensor(name, shape, "float16") for name, (_, shape) in shapes},
        config=sovits_weights(maker, "alice", version, 8, 16)["config"],
        info="8epoch_16iteration",
        lora_rank=32,
    )
    source = write(lora, folder / f"SoVITS_weights_{version}" / "alice_e8_s16_l32.pth")
    with source.open("r+b") as file:
        file.write({"v3": b"03", "v4": b"04"}[version])
    return source, write(base, folder / f"base-{version}.pth")


def test_a_merged_v3_voice_is_one_to_gpt_sovits(gsvckpt, folder):
    source, base = voices(folder, "v3")
    assert detect(source) == Detection("v2", "v3", is_lora=True)
    expected, info = load_sovits(source, base)  # what upstream merges
    planned = gsvckpt.json("migrate", source, "--merge-lora", base, "-n").file
    file = gsvckpt.json("migrate", source, "--merge-lora", base).file
    output = source.with_name("alice_e8_s16.pth")
    assert file == {**planned, "written": True}
    assert (Path(file["output"]), file["bytes_after"]) == (output, output.stat().st_size)
    assert detect(output) == Detection("v2", "v3", is_lora=False)
    weight, after = load_sovits(output)
    assert list(weight) == list(layout("sovits-v3"))
    assert (after.config, after.info) == (info.config, info.info)
    assert [name for name, value in weight.items() if not same_bits(value, expected[name].half())] == []
    root = load_three_ways(output, weights_only=False)
    assert list(root) == ["weight", "config", "info"]
    assert type(root["weight"]) is dict
    assert file["upstream_before"] == {"symbols": "v2", "model": "v3", "lora": True, "rule": "head"}
    assert file["upstream_after"] == {"symbols": "v2", "model": "v3", "lora": False, "rule": "size"}
    assert gsvckpt("verify", output).code == 0


def test_merged_v4_weights_are_refused_as_gpt_sovits_would_take_them_for_v3(gsvckpt, folder):
    source, base = voices(folder, "v4")
    for more in ([], ["-n"], ["-o", folder / "out.pth"]):
        run = gsvckpt("migrate", source, "--merge-lora", base, *more)
        assert_one_error(run, source, 4)
        for word in ("v4", "v3", "upsampling", "vocoder", "--force"):
            assert word in run.err
    assert sorted(path.name for path in folder.rglob("*.pth")) == ["alice_e8_s16_l32.pth", "base-v4.pth"]
    file = gsvckpt.json("migrate", source, "--merge-lora", base, "--force", "-n").file
    assert file["upstream_after"]["model"] == "v3"
    assert any("upsampling" in warning for warning in file["warnings"])


# --- training files ------------------------------------------------------------------------------------------------------------------------------


def test_a_lora_training_file_is_merged_from_its_float32(gsvckpt, folder):
    base, lora = random_base(torch.float16), random_lora(2, torch.float32)
    frozen = torch.tensor(7.0)  # its copy of the base, which is not looked at
    model = OrderedDict((name, lora.get(name, frozen.expand(shape))) for name, (_, shape) in layout("lora-training-v3", 2).items())
    assert any(name.endswith("to_q.base_layer.weight") for name in model)
    tree = {"model": model, "iteration": 8, "optimizer": None, "learning_rate": 1e-4}
    source = saved(folder / "alice/logs_s2_v3_lora_2/G_16.pth", tree)
    other = saved(folder / "base.pth", {"weight": base})
    run = gsvckpt("migrate", source, "--merge-lora", other)
    assert_one_error(run, source, 3)
    assert "config.json" in run.err
    (folder / "alice/config.json").write_text(json.dumps(sovits_config("alice", "v3", 8)), encoding="utf-8")
    file = gsvckpt.json("migrate", source, "--merge-lora", other, "--dtype", "float32", "--force").file
    output = source.with_name("alice_e8_s16.pth")
    assert Path(file["output"]) == output
    after = load(output)
    assert (list(after), after["info"], after["config"].name) == (["weight", "config", "info"], "8epoch_16iteration", "alice")
    others = {name.replace("cfm.base_model.model.", "cfm."): value for name, value in lora.items() if ".lora_" not in name}
    expected = {name: value.float() for name, value in base.items()} | others | peft_merges(base, lora, 2)
    assert list(after["weight"]) == list(base)
    assert [name for name, value in after["weight"].items() if not same_bits(value, expected[name])] == []
    both = source.with_name("both.pth")
    argv = ("migrate", source, "--to-inference", "--merge-lora", other, "-o", both, "--force")
    assert gsvckpt(*argv, "--dtype", "float32").code == 0
    assert both.read_bytes() == output.read_bytes()  # nothing is rounded on the way


# --- what does not fit ---------------------------------------------------------------------------------------------------------------------------

BLOCK = "cfm.estimator.transformer_blocks.0.attn."


@pytest.fixture(scope="module")
def base_state():
    """All tensors of a v3 base, expanded from one number but for the matrices of the first block."""
    number = torch.tensor(0.25).half()
    state = {name: number.expand(shape) for name, (_, shape) in layout("sovits-v3").items()}
    return state | {f"{name}.weight": torch.full((1024, 1024), 0.5).half() for name in MATRICES[:4]}


@pytest.fixture(scope="module")
def lora_state():
    """A LoRA of rank 2 that adapts the matrices of the first block."""
    state = {name: torch.full(shape, 0.5).half() for name, (_, shape) in layout("lora-v3", 2).items() if ".lora_" in name and "blocks.0." in name}
    assert len(state) == 8
    return {**{name: torch.tensor(0.75).half().expand(shape) for name, (_, shape) in layout("lora-v3", 2).items() if ".lora_" not in name}, **state}


def lora_file(path: Path, state: dict[str, torch.Tensor], version: str | None = "v3", head: bytes = b"03", rank: int = 2) -> Path:
    told = {"version": version, "model": {"version": version}} if version else {}
    return saved(path, {"weight": state, "config": told, "info": "8epoch_16iteration", "lora_rank": rank}, head)


def base_file(path: Path, state: dict[str, torch.Tensor], **more: object) -> Path:
    return saved(path, {"weight": state, **more})


def test_this_pair_fits(gsvckpt, tmp_path, base_state, lora_state):
    """Or else its changes below would prove nothing."""
    source, base = lora_file(tmp_path / "a_e8_s16_l2.pth", lora_state), base_file(tmp_path / "base.pth", base_state)
    assert gsvckpt("migrate", source, "--merge-lora", base, "--force").code == 0
    weight = load(tmp_path / "a_e8_s16.pth")["weight"]
    assert {weight[f"{name}.weight"].unique().item() for name in MATRICES[:4]} == {0.5 + 2 * 0.25}
    assert weight["linear_mel.bias"].unique().item() == 0.75
    assert weight["enc_p.ssl_proj.bias"].unique().item() == 0.25


def test_a_base_that_was_compressed_is_one_all_the_same(gsvckpt, tmp_path, base_state, lora_state):
    source, base = lora_file(tmp_path / "a_e8_s16_l2.pth", lora_state), base_file(tmp_path / "base.pth", base_state)
    assert gsvckpt("migrate", source, "--merge-lora", base, "--force", "-o", tmp_path / "plain.pth").code == 0
    base.write_bytes(deflated(base.read_bytes(), level=1))
    assert gsvckpt("migrate", source, "--merge-lora", base, "--force", "-o", tmp_path / "out.pth").code == 0
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "plain.pth").read_bytes()


@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
def test_a_merge_that_is_plain_as_well(gsvckpt, tmp_path, base_state, lora_state, location):
    source, base = lora_file(tmp_path / "a_e8_s16_l2.pth", lora_state), base_file(tmp_path / "base.pth", base_state)
    if location != "cpu":
        for path in (source, base):
            data = path.read_bytes()
            assert data.count(b"X\x03\x00\x00\x00cpu") == 1
            path.write_bytes(moved(data, location))
    file = gsvckpt.json("migrate", source, "--merge-lora", base, "--plain", "--scrub-paths", "--dtype", "bfloat16", "--force").file
    weight = torch.load(file["output"], weights_only=True)["weight"]
    assert b"cuda" not in Path(file["output"]).read_bytes()
    assert {weight[f"{name}.weight"].unique().item() for name in MATRICES[:4]} == {0.5 + 2 * 0.25}
    assert {value.dtype for value in weight.values()} == {torch.bfloat16}


def moved(data: bytes, location: str) -> bytes:
    """The same file, as if it had been saved on a device."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(b"PK" + data[2:])) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            tagged = b"X" + struct.pack("<I", len(location)) + location.encode()
            new.writestr(name, old.read(name).replace(b"X\x03\x00\x00\x00cpu", tagged) if name.endswith("/data.pkl") else old.read(name))
    return data[:2] + out.getvalue()[2:]


def without(state, *ends):
    return {name: value for name, value in state.items() if not name.endswith(ends)}


Q, K = (f"{BLOCK}{name}" for name in ("to_q", "to_k"))
CONFLICTS = {
    "no lora_A": (lambda lora: without(lora, adapter(Q, "A")), f"{Q}.weight", "has no lora_A", 1),
    "no lora_B": (lambda lora: without(lora, adapter(Q, "B"), adapter(K, "B")), f"{Q}.weight", "has no lora_B", 2),
    "narrow": (lambda lora: {**lora, adapter(Q, "A"): torch.zeros(2, 512)}, f"{Q}.weight", "[1024, 2] and [2, 512]", 1),
    "ranks": (lambda lora: {**lora, adapter(Q, "B"): torch.zeros(1024, 3)}, f"{Q}.weight", "[1024, 3] and [2, 1024]", 1),
    "convolutions": (lambda lora: {**lora, adapter(Q, "A"): torch.zeros(2, 1024, 1)}, f"{Q}.weight", "[2, 1024, 1]", 1),
    "integers": (lambda lora: {**lora, adapter(Q, "A"): torch.zeros(2, 1024, dtype=torch.int64)}, f"{Q}.weight", "not a plain matrix", 1),
    "transposed": (lambda lora: {**lora, adapter(Q, "A"): torch.zeros(1024, 2).t()}, f"{Q}.weight", "not a plain matrix", 1),
    "extra": (lambda lora: {**lora, "odd.weight": torch.zeros(3)}, "odd.weight", "the base has no such tensor", 1),
    "of another": (lambda lora: {**lora, "enc_q.pre.weight": torch.zeros(3), "dec.x": torch.zeros(1)}, "enc_q.pre.weight", "no such tensor", 2),
    "nowhere": (
        lambda lora: {**lora, **{adapter(f"{BLOCK}to_x", side): torch.zeros(1024, 1024) for side in "AB"}},
        f"{BLOCK}to_x.weight",
        "the base has no such tensor",
        1,
    ),
    "shapes": (lambda lora: {**lora, "linear_mel.bias": torch.zeros(4)}, "linear_mel.bias", "[4]", 1),
    "replaced": (lambda lora: {**lora, f"{Q}.weight": torch.zeros(1024, 1024)}, f"{Q}.weight", "both adapted and replaced", 1),
    "twice": (
        lambda lora: {**lora, "cfm.base_model.model.estimator.proj_out.bias": torch.zeros(100), "cfm.estimator.proj_out.bias": torch.zeros(100)},
        "cfm.estimator.proj_out.bias",
        "takes the place of another",
        1,
    ),
}


@pytest.mark.parametrize("kind", CONFLICTS)
def test_what_has_no_place_in_the_base_is_refused_with_the_first_and_their_number(gsvckpt, tmp_path, base_state, lora_state, kind):
    change, where, why, count = CONFLICTS[kind]
    source = lora_file(tmp_path / "alice_e8_s16_l2.pth", change(lora_state))
    base = base_file(tmp_path / "base.pth", base_state)
    for more in ([], ["--force"], ["-n"], ["-o", f"{tmp_path}/out/"], ["--dtype", "float32", "--force"]):
        run = gsvckpt("migrate", source, "--merge-lora", base, *more)
        assert_one_error(run, source, 4)
        assert f": {where}: " in run.err
        assert why in run.err
        assert f"{count} such conflict" in run.err
        assert sorted(os.listdir(tmp_path)) == ["alice_e8_s16_l2.pth", "base.pth"]


@pytest.mark.parametrize("kind", ["v2", "v2Pro", "GPT", "D", "another", "lacking", "shaped", "the LoRA itself", "a LoRA run"])
def test_another_base_is_refused(gsvckpt, tmp_path, base_state, lora_state, kind):
    name = "cfm.estimator.transformer_blocks.3.attn.to_out.0.bias"
    run_state = {key: torch.zeros(()).expand(shape) for key, (_, shape) in layout("lora-training-v3", 2).items()}
    trees = {
        "v2": {"weight": {key: torch.zeros(()).expand(shape) for key, (_, shape) in layout("sovits-v2").items()}},
        "v2Pro": {"weight": {key: torch.zeros(()).expand(shape) for key, (_, shape) in layout("sovits-v2Pro").items()}},
        "GPT": {"weight": {key: torch.zeros(()).expand(shape) for key, (_, shape) in layout("gpt-v2").items()}},
        "D": {"weight": {key: torch.zeros(()).expand(shape) for key, (_, shape) in layout("discriminator-v2").items()}},
        "another": {"w": torch.zeros(2)},
        "lacking": {"weight": without(base_state, name)},
        "shaped": {"weight": {**base_state, name: torch.zeros(4)}},
        "the LoRA itself": {"weight": lora_state, "lora_rank": 2},
        "a LoRA run": {"model": run_state, "iteration": 8, "optimizer": None, "learning_rate": 1e-4},
    }
    source, base = lora_file(tmp_path / "alice_e8_s16_l2.pth", lora_state), saved(tmp_path / "base.pth", trees[kind])
    for more in ([], ["--force"], ["-n"]):
        run = gsvckpt("migrate", source, "--merge-lora", base, *more)
        assert_one_error(run, base, 4)
        assert "not a base of v3 or v4" in run.err
        assert kind not in ("lacking", "shaped") or (name in run.err and " 1 tensors differ" in run.err)
        assert sorted(os.listdir(tmp_path)) == ["alice_e8_s16_l2.pth", "base.pth"]


@pytest.mark.parametrize(
    ("ours", "theirs", "of"), [("v3", "v4", "config"), ("v3", "v4", "info"), ("v3", "v4", "folder"), ("v4", "v3", "config"), ("v4", "v3", "folder")]
)
def test_a_base_of_the_other_version_is_refused_where_anything_tells(gsvckpt, tmp_path, base_state, lora_state, ours, theirs, of):
    told = {"config": {"config": {"model": {"version": theirs}}}, "info": {"info": f"pretrained_s2G_{theirs}"}, "folder": {}}[of]
    base = base_file(tmp_path / (f"SoVITS_weights_{theirs}" if of == "folder" else "x") / "base.pth", base_state, **told)
    source = lora_file(tmp_path / "alice_e8_s16_l2.pth", lora_state, ours, {"v3": b"03", "v4": b"04"}[ours])
    for more in ([], ["--force"]):
        run = gsvckpt("migrate", source, "--merge-lora", base, *more)
        assert_one_error(run, base, 4)
        assert f"a base of {theirs}, but the LoRA is of {ours}" in run.err
    assert sorted(path.name for path in tmp_path.rglob("*.pth")) == ["alice_e8_s16_l2.pth", "base.pth"]


def test_a_base_that_does_not_tell_its_version_is_taken_with_a_word(gsvckpt, tmp_path, base_state, lora_state):
    base = base_file(tmp_path / "base.pth", base_state)
    source = lora_file(tmp_path / "alice_e8_s16_l2.pth", lora_state)
    file = gsvckpt.json("migrate", source, "--merge-lora", base, "--force").file
    assert any("does not tell whether it is a base of v3 or v4" in warning for warning in file["warnings"])
    base = base_file(tmp_path / "s2Gv3.pth", base_state)
    file = gsvckpt.json("migrate", source, "--merge-lora", base, "--force").file
    assert any("is not that file" in warning for warning in file["warnings"])


@pytest.mark.parametrize(
    "tree",
    [
        small(generator("v2"), "v2"),
        small(generator("v3"), "v3"),
        {"weight": gpt(), "config": {}},
        s2_training(discriminator()),
        s2_training(generator("v3")),
        s1_training(gpt()),
        {"w": numbers((2, 2))},
    ],
    ids=["v2", "v3", "GPT", "D", "full run", "GPT run", "another"],
)
def test_what_is_no_lora_is_refused(gsvckpt, tmp_path, base_state, tree):
    source, base = save(tmp_path / "x.pth", tree), base_file(tmp_path / "base.pth", base_state)
    for more in ([], ["--force"]):
        run = gsvckpt("migrate", source, "--merge-lora", base, *more)
        assert_one_error(run, source, 4)
        assert "not a LoRA" in run.err
        assert sorted(os.listdir(tmp_path)) == ["base.pth", "x.pth"]


@pytest.mark.parametrize("data", [None, b"", b"PK nothing", b"\x80\x02}q\x00."], ids=range(4))
def test_a_base_that_cannot_be_read_is_named(gsvckpt, tmp_path, lora_state, data):
    source, base = lora_file(tmp_path / "alice_e8_s16_l2.pth", lora_state), tmp_path / "base.pth"
    if data is not None:
        base.write_bytes(data)
    assert_one_error(gsvckpt("migrate", source, "--merge-lora", base), base, 3)
    assert not (tmp_path / "alice_e8_s16.pth").exists()


# --- names ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice_e8_s16_l2.pth", "alice_e8_s16.pth"),
        ("声音_l2_e8_s16_l2.pth", "声音_l2_e8_s16.pth"),
        ("mine.pth", "mine.migrated.pth"),
        ("G_1_l2.pth", None),
    ],
)
def test_the_name_loses_the_rank_and_nothing_is_overwritten(gsvckpt, tmp_path, base_state, lora_state, name, expected):
    source, base = lora_file(tmp_path / "v" / name, lora_state), base_file(tmp_path / "base.pth", base_state)
    output = Path(gsvckpt.json("migrate", source, "--merge-lora", base, "--force").file["output"])
    assert expected is None or output == source.with_name(expected)
    assert sorted(os.listdir(source.parent)) == sorted([name, output.name])
    assert [path.name for path in source.parent.glob("G_*.pth")] == [name] * name.startswith("G_")  # training would resume from another
    output.write_bytes(b"mine")
    run = gsvckpt("migrate", source, "--merge-lora", base)
    assert (run.code, output.read_bytes()) == (4, b"mine")


def test_neither_lora_nor_base_is_ever_overwritten(gsvckpt, tmp_path, base_state, lora_state):
    source, base = lora_file(tmp_path / "alice_e8_s16_l2.pth", lora_state), base_file(tmp_path / "base.pth", base_state)
    data = source.read_bytes(), base.read_bytes()
    for output in (source, base):
        assert_one_error(gsvckpt("migrate", source, "--merge-lora", base, "--force", "-o", output), output, 4)
    assert gsvckpt("migrate", source, "--merge-lora", base, "--force", "--in-place").code == 2
    assert (source.read_bytes(), base.read_bytes()) == data
    assert leftovers(tmp_path) == []


def test_several_loras_of_one_base(gsvckpt, tmp_path, base_state, lora_state):
    base = base_file(tmp_path / "base.pth", base_state)
    sources = [
        lora_file(tmp_path / f"{name}_e8_s16_l2.pth", {**lora_state, adapter(Q, "A"): torch.full((2, 1024), n).half()}) for n, name in enumerate("ab")
    ]
    files = gsvckpt.json("migrate", *sources, "--merge-lora", base, "--force", "-o", f"{tmp_path}/full/").document["files"]
    assert [Path(file["output"]).name for file in files] == ["a_e8_s16.pth", "b_e8_s16.pth"]
    values = [load(tmp_path / "full" / f"{name}_e8_s16.pth")["weight"][f"{Q}.weight"].unique().tolist() for name in "ab"]
    assert values == [[0.5], [0.5 + 2 * 0.5]]
