"""inspect and verify of URLs: what they ask for, what they say, and what they never show."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.builders import torch_zip

from gsvckpt.engine.write import lay_out
from gsvckpt.files.remote import source as remote
from gsvckpt.files.streams import crc32
from gsvckpt.model import Checkpoint, Container, Storage
from gsvckpt.transforms.plan import Plan
from tests.support import cloud as clouds
from tests.support.voices import Maker, Nothing, sovits_weights
from tests.support.web import Web, serve

from .samples import evil, generator, gpt, s2_training, save, small, spawn, weights

MOST_REQUESTS, MOST_BYTES = 6, 1_000_000
SIGNATURE = "X-Amz-Signature=0123456789abcdef"
FILE_CHECKS = ("--checks", "container,record,pickle,tensor")  # small samples lack most of a model
GLANCES = [("inspect", "--json"), ("inspect", "--tensors"), ("inspect", "--config"), ("inspect", "--globals"), ("verify", "--quick")]
FORMS = ((), ("--json",), ("--format", "sarif"), ("--format", "junit"))
REPORTS = [("inspect",), ("inspect", "--json"), ("inspect", "--tensors"), *(("verify", *form) for form in FORMS)]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", (0, 0, 0))


@pytest.fixture
def web(tmp_path) -> Iterator[Web]:
    with serve(tmp_path) as web:
        yield web


def write_sparse(root: object, path: Path, container: str) -> int:
    """A file of real size that takes no room on the disk, as all its tensors are zeros; its size."""
    plan = Plan(Checkpoint(Nothing(), Container("torch-zip", records=0), root), root, container, "PK")
    layout = lay_out(plan)
    zeros = memoryview(bytes(1 << 22))

    def checksum(storage: Storage) -> int:
        crc, left = 0, storage.numel * plan.dtype_of(storage).itemsize
        while left:
            crc, left = crc32(zeros[: min(left, len(zeros))], crc), left - min(left, len(zeros))
        return crc

    checksums = {storage: checksum(storage) for storage, _ in layout.storages}
    with path.open("wb") as file:
        file.truncate(layout.size)
        for offset, text in (*layout.texts, *layout.close(checksums)):
            file.seek(offset)
            file.write(text)
    return layout.size


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    """A v3 voice of 769 MB, in both containers."""
    folder = tmp_path_factory.mktemp("voices")
    root = sovits_weights(Maker(), "alice", "v3", 8, 200)
    assert write_sparse(root, folder / "alice.pth", "torch-zip") > 768_000_000
    assert write_sparse(root, folder / "alice.safetensors", "safetensors") > 768_000_000
    return folder


@pytest.mark.parametrize("name", ["alice.pth", "alice.safetensors"])
@pytest.mark.parametrize("command", GLANCES, ids=" ".join)
def test_structure_takes_few_requests_whatever_the_size(gsvckpt, voices, command, name):
    with serve(voices) as web:
        run = gsvckpt(*command, web.url(name))
    assert run.code == 0, run.err
    ranges = [request for request in web.requests if request.start is not None]
    assert len(ranges) == len(web.requests) <= MOST_REQUESTS
    assert web.sent < MOST_BYTES


def test_a_url_is_inspected_as_the_file_is(gsvckpt, tmp_path, web):
    save(tmp_path / "alice_e8_s16.pth", small(generator("v2", "float16"), "v2"))
    expected, found = gsvckpt.json("inspect", tmp_path / "alice_e8_s16.pth").file, gsvckpt.json("inspect", web.url("alice_e8_s16.pth")).file
    assert {**found, "path": expected["path"]} == expected


def test_the_values_of_tensors_can_be_asked_for(gsvckpt, tmp_path, web):
    save(tmp_path / "voice.pth", small(generator("v2"), "v2"))
    expected = gsvckpt.json("inspect", tmp_path / "voice.pth", "--tensors", "--stats").file
    found = gsvckpt.json("inspect", web.url("voice.pth"), "--tensors", "--stats").file
    assert {**found, "path": expected["path"]} == expected


def test_a_url_is_verified_as_the_file_is(gsvckpt, tmp_path, web):
    save(tmp_path / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    expected, found = (gsvckpt.json("verify", path, *FILE_CHECKS).file for path in (tmp_path / "G_16.pth", web.url("G_16.pth")))
    assert found["digests"] == expected["digests"]
    assert (found["status"], found["findings"]) == ("sound", expected["findings"])


def large_model(gsvckpt, path: Path) -> bytes:
    """A zip whose headers stand further apart than what one request gets, aligned as torch aligns it."""
    save(path.with_name("built.pth"), {"model": weights({f"layers.{n}.weight": (300, 300) for n in range(12)})})
    assert gsvckpt("migrate", path.with_name("built.pth"), "-o", path).code == 0
    return path.read_bytes()


def test_full_verify_sees_one_altered_bit_and_quick_says_what_it_left_out(gsvckpt, tmp_path, web):
    data = bytearray(large_model(gsvckpt, tmp_path / "model.pth"))
    run = gsvckpt("verify", web.url("model.pth"))
    assert run.code == 0, run
    data[len(data) // 2] ^= 1
    (tmp_path / "model.pth").write_bytes(data)
    run = gsvckpt.json("verify", web.url("model.pth"), exit_code=1)
    assert (run.file["status"], [finding["check"] for finding in run.file["findings"]]) == ("damaged", ["record.crc"])
    quick = gsvckpt.json("verify", "--quick", web.url("model.pth")).file
    assert [(finding["check"], finding["severity"]) for finding in quick["findings"]] == [("container.headers", "info")]
    assert "were not read" in quick["findings"][0]["why"]


def test_full_verify_looks_at_every_local_header(gsvckpt, tmp_path, web):
    data = bytearray(large_model(gsvckpt, tmp_path / "model.pth"))
    headers = [at for at in range(len(data)) if data.startswith(b"PK\x03\x04", at)]
    data[headers[8] + 28] ^= 0xFF  # the length of its extra field, by which readers find the data
    (tmp_path / "model.pth").write_bytes(data)
    expected = gsvckpt.json("verify", tmp_path / "model.pth", exit_code=1).file
    found = gsvckpt.json("verify", web.url("model.pth"), exit_code=1).file
    assert [finding["check"] for finding in found["findings"]] == [finding["check"] for finding in expected["findings"]]
    assert found["status"] == expected["status"] == "damaged"


def test_a_network_that_breaks_is_unchecked_and_never_damage(gsvckpt, tmp_path, web):
    large_model(gsvckpt, tmp_path / "model.pth")

    def spoil(number, answer):
        answer.cut = 1000 if number > 3 and answer.end - answer.start > 1000 else 0

    web.spoil = spoil
    run = gsvckpt.json("verify", web.url("model.pth"), exit_code=3)
    assert run.file["status"] == "unchecked"
    assert run.file["error"]["kind"] == "unreachable"
    assert run.file["findings"] == []
    assert "tried 4 times" in run.err


def test_an_object_that_changes_meanwhile_is_unchecked(gsvckpt, tmp_path, web):
    large_model(gsvckpt, tmp_path / "model.pth")
    web.spoil = lambda number, answer: setattr(answer, "etag", '"two"' if number > 3 else '"one"')
    run = gsvckpt.json("verify", web.url("model.pth"), exit_code=3)
    assert run.file["status"] == "unchecked"
    assert run.file["error"]["kind"] == "changed"


@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
@pytest.mark.parametrize("state", ["sound", "evil", "broken", "missing", "denied"])
def test_secrets_are_never_shown(gsvckpt, tmp_path, web, command, state):
    tree = evil() if state == "evil" else small(generator("v2", "float16"), "v2")
    if state != "missing":
        save(tmp_path / "voice.pth", tree)
    if state == "broken":
        (tmp_path / "voice.pth").write_bytes((tmp_path / "voice.pth").read_bytes()[:3000])
    if state == "denied":
        web.spoil = lambda _, answer: setattr(answer, "status", 403)
    url = web.url("voice.pth").replace("http://", "http://me:very-secret-word@")
    run = gsvckpt(*command, f"{url}?{SIGNATURE}", "-v", "--progress")
    assert run.code == (3 if state == "denied" else gsvckpt(*command, tmp_path / "voice.pth").code)
    assert web.requests[0].path == f"/voice.pth?{SIGNATURE}"
    for secret in ("0123456789abcdef", "very-secret-word", "Signature"):
        assert secret not in run.out + run.err


def test_a_wrong_option_beside_a_url_shows_no_secret(gsvckpt):
    for argv in (
        ("inspect", f"https://host/a.pth?{SIGNATURE}", "--nonsense"),
        ("prune", "--nonsense=1", f"https://host/a.pth?{SIGNATURE}"),
        (f"https://h/?{SIGNATURE}", "--nonsense"),  # a URL in place of a command is inspected
        ("inspekt", f"https://h/?{SIGNATURE}"),
    ):
        run = gsvckpt(*argv)
        assert run.code == 2
        assert "0123456789abcdef" not in run.out + run.err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_one_bad_url_does_not_stop_the_others(gsvckpt, tmp_path, web, command):
    save(tmp_path / "voice.pth", small(generator("v2", "float16"), "v2"))
    urls = ["xyz://a/b.pth", web.url("missing.pth"), web.url("voice.pth"), "file:///voice.pth"]
    run = gsvckpt.json(command, *urls, exit_code=3)
    assert len(run.document["files"]) == 4
    assert sum("error" in file and file["error"] is not None for file in run.document["files"]) == 3


def test_the_web_is_read_in_a_real_process(tmp_path, web):
    save(tmp_path / "voice.pth", small(generator("v2", "float16"), "v2"))
    for argv in (("inspect", "--json"), ("verify", *FILE_CHECKS), ("convert-fp16", "-n")):
        run = spawn(*argv, web.url(f"voice.pth?{SIGNATURE}"))
        assert run.returncode == 0
        assert all(line.startswith(b"gsvckpt: ") and b": warning: " in line for line in run.stderr.splitlines())  # nothing of the libraries
        assert b"Signature" not in run.stdout + run.stderr


def test_the_cloud_is_read_in_a_real_process(cloud):
    url = cloud.put("logs/alice/G_16.pth", torch_zip(s2_training(generator("v2", enc_q=True))))
    run = spawn("inspect", url, "--json")
    assert (run.returncode, run.stderr) == (0, b"")
    file = json.loads(run.stdout)["files"][0]
    assert (file["path"], file["kind"], file["version"]) == (url, "sovits-generator-training", "v2")
    run = spawn("verify", url, *FILE_CHECKS)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.startswith(b"sound")


def test_credentials_of_the_environment_are_never_shown(gsvckpt, cloud):
    url = cloud.put("voice.pth", torch_zip(small(generator("v2", "float16"), "v2")))
    cloud.refuse = lambda _request: True
    for command in (("inspect",), ("verify",), ("verify", "--json")):
        run = gsvckpt(*command, url, "-v")
        assert run.code == 3
        assert "cannot be read" in run.err
        assert "AWS_ACCESS_KEY_ID" in run.out + run.err  # where they come from is said
        assert clouds.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in run.out + run.err


def test_a_profile_that_is_not_there_is_told_at_once(cloud, monkeypatch, tmp_path):
    url = cloud.put("voice.pth", torch_zip(small(generator("v2", "float16"), "v2")))
    monkeypatch.setenv("AWS_PROFILE", "nobody-s")
    source = save(tmp_path / "mine.pth", small(generator("v2"), "v2"))
    for argv, code, verb in (
        (("inspect", url), 3, "read"),
        (("convert-fp16", source, "-o", f"s3://{clouds.BUCKET}/new.pth"), 5, "written"),
    ):
        run = spawn(*argv)  # a session that is there would not look for it
        lines = run.stderr.decode().splitlines()
        assert (run.returncode, len(lines)) == (code, 2)
        assert lines[0].endswith(f": cannot be {verb}: The config profile (nobody-s) could not be found")
        assert lines[1].startswith("hint: credentials come from the environment: ")


def test_missing_objects_and_buckets_of_the_cloud(gsvckpt, cloud):
    for url in (f"s3://{clouds.BUCKET}/voice.pth", "s3://no-such-bucket/voice.pth"):
        run = gsvckpt("inspect", url)
        assert (run.code, run.err) == (3, f"gsvckpt: {url}: there is no such file\n")


def test_an_object_of_the_cloud_that_is_replaced_is_told(cloud):
    from gsvckpt.errors import ChangedError
    from gsvckpt.files.local import open_source

    data = random.Random(1).randbytes(1 << 20)
    url = cloud.put("voice.pth", data)
    with open_source(url) as source:
        source.check_unchanged()
        cloud.put("voice.pth", data[::-1])
        with pytest.raises(ChangedError):
            source.read_into(500_000, memoryview(bytearray(10)))
        with pytest.raises(ChangedError):
            source.check_unchanged()


def test_two_urls_are_compared(gsvckpt, cloud):
    one = cloud.put("one.pth", torch_zip(small(generator("v2"), "v2")))
    two = cloud.put("two.pth", torch_zip(small(generator("v2"), "v2")))
    other = cloud.put("other.pth", torch_zip({"weight": gpt()}))
    assert gsvckpt("inspect", one, "--diff", two).code == 0
    assert gsvckpt("inspect", one, "--diff", other).code == 1
    assert gsvckpt("verify", one, "--against", two, "--checks", "against").code == 0
    assert gsvckpt("verify", one, "--against", other, "--checks", "against").code == 1


def test_a_file_and_its_url_can_be_named_together(gsvckpt, tmp_path, cloud):
    save(tmp_path / "one.pth", small(generator("v2"), "v2"))
    url = cloud.put("two.pth", (tmp_path / "one.pth").read_bytes())
    run = gsvckpt.json("verify", tmp_path / "one.pth", url, exit_code=1)
    assert [file["path"] for file in run.document["files"]] == [os.fspath(tmp_path / "one.pth"), url]
    assert len({file["digests"]["content"] for file in run.document["files"]}) == 1


def test_what_is_advised_for_a_file_of_the_web_can_be_pasted(gsvckpt, tmp_path, web, monkeypatch):
    folder = tmp_path / "in here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "cut.pth").write_bytes(torch_zip(small(generator("v2"), "v2"))[:-200])
    for command, stream in (("inspect", "err"), ("verify", "out")):
        said = getattr(gsvckpt(command, web.url("cut.pth")), stream)
        advised = re.findall(r"gsvckpt (migrate http\S+ -o \./ --salvage)", said)
        assert advised, said
        assert gsvckpt(*shlex.split(advised[-1]), "--force").code == 0  # every tensor is left
        assert os.listdir(folder) == ["cut.salvaged.pth"]


def test_a_head_that_is_wrong_on_the_web_is_mended_by_what_is_advised(gsvckpt, tmp_path, web, monkeypatch):
    folder = tmp_path / "in here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save(tmp_path / "voice.pth", small(generator("v2Pro", "float16"), "v2Pro"))  # without the head of its version
    advised = re.findall(r"hint: gsvckpt (migrate --head 05 \S+ -o \./)  # ", gsvckpt("verify", web.url("voice.pth")).out, re.MULTILINE)
    assert advised
    assert gsvckpt(*shlex.split(advised[0])).code == 0
    assert (folder / "voice.pth").read_bytes()[:2] == b"05"


def test_a_network_that_breaks_loses_no_tensors_of_what_is_salvaged(gsvckpt, tmp_path, web):
    data = large_model(gsvckpt, tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(data[:-5000])
    run = gsvckpt("migrate", web.url("model.pth"), "--salvage", "-o", tmp_path / "out.pth")
    assert run.code == 1, run  # a tensor is lost
    salvaged = (tmp_path / "out.pth").read_bytes()
    for healthy in range(2, 12):  # requests until the network breaks

        def spoil(number, answer, healthy=healthy):
            answer.status = 503 if number >= healthy else answer.status

        (tmp_path / "out.pth").unlink(missing_ok=True)
        web.requests.clear()
        web.spoil = spoil
        run = gsvckpt("migrate", web.url("model.pth"), "--salvage", "-o", tmp_path / "out.pth")
        if run.code != 3:
            assert (run.code, (tmp_path / "out.pth").read_bytes()) == (1, salvaged)
            break
        assert "the server answers 503" in run.err
        assert not (tmp_path / "out.pth").exists()
    assert healthy > 3


def test_a_secret_is_handed_to_no_cluster(gsvckpt):
    run = gsvckpt("verify", "https://me:pa55word@127.0.0.1:9/x.pth", "--cluster", "tcp://127.0.0.1:9")
    assert run.code == 2
    assert "is not passed on to workers" in run.err
    assert "pa55word" not in run.out + run.err
