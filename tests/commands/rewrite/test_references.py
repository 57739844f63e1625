"""Other checkpoints that a migration needs: files and layouts by name, and which file may be the base of a LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sovits import trees
from support.builders import safetensors, tensor, torch_zip

from gsvckpt.commands.rewrite.references import check_base, open_examined, open_reference
from gsvckpt.engine.examine import Examination, examine
from gsvckpt.errors import DamagedError, GsvError, MissingError, NotCheckpointError, RefusedError, UsageError
from gsvckpt.model import Checkpoint, Container
from gsvckpt.sovits import official
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.layouts import layout

SMALL = Identity("sovits-weights", "sovits-generator", "v1")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def shapes_of(name: str, rank: int = 32) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, (_, shape) in layout(name, rank).items()}


# --- files ---------------------------------------------------------------------------------------------------------------------------------------


def test_a_file_gives_its_tensors_and_what_it_is(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "x.pth").write_bytes(torch_zip({"weight": {"discriminators.0.w": tensor("float32", (4, 2))}, "n": 1}))
    found = open_reference(str(tmp_path / "x.pth"), SMALL, stack)
    assert (found.name, found.shapes) == (str(tmp_path / "x.pth"), {"discriminators.0.w": (4, 2)})
    assert found.identity is not None
    assert found.identity.family == "sovits-discriminator"
    source = found.tensors["discriminators.0.w"].storage.source
    buffer = bytearray(2)
    source.read_into(0, memoryview(buffer))  # open until the stack closes it
    assert buffer == b"PK"
    stack.close()
    with pytest.raises(GsvError):
        source.read_into(0, memoryview(buffer))


def test_safetensors_are_a_reference_too(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors({"a.b": ("F32", (2,), bytes(8))}))
    assert open_reference(str(tmp_path / "x.safetensors"), SMALL, stack).shapes == {"a.b": (2,)}


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", NotCheckpointError), (b"<html>", NotCheckpointError), (torch_zip({"w": tensor("int8", (9,))})[:200], DamagedError)],
)
def test_an_unreadable_file_is_blamed_itself(tmp_path: Path, stack: ExitStack, data: bytes, error: type[GsvError]) -> None:
    path = tmp_path / "ref.pth"
    path.write_bytes(data)
    for opened in (lambda: open_reference(str(path), SMALL, stack), lambda: open_examined(str(path), stack)):
        with pytest.raises(error) as caught:
            opened()
        assert caught.value.path == str(path)


def test_a_base_that_is_not_there(tmp_path: Path, stack: ExitStack) -> None:
    with pytest.raises(MissingError) as caught:
        open_examined(str(tmp_path / "none.pth"), stack)
    assert caught.value.path == str(tmp_path / "none.pth")


def test_a_file_goes_before_a_layout_of_that_name(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_reference("v2", SMALL, stack).identity is None
    (tmp_path / "v2").write_bytes(torch_zip({"w": tensor("int8", (3,))}))
    assert open_reference("v2", SMALL, stack).shapes == {"w": (3,)}


# --- layouts -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "rank", "expected"),
    [
        ("v2", "sovits-weights", None, "sovits-v2-small"),
        ("v2ProPlus", "sovits-weights", None, "sovits-v2ProPlus-small"),
        ("v4", "sovits-weights", None, "sovits-v4"),
        ("v2", "sovits-generator-training", None, "sovits-v2"),
        ("v1", "sovits-generator-base", None, "sovits-v1"),
        ("v2", "sovits-discriminator-training", None, "discriminator-v2"),
        ("v1", "gpt-weights", None, "gpt-v1"),
        ("v2", "gpt-training", None, "gpt-v2"),
        ("v3", "sovits-lora", 8, "lora-v3"),
        ("v4", "sovits-generator-training", 16, "lora-training-v4"),
        ("sovits-v2-small", "unknown", None, "sovits-v2-small"),
        ("gpt-v2", "sovits-weights", None, "gpt-v2"),
        ("lora-v3", "sovits-lora", 4, "lora-v3"),
    ],
)
def test_a_version_means_the_layout_of_the_sources_own_kind(stack: ExitStack, name: str, kind: str, rank: int | None, expected: str) -> None:
    found = open_reference(name, Identity(kind, lora_rank=rank), stack)
    assert (found.name, found.shapes) == (expected, shapes_of(expected, rank or 32))
    assert (found.tensors, found.identity) == ({}, None)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("sovits-v2-smal", "sovits-weights", "sovits-v2-small"),
        ("v2pro", "sovits-weights", "v2Pro"),
        ("v3", "gpt-weights", "neither a file nor a layout for a gpt-weights"),
        ("v1", "sovits-lora", "neither a file nor a layout for a sovits-lora"),
        ("v2", "state-dict", "neither a file nor a layout for a state-dict"),
        ("zzz", "sovits-weights", "layouts: v1, v2"),
        ("", "sovits-weights", "layouts: v1, v2"),
        ("no/such/file.pth", "sovits-weights", "neither a file"),
    ],
)
def test_what_is_neither_is_a_mistake_with_a_hint(stack: ExitStack, name: str, kind: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_reference(name, Identity(kind, lora_rank=4 if kind == "sovits-lora" else None), stack)
    assert told in f"{caught.value.why} {caught.value.hint}"
    assert caught.value.where == "--like"


# --- bases of LoRAs ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Zeros:
    path: str = "base.pth"
    size: int = 10_000

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))


def base(version: str | None = None, path: str = "base.pth", **change: object) -> Examination:
    weight = trees.state("sovits-v3") | change
    root = {"weight": {name: leaf for name, leaf in weight.items() if leaf is not None}, "info": "pretrained_s2G_v4" if version == "v4" else "x"}
    head = {"v3": "02", "v4": "PK"}.get(version or "", "PK")
    return examine(Checkpoint(Zeros(path), Container("torch-zip", 10, head=head), root))


def lora(version: str | None) -> Identity:
    return Identity("sovits-lora", "sovits-generator", version, lora_rank=32)


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_base_of_the_same_version_is_taken_and_one_of_the_other_is_not(version: str) -> None:
    assert base(version).identity.version == version
    assert check_base(base(version), lora(version)) == ()
    assert check_base(base(version), lora(None)) == ()
    with pytest.raises(RefusedError, match=f"base of {version}") as caught:
        check_base(base(version), lora("v4" if version == "v3" else "v3"))
    assert caught.value.path == "base.pth"


def test_a_base_that_does_not_tell_its_version_is_a_warning() -> None:
    (warning,) = check_base(base(), lora("v3"))
    assert "base.pth" in warning
    assert "v3 or v4" in warning


@pytest.mark.parametrize("other", [None, trees.tensor(3, 3)], ids=["missing", "shape"])
def test_a_base_without_all_tensors_is_refused_and_the_first_named(other: object) -> None:
    name = next(iter(layout("sovits-v3")))
    with pytest.raises(RefusedError, match="1 tensors differ") as caught:
        check_base(base("v3", **{name: other}), lora("v3"))
    assert (name in caught.value.why, caught.value.path, caught.value.where) == (True, "base.pth", "--merge-lora")


def test_another_kind_of_file_is_no_base() -> None:
    other = examine(Checkpoint(Zeros(), Container("torch-zip", 1, head="PK"), {"weight": trees.state("sovits-v2-small")}))
    with pytest.raises(RefusedError, match="not a base of v3 or v4"):
        check_base(other, lora("v3"))


def test_what_more_a_base_holds_does_no_harm() -> None:
    assert check_base(base("v3", extra=trees.tensor(1)), lora("v3")) == ()


def test_a_file_that_is_only_called_as_an_official_one_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    named = next(file for file in official.OFFICIAL if file.basename == "s2Gv3.pth")
    (warning,) = check_base(base("v3", "models/s2Gv3.pth"), lora("v3"))
    assert "SHA-256" in warning
    digest = hashlib.sha256(bytes(Zeros.size)).hexdigest()
    monkeypatch.setattr(official, "OFFICIAL", (named._replace(sha256=digest),))
    assert check_base(base("v3", "models/s2Gv3.pth"), lora("v3")) == ()
