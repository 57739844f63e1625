"""Folders and files that are reached through links: each is looked at once, and what a link does not lead to is named."""

from __future__ import annotations

import os

import pytest
from support.builders import tensor

from gsvckpt.engine.discover import find_files

from .samples import save

pytestmark = pytest.mark.skipif(os.name == "nt", reason="making a link needs a privilege on Windows")
TREE = {"fc.weight": tensor("float32", (4,), range(4))}


@pytest.fixture
def linked(tmp_path):
    """A program's folder whose `logs` and weights lie on another disk, as on rented machines."""
    for place in ("disk/logs/alice/x_10.pth", "disk/models/net_1.pth"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / place, TREE)
    home = tmp_path / "GPT-SoVITS"
    home.mkdir()
    (home / "logs").symlink_to("../disk/logs")
    (home / "SoVITS_weights_v2").symlink_to(tmp_path / "disk" / "models")
    return home


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_linked_folders_are_looked_through(gsvckpt, linked, command):
    save(linked / "own.pth", TREE)
    run = gsvckpt.json(command, linked, "-r")
    places = [file["path"].removeprefix(f"{linked}{os.sep}") for file in run.document["files"]]
    assert sorted(places) == ["SoVITS_weights_v2/net_1.pth", "logs/alice/x_10.pth", "own.pth"]
    assert run.code == 0


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_folder_under_two_names_is_looked_through_once(gsvckpt, linked, command):
    (linked / "again").symlink_to("logs")
    (linked / "real").mkdir()
    save(linked / "real" / "own.pth", TREE)
    (linked / "a link to real").symlink_to("real")
    run = gsvckpt.json(command, linked, "-r")
    places = [file["path"].removeprefix(f"{linked}{os.sep}") for file in run.document["files"]]
    assert sorted(places) == ["SoVITS_weights_v2/net_1.pth", "again/alice/x_10.pth", "real/own.pth"]  # its own name counts, not the link's


def test_links_in_a_circle_end(gsvckpt, linked, tmp_path):
    (tmp_path / "disk" / "logs" / "alice" / "up").symlink_to("..")
    (tmp_path / "disk" / "models" / "self").symlink_to(".")
    assert len(gsvckpt.json("verify", linked, "-r").document["files"]) == 2


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_link_to_a_folder_above_is_named_and_not_followed(gsvckpt, linked, tmp_path, command):
    (linked / "everything").symlink_to(tmp_path)
    save(tmp_path / "outside.pth", TREE)
    run = gsvckpt(command, linked, "-r")
    assert run.code == 3
    assert f"{linked / 'everything'}: is a link to a folder above it and was not looked into" in run.err
    assert "outside" not in run.out


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize("name", ["gone.pth", "logs-of-last-year", "model.safetensors.index.json"])
def test_a_link_that_leads_nowhere_is_named(gsvckpt, linked, command, name):
    (linked / name).symlink_to("/nowhere/at/all")
    run = gsvckpt(command, linked, "-r")
    assert run.code == 3
    assert f"{linked / name}: is a link to {os.path.normpath('/nowhere/at/all')}, which is not there" in run.err


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_link_of_another_kind_that_leads_nowhere_is_no_matter(gsvckpt, linked, command):
    (linked / "libcuda.so").symlink_to("/nowhere/libcuda.so.1")
    assert gsvckpt(command, linked, "-r").code == 0


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_linked_file_counts_once(gsvckpt, tmp_path, command):
    save(tmp_path / "G_10.pth", TREE)
    (tmp_path / "best.pth").symlink_to("G_10.pth")
    run = gsvckpt.json(command, tmp_path)
    assert [os.path.basename(file["path"]) for file in run.document["files"]] == ["G_10.pth"]


def test_in_a_hub_cache_the_name_that_tells_counts(gsvckpt, tmp_path):
    blob, snapshot = tmp_path / "blobs" / "0a1b2c", tmp_path / "snapshots" / "main" / "model.pth"
    for place in (blob, snapshot):
        place.parent.mkdir(parents=True)
    save(blob, TREE)
    snapshot.symlink_to("../../blobs/0a1b2c")
    run = gsvckpt.json("verify", tmp_path, "-r")
    assert [file["path"] for file in run.document["files"]] == [str(snapshot)]
    snapshot.unlink()
    snapshot.symlink_to("../../blobs/not downloaded yet")
    assert gsvckpt("verify", tmp_path, "-r").code == 3


def test_prune_follows_no_link(gsvckpt, linked):
    assert find_files([str(linked)], recursive=True, wanted="saves").checkpoints == ()
    run = gsvckpt("prune", linked, "--keep-last", "1", "-n")
    assert "logs: a link to" in run.err + run.out


def test_without_r_a_link_to_a_folder_is_a_subfolder(gsvckpt, linked):
    save(linked / "own.pth", TREE)
    assert len(gsvckpt.json("verify", linked).document["files"]) == 1
