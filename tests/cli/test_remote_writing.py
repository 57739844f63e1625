"""Outputs that are URLs: whole and right under their name, or not there at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from support.builders import tensor, torch_zip

from gsvckpt.files.remote import source as remote
from tests.support import cloud as clouds
from tests.support.web import serve

from .samples import environment, generator, leftovers, s2_training, save, small, weights

TEMPORARY = f"/{clouds.BUCKET}/.gsvckpt-"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", (0, 0, 0))


@pytest.fixture(scope="module")
def server() -> Iterator[clouds.Cloud]:
    with clouds.serve() as server:
        yield server


@pytest.fixture
def cloud(server, monkeypatch) -> Iterator[clouds.Cloud]:
    server.clear()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.refuse = lambda _request: False
    assert not [key for key in server.names() if ".gsvckpt-" in key]
    assert server.unfinished() == []


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A model of several parts of an upload in float16, too, with small tensors between large ones and one that float16 cannot hold."""
    state = {f"layers.{n}.weight": torch.randn(1_000_000 + n) for n in range(6)} | {f"layers.{n}.bias": torch.randn(n + 1) for n in range(40)}
    path = tmp_path_factory.mktemp("large") / "model.pth"
    torch.save({"model": state | {"count": torch.tensor([1e6, 2.0])}}, path)
    return path


