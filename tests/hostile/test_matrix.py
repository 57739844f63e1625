"""The files by which scanners are told apart: each is given the verdict that no other scanner gives to all of them.

Clean ones are safe and sound. Malicious ones are unsafe, however they are wrapped, renamed or damaged; nothing malicious is ever safe, and nothing
that cannot be told is.
"""

from __future__ import annotations

import io
import os
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.builders import Entry, Make, Name, View, hparams, pickled, safetensors, tensor, torch_entries, torch_stream, torch_zip, zipped
from support.verified import ids, remarkable, verify

from gsvckpt.cli.app import main
from hostile.payloads import payloads

WEIGHT = {"dec.conv.weight": tensor("float32", (2, 2), range(4))}


def evil(marker: str) -> bytes:
    return payloads(marker)["os.system"]


def saved(tree: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, **options)
    return buffer.getvalue()


def training() -> dict[str, object]:
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 1, "learning_rate": 1e-4}


def with_hparams() -> bytes:
    """Saved by torch with a class called utils.HParams, as GPT-SoVITS does."""
    module = types.ModuleType("utils")
    module.HParams = type("HParams", (), {"__module__": "utils"})
    sys.modules["utils"] = module
    try:
        config = module.HParams()
        config.version = "v2"
        return saved({"weight": {"dec.w": torch.ones(2)}, "config": config, "info": "1epoch_1iteration"})
    finally:
        del sys.modules["utils"]


