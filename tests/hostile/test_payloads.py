"""Code in pickles: judged unsafe whatever container carries it, and never run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from support.builders import Entry, Make, Name, pickled, read, tensor, torch_stream, torch_zip, zipped

from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.formats.known import Known, known_of
from gsvckpt.formats.pickle.safety import Safety, judge_all
from gsvckpt.model import Checkpoint

from .payloads import CLEAN, payloads

NAMES = list(payloads("x"))
CONTAINERS = {
    "zip": torch_zip,
    "zip with the head 05": lambda code: torch_zip(code, head=b"05"),
    "zip in another folder": lambda code: torch_zip(code, prefix="1745000000.1"),
    "stream": torch_stream,
    "bare": lambda code: code,
}


def verdict(data: bytes) -> Safety:
    """What a user would be told: of the names in the file, opened or not."""
    try:
        found: Checkpoint | Known | None = read(data)
    except GsvError as error:
        found = known_of(error)
    assert found is not None
    return judge_all(found.globals)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", NAMES)
def test_unsafe_and_never_run(tmp_path: Path, name: str, container: str) -> None:
    marker = tmp_path / "ran"
    before = set(sys.modules)
    found = verdict(CONTAINERS[container](payloads(str(marker))[name]))
    assert found.verdict == "unsafe", found
    assert not marker.exists()
    assert not {"antigravity", "this", "pty", "runpy"} & (set(sys.modules) - before)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CLEAN)
def test_clean_ones_are_safe(name: str, container: str) -> None:
    assert verdict(CONTAINERS[container](CLEAN[name])).verdict == "safe"


def test_clean_tensors_are_safe() -> None:
    tree = {"w": tensor("float32", (2,)), "u": tensor("float8_e5m2", (2,))}
    assert judge_all(read(torch_zip(tree)).globals).verdict == "safe"


def test_an_unknown_class_is_neither() -> None:
    assert verdict(torch_zip({"x": Make(Name("lightning.fabric", "Thing"))})).verdict == "unknown"


@pytest.mark.skipif(os.name == "nt", reason="the payload is a POSIX command")
@pytest.mark.parametrize("name", ["posix.system", "protocol 0", "STACK_GLOBAL", "builtins.eval"])
def test_the_payloads_are_real(tmp_path: Path, name: str) -> None:
    """What we call unsafe does run when pickle loads it; otherwise the tests above would prove little."""
    marker = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(payloads(str(marker))[name])
    program = f"import pickle; pickle.load(open({str(tmp_path / 'evil.pkl')!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert marker.exists()


def test_a_clean_zip_behind_a_malicious_pickle_is_unsafe(tmp_path: Path) -> None:
    """torch.load takes a file that does not begin with a zip header for a pickle, and runs it."""
    code = payloads(str(tmp_path / "ran"))["posix.system"]
    with pytest.raises(GsvError) as caught:
        read(code + torch_zip({"w": tensor("float32", (2,))}))
    assert judge_all(caught.value.known.globals).verdict == "unsafe"


@pytest.mark.parametrize("first", ["evil", "clean"])
def test_two_pickles_are_refused_as_readers_take_different_ones(tmp_path: Path, first: str) -> None:
    evil = Entry("a/data.pkl", payloads(str(tmp_path / "ran"))["os.system"])
    clean = Entry("b/data.pkl", pickled({}))
    with pytest.raises(DamagedError, match=r"2 pickles named data.pkl"):
        read(zipped([evil, clean] if first == "evil" else [clean, evil]))


def test_a_name_with_line_ends_cannot_smuggle_opcodes_into_what_we_write() -> None:
    """Written as GLOBAL, the second half of this name would be opcodes."""
    from gsvckpt.engine.write import lay_out
    from gsvckpt.transforms.plan import begin

    name = b"HParams\ncos\nsystem\n"
    code = b"\x80\x04\x8c\x05utils\x8c" + bytes([len(name)]) + name + b"\x93)\x81."
    checkpoint = read(torch_zip(code))
    with pytest.raises(GsvError, match="characters that cannot be written"):
        lay_out(begin(checkpoint))
    assert judge_all(checkpoint.globals).verdict == "unknown"
    with pytest.raises((pickle.UnpicklingError, AttributeError, ModuleNotFoundError)):
        pickle.loads(code)