COMMANDS = [
    ("convert-fp16",),
    ("convert-fp16", "--on-overflow", "clamp"),
    ("strip-optimizer",),
    ("migrate",),
    ("migrate", "--to", "safetensors"),
    ("migrate", "--dtype", "bfloat16"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("jobs", ["1", "4"])
def test_an_object_has_the_bytes_that_the_file_would_have(gsvckpt, tmp_path, cloud, large, command, jobs):
    name = "model.safetensors" if "safetensors" in command else "model.pth"
    assert gsvckpt(*command, large, "-o", tmp_path / name).code == 0
    run = gsvckpt.json(*command, large, "-o", f"s3://{clouds.BUCKET}/out/{name}", "-j", jobs)
    assert (run.file["output"], run.file["written"]) == (f"s3://{clouds.BUCKET}/out/{name}", True)
    assert cloud.get(f"out/{name}") == (tmp_path / name).read_bytes()
    assert cloud.names() == [f"out/{name}"]
    assert any("partNumber=2" in request for request in cloud.asked)


def test_from_the_cloud_into_the_cloud_and_back(gsvckpt, tmp_path, cloud, large):
    source = cloud.put("model.pth", large.read_bytes())
    assert gsvckpt("migrate", source, "--to", "safetensors").code == 0
    assert gsvckpt("migrate", f"s3://{clouds.BUCKET}/model.safetensors", "--to", "torch", "-o", f"s3://{clouds.BUCKET}/back.pth").code == 0
    assert gsvckpt("migrate", f"s3://{clouds.BUCKET}/back.pth", "-o", tmp_path / "back.pth").code == 0
    expected, found = (torch.load(path, weights_only=True)["model"] for path in (large, tmp_path / "back.pth"))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert cloud.names() == ["back.pth", "model.pth", "model.safetensors"]


def test_outputs_stand_beside_their_sources(gsvckpt, cloud):
    urls = [cloud.put(f"logs/{name}", torch_zip(s2_training(generator("v2", enc_q=True)))) for name in ("G_16.pth", "other.pth")]
    run = gsvckpt.json("convert-fp16", *urls)
    assert [file["output"] for file in run.document["files"]] == [f"s3://{clouds.BUCKET}/logs/{name}" for name in ("fp16-G_16.pth", "other.fp16.pth")]
    assert cloud.names() == ["logs/G_16.pth", "logs/fp16-G_16.pth", "logs/other.fp16.pth", "logs/other.pth"]


def test_several_files_go_into_a_folder_of_the_cloud(gsvckpt, tmp_path, cloud):
    files = [save(tmp_path / name, small(generator("v2"), "v2")) for name in ("one.pth", "two.pth")]
    assert gsvckpt("convert-fp16", *files, "-o", f"s3://{clouds.BUCKET}/small").code == 0
    assert cloud.names() == ["small/one.pth", "small/two.pth"]


def test_from_the_web_into_the_cloud_and_to_the_disk(gsvckpt, tmp_path, cloud, large):
    assert gsvckpt("convert-fp16", large, "-o", tmp_path / "expected.pth").code == 0
    with serve(large.parent) as web:
        assert gsvckpt("convert-fp16", web.url("model.pth"), "-o", f"s3://{clouds.BUCKET}/model.pth").code == 0
        assert gsvckpt("convert-fp16", web.url("model.pth?token=very-secret"), "-o", f"{tmp_path}/").code == 0
    assert cloud.get("model.pth") == (tmp_path / "model.pth").read_bytes() == (tmp_path / "expected.pth").read_bytes()


def test_any_protocol_of_fsspec_can_be_written(gsvckpt, tmp_path, large):
    memory = fsspec.filesystem("memory")
    try:
        assert gsvckpt("convert-fp16", large, "-o", tmp_path / "expected.pth").code == 0
        assert gsvckpt("convert-fp16", large, "-o", "memory://out/model.pth").code == 0
        assert memory.find("/out") == ["/out/model.pth"]
        assert memory.cat("/out/model.pth") == (tmp_path / "expected.pth").read_bytes()
    finally:
        memory.store.clear()


@pytest.mark.parametrize("options", [("--dry-run",), ("--check",)], ids=" ".join)
def test_nothing_is_written_where_nothing_is_to_be(gsvckpt, cloud, large, options):
    source = cloud.put("model.pth", large.read_bytes())
    cloud.asked.clear()
    assert gsvckpt("convert-fp16", source, *options).code == int("--check" in options)
    assert not [request for request in cloud.asked if not request.startswith(("GET", "HEAD"))]


# --- what must not be overwritten ---------------------------------------------------------------------------------------------------------------


def test_an_object_that_is_there_stays_unless_forced(gsvckpt, cloud, large):
    output = cloud.put("out.pth", b"precious")
    cloud.asked.clear()
    run = gsvckpt("convert-fp16", large, "-o", output)
    assert (run.code, cloud.get("out.pth")) == (4, b"precious")
    assert run.err == f"gsvckpt: {output}: exists already\nhint: --force overwrites it; -o PATH writes elsewhere\n"
    assert not [request for request in cloud.asked if request.startswith("POST")]
    assert gsvckpt("convert-fp16", large, "-o", output, "--force").code == 0
    assert cloud.get("out.pth").startswith(b"PK")


def test_an_object_that_comes_meanwhile_stays(gsvckpt, cloud, large):
    def watch(request):
        if request.startswith("POST") and "?uploads" in request:
            cloud.client.put_object(Bucket=clouds.BUCKET, Key="out.pth", Body=b"precious")
        return False

    cloud.refuse = watch
    run = gsvckpt("convert-fp16", large, "-o", f"s3://{clouds.BUCKET}/out.pth")
    assert (run.code, cloud.get("out.pth")) == (4, b"precious")


def test_the_source_is_never_the_output(gsvckpt, cloud, large):
    source = cloud.put("model.pth", large.read_bytes())
    run = gsvckpt("convert-fp16", source, "-o", source, "--force")
    assert (run.code, cloud.get("model.pth")) == (4, large.read_bytes())
    assert "is the source itself" in run.err


# --- failures -------------------------------------------------------------------------------------------------------------------------------------

STEPS = {
    "begin": lambda request: request.startswith(f"POST {TEMPORARY}") and "?uploads" in request,
    "part 1": lambda request: "partNumber=1&" in request,
    "part 2": lambda request: "partNumber=2&" in request,
    "complete": lambda request: request.startswith(f"POST {TEMPORARY}") and "uploadId=" in request,
    "read back": lambda request: request.startswith(f"GET {TEMPORARY}"),
    "name": lambda request: request.startswith(f"PUT /{clouds.BUCKET}/out.pth"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("jobs", ["1", "4"])
def test_a_failure_at_any_step_leaves_nothing(gsvckpt, cloud, large, step, jobs):
    refused = []

    def refuse(request):
        refused.extend([request] if STEPS[step](request) else [])
        return STEPS[step](request)

    cloud.refuse = refuse
    run = gsvckpt("convert-fp16", large, "-o", f"s3://{clouds.BUCKET}/out.pth", "-j", jobs)
    assert refused
    assert run.code == 5
    assert run.err.startswith(f"gsvckpt: s3://{clouds.BUCKET}/out.pth: ")
    assert len([line for line in run.err.splitlines() if not line.startswith("hint: ")]) == 1
    assert clouds.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in run.out + run.err
    assert cloud.names() == []


def test_a_temporary_object_that_may_not_be_removed_is_told(gsvckpt, cloud, large):
    cloud.refuse = lambda request: request.startswith("DELETE")
    run = gsvckpt("convert-fp16", large, "-o", f"s3://{clouds.BUCKET}/out.pth")
    cloud.refuse = lambda _request: False
    (temporary,) = [key for key in cloud.names() if key != "out.pth"]
    assert run.code == 5
    assert f"is written, but its temporary copy {temporary} is still there: cannot be written (permission denied)" in run.err
    assert cloud.get("out.pth") == cloud.get(temporary)
    cloud.clear()


def test_what_does_not_read_back_is_never_published(gsvckpt, cloud, large):
    def alter(request, data):
        return data[:-1] + bytes([data[-1] ^ 1]) if request.startswith(f"GET {TEMPORARY}") and len(data) > 1_000_000 else data

    cloud.alter = alter
    run = gsvckpt("convert-fp16", large, "-o", f"s3://{clouds.BUCKET}/out.pth")
    assert run.code == 5
    assert "does not read back" in run.err
    assert cloud.names() == []


def test_a_source_that_changes_between_its_two_readings_is_told(gsvckpt, cloud, large):
    source = cloud.put("model.pth", large.read_bytes())

    def watch(request):
        if request.startswith("POST") and "?uploads" in request:
            cloud.client.put_object(Bucket=clouds.BUCKET, Key="model.pth", Body=large.read_bytes()[::-1])
        return False

    cloud.refuse = watch
    run = gsvckpt("convert-fp16", source, "-o", f"s3://{clouds.BUCKET}/out.pth")
    assert run.code == 3
    assert "changed while it was read" in run.err
    assert cloud.names() == ["model.pth"]


def test_a_damaged_source_is_never_uploaded_whole(gsvckpt, cloud, large):
    data = bytearray(large.read_bytes())
    data[len(data) // 2] ^= 1
    source = cloud.put("model.pth", bytes(data))
    run = gsvckpt("migrate", source, "-o", f"s3://{clouds.BUCKET}/out.pth")
    assert run.code == 3
    assert "have checksum" in run.err
    assert cloud.names() == ["model.pth"]


def test_a_bucket_that_is_not_there(gsvckpt, cloud, large):
    run = gsvckpt("convert-fp16", large, "-o", "s3://no-such-bucket/out.pth")
    assert run.code == 5
    assert "no such bucket or folder" in run.err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to every process of a console")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("jobs", ["1", "4"])
def test_ctrl_c_at_any_step_leaves_nothing(cloud, large, step, jobs):
    argv = ["convert-fp16", large, "-o", f"s3://{clouds.BUCKET}/out.pth", "-j", jobs]
    process = subprocess.Popen([sys.executable, "-m", "gsvckpt", *argv], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    hit = []

    def watch(request):
        if STEPS[step](request) and not hit:
            hit.append(request)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)  # the answer comes when it is tidied up already, if nobody waits for it
        return False

    cloud.refuse = watch
    _, err = process.communicate(timeout=60)
    assert hit
    assert (process.returncode, err.decode()) == (130, "gsvckpt: interrupted; nothing half-written was left behind\n")
    assert [key for key in cloud.names() if key != "out.pth"] == []


# --- what is not done with URLs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (("convert-fp16", "s3://b/a.pth", "--in-place"), "--in-place"),
        (("strip-optimizer", "https://host/a.pth"), "--output"),
        (("strip-optimizer", "a.pth", "-o", "https://host/a.pth"), "--output"),
        (("migrate", "s3://b/logs/alice", "--bundle", "out"), "--bundle"),
        (("migrate", "logs/alice", "--bundle", "s3://b/out"), "--bundle"),
        (("prune", "s3://b/logs", "--keep-last", "1"), "prune"),
        (("verify", "s3://b/a.pth", "--record"), "--record"),
        (("verify", "s3://b/a.pth", "--backup", "copies"), "--backup"),
        (("verify", "a.pth", "--backup", "s3://b/copies"), "--backup"),
        (("verify", "s3://b/logs/", "--resume"), "--resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_refused_before_anything_is_asked(gsvckpt, argv, where):
    run = gsvckpt(*argv)
    assert run.code == 2
    assert run.err.startswith(f"gsvckpt: {where}: ")


def test_shards_are_not_written_to_urls(gsvckpt, cloud, large):
    run = gsvckpt("migrate", large, "--to", "safetensors", "--max-shard-size", "10MB", "-o", f"s3://{clouds.BUCKET}/out")
    assert run.code == 2
    assert "--max-shard-size" in run.err
    assert cloud.names() == []


def test_no_temporary_file_is_needed_on_the_disk(gsvckpt, tmp_path, cloud, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = cloud.put("voice.pth", torch_zip({"a": tensor("float32", (2,), [1.0, 2.0]), **weights({"b": (4, 4)})}))
    assert gsvckpt("convert-fp16", source).code == 0
    assert list(tmp_path.iterdir()) == leftovers(tmp_path) == []


MEASURED = """
import os, sys
from gsvckpt.__main__ import run

end = os._exit

def tell(code):
    with open("/proc/self/status") as status:
        print(status.read().partition("VmHWM:")[2].split()[0], flush=True)
    end(code)

os._exit = tell
run()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only /proc tells the peak of a process alone")
def test_memory_does_not_grow_with_the_number_of_outputs(cloud, tmp_path):
    values = tensor("float32", (1 << 20,), bytes(1 << 22))
    sources = [save(tmp_path / f"{number}.pth", {"w": values}) for number in range(24)]
    peaks = []
    for count in (4, 24):
        argv = ["convert-fp16", *sources[:count], "-o", f"s3://{clouds.BUCKET}/{count}/", "-q", "-j", "1"]
        done = subprocess.run([sys.executable, "-c", MEASURED, *argv], capture_output=True, check=False, env=environment())
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) << 10)
    assert peaks[1] - peaks[0] < 24_000_000  # what is kept of each would be twice as much
