"""Folders of torch.distributed.checkpoint and DeepSpeed are one checkpoint each: named, with what is missing, and what gathers them."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp

import gsvckpt as api
from gsvckpt.errors import GsvError

STATE = {
    "model": {"a.weight": torch.randn(8, 4), "b": torch.ones(3).half(), "f8": torch.ones(4).to(torch.float8_e4m3fn)},
    "optimizer": {"state": {"a.weight": {"exp_avg": torch.zeros(8, 4)}}},
    "epoch": 3,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dcp") / "epoch=0-step=10.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(STATE, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "step=10.ckpt")


@pytest.mark.parametrize("arguments", [("FOLDER",), ("FOLDER/.metadata",), ("ABOVE", "-r")])
def test_it_is_one_checkpoint_with_its_names_and_shapes(gsvckpt, folder, arguments):
    words = [word.replace("FOLDER", str(folder)).replace("ABOVE", str(folder.parent)) for word in arguments]
    (file,) = gsvckpt.json("inspect", *words, "--tensors").document["files"]
    metadata = dcp.FileSystemReader(folder).read_metadata()
    expected = {name: list(told.size) for name, told in metadata.state_dict_metadata.items() if hasattr(told, "size")}
    found = {f"model.{tensor['name']}": tensor["shape"] for tensor in file["state"]}
    assert found == {name: shape for name, shape in expected.items() if name.startswith("model.")}
    assert (file["container"]["format"], file["safety"]["verdict"]) == ("torch-distributed", "safe")
    assert {tensor["name"]: tensor["dtype"] for tensor in file["state"]} == {"a.weight": "float32", "b": "float16", "f8": "float8_e4m3fn"}


@pytest.mark.parametrize("arguments", [("FOLDER",), ("ABOVE", "-r")])
def test_verify_says_what_it_did_not_look_at(gsvckpt, folder, arguments):
    words = [word.replace("FOLDER", str(folder)).replace("ABOVE", str(folder.parent)) for word in arguments]
    (file,) = gsvckpt.json("verify", *words, exit_code=3).document["files"]
    assert file["status"] == "unchecked"
    (finding,) = (finding for finding in file["findings"] if finding["severity"] == "error")
    assert finding["hint"]["command"].startswith("python -m torch.distributed.checkpoint.format_utils dcp_to_torch ")


def test_the_command_that_it_names_works(gsvckpt, folder, tmp_path):
    from torch.distributed.checkpoint import format_utils

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        format_utils.dcp_to_torch_save(folder, tmp_path / "out.pth")
    assert torch.equal(torch.load(tmp_path / "out.pth")["model"]["a.weight"], STATE["model"]["a.weight"])


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_what_is_missing_has_its_name(gsvckpt, folder, damage):
    (part,) = folder.glob("*.distcp")
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-100])
    run = gsvckpt("verify", folder)
    assert (run.code, part.name in run.out) == (1, True)
    assert gsvckpt("inspect", folder).code == 3


def test_metadata_that_is_cut_off_is_damage(gsvckpt, folder):
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes()[:-200])
    assert gsvckpt("verify", folder).code == 1


@pytest.mark.parametrize("command", ["migrate", "convert-fp16", "strip-optimizer"])
def test_it_is_not_gathered(gsvckpt, folder, command, tmp_path):
    for options in ((), ("--force",)):
        run = gsvckpt(command, folder, "-o", tmp_path / "out.pth", *options)
        assert (run.code, "dcp_to_torch" in run.err) == (3, True)
    assert not (tmp_path / "out.pth").exists()
    with pytest.raises(GsvError, match="which gsvckpt does not gather"):
        api.load_state_dict(folder)
    assert gsvckpt("inspect", folder, "--stats").code == 3


def test_a_part_alone_is_called_one(gsvckpt, folder):
    (part,) = folder.glob("*.distcp")
    file = gsvckpt.json("verify", part, exit_code=3).file
    assert (file["status"], "one part of a distributed checkpoint" in file["findings"][0]["why"]) == ("unchecked", True)


# --- DeepSpeed -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def zero(tmp_path):
    folder = tmp_path / "run" / "global_step10"
    folder.mkdir(parents=True)
    torch.save({"module": {"w": torch.ones(2)}, "param_shapes": [], "ds_version": "0.14", "ds_config": {}}, folder / "mp_rank_00_model_states.pt")
    for rank in range(4):
        state = {"optimizer_state_dict": {"zero_stage": 2, "fp32": torch.ones(2)}, "ds_version": "0.14"}
        torch.save(state, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder.parent / "latest").write_text("global_step10")
    return folder


def test_parts_of_zero_say_how_they_are_gathered(gsvckpt, zero):
    for path in zero.glob("*.pt"):
        (warning,) = gsvckpt.json("inspect", path).file["warnings"]
        assert warning.endswith(f"python zero_to_fp32.py {zero} OUT")
    assert gsvckpt("verify", zero.parent, "-r").code == 0


def test_a_rank_that_is_missing_is_damage_to_the_whole(gsvckpt, zero):
    (zero / "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    run = gsvckpt("verify", zero.parent, "-r")
    assert (run.code, "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt" in run.out) == (1, True)
    assert gsvckpt("inspect", zero).code == 3
