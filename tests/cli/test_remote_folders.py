"""Folders that are URLs: what they hold is told by names alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from support.builders import torch_zip

from tests.support import cloud as clouds

from .samples import evil, generator, gpt, s1_training, s2_training, small

LOGS = f"s3://{clouds.BUCKET}/logs/"


@pytest.fixture
def logs(cloud) -> clouds.Cloud:
    """A run with its files, a temporary file of a run that was killed, and files of other kinds."""
    cloud.put("logs/alice/logs_s2_v2/G_16.pth", torch_zip(s2_training(generator("v2", enc_q=True))))
    cloud.put("logs/alice/logs_s1_v2/ckpt/epoch=1-step=12.ckpt", torch_zip(s1_training(gpt(dtype="float32"))))
    cloud.put("logs/voice.pth", torch_zip(small(generator("v2", "float16"), "v2")))
    cloud.put("logs/.gsvckpt-1-00000000-0000000000000000.part", torch_zip(small(generator("v2"), "v2")))
    cloud.put("logs/.gsvckpt-trash/1/old.pth", torch_zip(small(generator("v2"), "v2")))
    cloud.put("logs/train.log", b"epoch 1")
    cloud.put("logs/alice/zip-without-a-name", torch_zip(small(generator("v2"), "v2")))
    return cloud


def paths(run) -> list[str]:
    return [file["path"].removeprefix(LOGS) for file in run.document["files"]]


def test_a_folder_of_the_cloud(gsvckpt, logs):
    run = gsvckpt.json("inspect", LOGS)
    assert paths(run) == ["voice.pth"]
    assert (run.document["folders"], run.document["ignored"]) == ([LOGS], 1)


def test_all_below_a_folder_of_the_cloud(gsvckpt, logs):
    found = ["alice/logs_s1_v2/ckpt/epoch=1-step=12.ckpt", "alice/logs_s2_v2/G_16.pth", "voice.pth"]
    run = gsvckpt.json("inspect", LOGS, "-r")
    assert sorted(paths(run)) == found
    assert run.document["ignored"] == 2
    run = gsvckpt.json("verify", LOGS, "-r", "--checks", "container,record,pickle,tensor")
    assert sorted(paths(run)) == found
    assert {file["status"] for file in run.document["files"]} == {"sound"}


def test_no_object_is_asked_for_to_see_what_it_is(gsvckpt, logs):
    logs.asked.clear()
    gsvckpt("inspect", LOGS, "-r")
    assert not [request for request in logs.asked if "zip-without-a-name" in request.partition("?")[0] or "train.log" in request.partition("?")[0]]


def test_the_inventory_names_experiments_and_times(gsvckpt, logs):
    run = gsvckpt("inspect", LOGS, "-r")
    assert run.code == 0
    for part in ("alice", "G_16.pth", "epoch=1-step=12.ckpt", "3 checkpoints", "2 other files"):
        assert part in run.out


def test_one_that_would_run_code_is_told(gsvckpt, logs):
    logs.put("logs/stranger.pth", torch_zip(evil()))
    run = gsvckpt("verify", LOGS, "--quick")
    assert run.code == 1
    assert f"{LOGS}stranger.pth: warning: UNSAFE" in run.err


def test_a_folder_without_checkpoints_and_one_that_is_not_there(gsvckpt, cloud):
    cloud.put("notes/readme.txt", b"hello")
    for url, why in ((f"s3://{clouds.BUCKET}/notes/", "holds no checkpoint"), (f"s3://{clouds.BUCKET}/nothing/", "there is no such folder")):
        run = gsvckpt("inspect", url)
        assert run.code == 3
        assert run.err.startswith(f"gsvckpt: {url}: {why}")


def test_a_folder_that_may_not_be_read_tells_where_credentials_come_from(gsvckpt, cloud):
    cloud.refuse = lambda _request: True
    run = gsvckpt("inspect", LOGS)
    lines = run.err.splitlines()
    assert (run.code, lines[0]) == (3, f"gsvckpt: {LOGS}: cannot be read (permission denied)")
    assert lines[1].startswith("hint: credentials come from the environment: AWS_ACCESS_KEY_ID")


def test_a_folder_without_its_slash_is_told(gsvckpt, logs):
    run = gsvckpt("inspect", LOGS.rstrip("/"))
    assert (run.code, run.err) == (3, f"gsvckpt: {LOGS[:-1]}: is a folder\nhint: a folder's URL ends in /\n")


def test_a_checkpoint_in_several_files(gsvckpt, cloud, tmp_path):
    state = {f"layers.{n}.weight": torch.full((4,), float(n)) for n in range(4)}
    names = {name: f"model-0000{1 + n // 2}-of-00002.safetensors" for n, name in enumerate(state)}
    for shard in set(names.values()):
        save_file({name: value for name, value in state.items() if names[name] == shard}, tmp_path / shard)
        cloud.put(f"model/{shard}", (tmp_path / shard).read_bytes())
    index = cloud.put("model/model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": names}).encode())
    folder = f"s3://{clouds.BUCKET}/model/"
    assert gsvckpt.json("inspect", index).file["tensors"] == 4
    assert [file["path"] for file in gsvckpt.json("inspect", folder).document["files"]] == [index]
    assert len(gsvckpt.json("verify", folder).document["files"]) == 3
    assert gsvckpt("migrate", index, "--to", "torch", "-o", tmp_path / "whole.pth").code == 0
    found = torch.load(tmp_path / "whole.pth", weights_only=True)
    assert all(torch.equal(found[name], state[name]) for name in state)
    cloud.client.delete_object(Bucket=clouds.BUCKET, Key="model/model-00002-of-00002.safetensors")
    run = gsvckpt("inspect", index)
    assert run.code == 3
    assert "model-00002-of-00002.safetensors: there is no such file" in run.err