CLEAN: dict[str, Callable[[], bytes]] = {
    "zip": lambda: saved({"a": torch.ones(3)}),
    "old format": lambda: saved({"a": torch.ones(3)}, _use_new_zipfile_serialization=False),
    "training file with AdamW": lambda: saved(training()),
    "GPT-SoVITS head": lambda: torch_zip({"weight": {**WEIGHT, "sv_emb.weight": tensor("float32", (2, 2))}, "config": {}}, head=b"05"),
    "HParams in the config": with_hparams,
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_are_safe(tmp_path: Path, name: str) -> None:
    result = verify(tmp_path / "x.pth", CLEAN[name]())
    assert result.safety.verdict == "safe"
    assert not {finding.check for finding in remarkable(result)} & {"pickle.safety", "pickle.damaged", "record.crc", "tensor.bounds"}


def flagged(code: bytes) -> bytes:
    return zipped([Entry("archive/data.pkl", code, flags=0x0809), Entry("archive/version", b"3\n")])


def deflated(code: bytes) -> bytes:
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(code) + packed.flush()
    return zipped([Entry("archive/data.pkl", data, method=8, crc=zlib.crc32(code), size=len(data)), Entry("archive/version", b"3\n")])


MALICIOUS: dict[str, Callable[[bytes], bytes]] = {
    "zip": torch_zip,
    "head 05": lambda code: torch_zip(code, head=b"05"),
    "head 07": lambda code: torch_zip(code, head=b"07"),
    "unknown head": lambda code: torch_zip(code, head=b"99"),
    "old format": torch_stream,
    "bare": lambda code: code,
    "bare, cut before its end": lambda code: code[:-1],
    "bad checksum on data.pkl": lambda code: zipped([Entry("archive/data.pkl", code, crc=1), Entry("archive/version", b"3\n")]),
    "encrypted flag": flagged,
    "compressed": deflated,
    "other local name": lambda code: zipped([Entry("archive/data.pkl", code, local_name="archive/data.txt"), Entry("archive/version", b"3\n")]),
    "two pickles, evil last": lambda code: zipped([Entry("a/data.pkl", pickled({})), Entry("b/data.pkl", code)]),
    "two pickles, evil first": lambda code: zipped([Entry("a/data.pkl", code), Entry("b/data.pkl", pickled({}))]),
    "same name twice": lambda code: zipped([Entry("a/data.pkl", pickled({})), Entry("a/data.pkl", code)]),
    "behind the first pickle": lambda code: torch_zip(pickled({}) + code),
    "another record called .pkl": lambda code: zipped([*torch_entries(WEIGHT), Entry("archive/extra/more.pkl", code)]),
    "a record without an extension": lambda code: zipped([*torch_entries(WEIGHT), Entry("archive/.data/notes", code)]),
    "cut off": lambda code: torch_zip({"weight": WEIGHT, "x": Make(Name("os", "system"), ("true",))})[:-60],
    "a zip behind a pickle": lambda code: code + torch_zip(WEIGHT),
    "a directory without entries": lambda code: zipped([Entry("archive/data.pkl", code)], count=0),
    "nested in _load_from_bytes": lambda code: torch_zip(
        b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + len(code).to_bytes(4, "little") + code + b"\x85R."
    ),
    "in front of a safetensors body": lambda code: code + safetensors({"w": ("F32", (1,), bytes(4))}),
}


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("called", ["x.pth", "model.weights"])
def test_malicious_files_are_unsafe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, called: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / called
    result = verify(path, MALICIOUS[name](evil(str(marker))))
    assert result.status == result.safety.verdict == "unsafe", result
    assert "pickle.safety" in ids(result)
    assert {"os.system", "torch.storage._load_from_bytes"} & {judged.name for judged in result.safety.of("unsafe")}
    assert main(["verify", str(path), "--checks", "pickle.safety", "-q"]) == 1
    assert not marker.exists()


@pytest.mark.parametrize("name", ["builtins.__import__", "importlib.import_module", "marshal.loads", "protocol 0"])
def test_what_others_call_innocuous(tmp_path: Path, name: str) -> None:
    for path, data in (
        (tmp_path / "x.bin", payloads(str(tmp_path / "ran"))[name]),
        (tmp_path / "x.pth", torch_zip(payloads(str(tmp_path / "ran"))[name])),
    ):
        assert verify(path, data).status == "unsafe"


def test_every_payload_in_every_container_leaves_no_marker_in_any_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing from a file runs, whatever is asked of it."""
    marker = tmp_path / "ran"
    path = tmp_path / "x.pth"
    commands = (["verify", "--resume"], ["verify", "--record", "--backup", str(tmp_path / "copies")], ["inspect", "--config", "--globals", "--stats"])
    commands = (*commands, ["strip-optimizer", "--force", "-o", str(tmp_path / "o.pth")], ["convert-fp16", "--force", "-o", str(tmp_path / "o.pth")])
    for payload in payloads(str(marker)).values():
        for wrap in (MALICIOUS["zip"], MALICIOUS["head 05"], MALICIOUS["old format"], MALICIOUS["bare"], MALICIOUS["behind the first pickle"]):
            path.write_bytes(wrap(payload))
            for command, *options in commands:
                main([command, str(path), *options, "--json"])
                assert not marker.exists(), (payload, command)
            assert not (tmp_path / "copies").exists() or not os.listdir(tmp_path / "copies")
    capsys.readouterr()


def test_renamed_files_in_a_folder_are_found_by_their_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = evil(str(tmp_path / "ran"))
    (tmp_path / "notes.txt").write_bytes(b"nothing to see here\n")
    for number, wrap in enumerate(
        (MALICIOUS["zip"], MALICIOUS["bare"], MALICIOUS["two pickles, evil last"], MALICIOUS["head 05"], MALICIOUS["old format"])
    ):
        (tmp_path / f"model{number}.weights").write_bytes(wrap(code))
    (tmp_path / "text.dat").write_bytes(payloads(str(tmp_path / "ran"))["protocol 0"])
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("would run") == 6
    assert "1 other file" in out


def test_what_cannot_be_told_is_unknown_and_fails(tmp_path: Path) -> None:
    result = verify(tmp_path / "x.pth", torch_zip({"x": Make(Name("somebody.own", "Thing"), state={}, new=True)}))
    assert (result.safety.verdict, result.status) == ("unknown", "suspect")
    assert ids(result) == {"pickle.safety"}
    assert main(["verify", str(tmp_path / "x.pth"), "-q"]) == 1


def test_a_shape_bomb_is_stopped(tmp_path: Path) -> None:
    """1.6 KB that torch.load opens and .half() dies of."""
    small = tensor("float32", (1,), [1.0])
    bomb = View(small.store, (1 << 20, 1 << 20), (0, 0))
    result = verify(tmp_path / "x.pth", torch_zip({"weight": {"dec.w": bomb}, "config": hparams({})}))
    assert ids(result) == {"tensor.bounds"}
    assert result.status == "damaged"


def test_a_memo_bomb_and_a_zip_bomb_are_stopped(tmp_path: Path) -> None:
    memo = b"\x80\x02}r\xff\xff\xff\x7f."
    assert verify(tmp_path / "memo.pth", torch_zip(memo)).safety.verdict == "safe"  # ours has no array of two billion places
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(bytes(1 << 28)) + packed.flush()
    result = verify(tmp_path / "zip.pth", zipped([Entry("a/data.pkl", data, method=8, crc=1, size=len(data))]))
    assert result.status == "unchecked"
    assert ids(result) == {"container.compressed"}
