"""What a file is, by its bytes; and what is no checkpoint is called by its own name."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
from support.builders import Entry, pickled, read, safetensors, tensor, torch_stream, torch_zip, zipped

from gsvckpt.errors import DamagedError, GsvError, NotCheckpointError, UnsupportedError


def zip_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in files.items():
            file.writestr(name.replace("__", "."), data)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.ones(3))
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    return out.getvalue()


# A picture of one pixel, as any program writes it.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def torchscript() -> bytes:
    return zipped([Entry("m/data.pkl", pickled(1)), Entry("m/code/__torch__.py", b""), Entry("m/constants.pkl", pickled(()))])


@pytest.mark.parametrize(
    ("data", "container"),
    [
        (torch_zip({"w": tensor("float32", (2,))}), "torch-zip"),
        (torch_stream({"w": tensor("float32", (2,))}), "torch-stream"),
        (safetensors({"w": ("F32", (2,), bytes(8))}), "safetensors"),
    ],
    ids=["zip", "stream", "safetensors"],
)
def test_checkpoints(data: bytes, container: str) -> None:
    assert read(data).container.format == container


@pytest.mark.parametrize(
    ("data", "says", "hint"),
    [
        (b"", "empty", "disk was full"),
        (bytes(5000), "nothing but zeros", "get it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page", "download it again"),
        (b"\xef\xbb\xbf \r\n<html>", "web page", "download it again"),
        (b"<!-- saved from a site -->\n<html>", "web page", "download it again"),
        (b"\n<script>location = '/login'</script>", "web page", "download it again"),
        (b"\n\nEntry not found", "it begins 'Entry not found'", "download it again"),
        (b"Not Found\n", "text file", "download it again"),
        (b'{"error": "not found"}', "text file", "download it again"),
        (b"GGUF\x03\0\0\0" + bytes(99), "GGUF", ""),
        (b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(range(100)), "ONNX", "onnxruntime"),
        (gzip.compress(b"x" * 100, mtime=0), "gzip", "unpack"),
        (tar(), "tar archive", "unpack"),
        (b"RIFF\x24\0\0\0WAVEfmt ", r"sound file \(WAV\)", "choose"),
        (b"ID3\x04\0\0\0\0\0\x23TSSE", r"sound file \(MP3\)", "choose"),
        (b"fLaC\0\0\0\x22" + bytes(34), r"sound file \(FLAC\)", "choose"),
        (b"OggS\0\x02" + bytes(30), r"sound file \(Ogg\)", "choose"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", r"\(MP4\)", "choose"),
        (PNG, r"picture \(PNG\)", "choose"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(30), r"picture \(JPEG\)", "choose"),
        (b"GIF89a\x01\0\x01\0\x80\0\0", r"picture \(GIF\)", "choose"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", r"picture \(WebP\)", "choose"),
        (b"\x93NUMPY\x01\0", "NumPy array", ""),
        (b"\x7fELF" + bytes(99), "a program", ""),
        (npz(), "NumPy .npz", "unzip"),
        (zip_of(model__pth=b"x"), "a checkpoint is inside", "unzip"),
        (zip_of(readme__txt=b"x"), r"zip of something else.*\(1 entry 'readme.txt'\)", "unzip"),
        (zip_of(**{"[Content_Types]__xml": b"x", "word/document__xml": b"x"}), r"Office document.*\(2 entries, first ", "unzip"),
        (zip_of(), "no entries", "unzip"),
        (torchscript(), "TorchScript", "torch.jit.load"),
        (b"\xfe\xed\xfa\xce" + bytes(range(256)), "fe ed fa ce", "download it again"),
    ],
    ids=range(32),  # the bytes would make names, and gzip's hold the time
)
def test_what_is_no_checkpoint_is_named(data: bytes, says: str, hint: str) -> None:
    with pytest.raises(NotCheckpointError, match=says) as caught:
        read(data)
    assert caught.value.exit_code == 3
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("head", [b"PK", b"05"])
def test_a_zip_without_its_end_was_cut_off(head: bytes) -> None:
    data = torch_zip({"w": tensor("float32", (1000,))}, head=head)
    with pytest.raises(DamagedError, match="failed finding central directory") as caught:
        read(data[:3000])
    assert caught.value.known.container.head == head.decode()


def test_a_bare_pickle_is_unsupported_and_its_names_are_known() -> None:
    with pytest.raises(UnsupportedError, match="bare pickle") as caught:
        read(b"\x80\x04\x8c\x0bcollections\x8c\x07Counter\x93)R.")
    assert [str(name) for name in caught.value.known.globals] == ["collections.Counter"]


def test_content_decides_when_a_zip_directory_stands_behind_something_else() -> None:
    """torch.load looks at the first bytes, so a stream with a zip behind it is a stream."""
    both = torch_stream({"from": "stream"}) + torch_zip({"from": "zip"})
    assert read(both).root == {"from": "stream"}
    tensors = safetensors({"w": ("U8", (len(torch_zip({})),), torch_zip({}))})
    assert read(tensors).container.format == "safetensors"


@pytest.mark.parametrize("head", [b"NX", b"(T", b"XX", b"\x80\x02", b"<!"])
def test_a_zip_that_torch_would_read_as_a_pickle_is_not_opened(head: bytes) -> None:
    """`NX` makes the zip's own header the length of a text; behind that text torch.load would find more opcodes."""
    with pytest.raises(GsvError, match=r"begins with the bytes|bare pickle"):
        read(torch_zip({"w": tensor("float32", (2,))}, head=head))


def test_every_prefix_of_a_signature_is_survived() -> None:
    for data in (torch_zip({}), torch_stream({}), safetensors({"w": ("U8", (1,), b"1")}), tar(), npz()):
        for size in range(1, 40):
            with pytest.raises(GsvError):
                read(data[:size])
