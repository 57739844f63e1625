"""Recognise a file by its bytes, never by its name, and name what it is if it is not a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

from gsvckpt.errors import FLAWS, DamagedError, NotCheckpointError, UnsupportedError
from gsvckpt.files.local import read_bytes
from gsvckpt.formats import ambiguity, heads, safetensors, torch_stream, torch_tar, torch_zip
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.safety import judge_all
from gsvckpt.formats.pickle.state import EndOfPickle
from gsvckpt.formats.torch_objects import storage_of
from gsvckpt.formats.zip import directory
from gsvckpt.formats.zip.directory import Tail
from gsvckpt.hints import TRY_SALVAGE, Hint
from gsvckpt.model import MISSING, Checkpoint, Container, Global, Source, Storage

_GLIMPSE = 1 << 16  # bytes that tell nearly always that it is no pickle
_PEEK = 1 << 24  # far more than any pickle that torch writes for GPT-SoVITS
_PEEK_OPCODES = 500_000  # four times a large training file's; these bytes may be anything
HEAD = 8_192  # what GPT-SoVITS itself hashes; enough to recognise anything

_ZIP = b"PK\x03\x04"
_FURTHEST = 1 << 28  # bytes from the end in which the end of a zip is looked for, once it is not where it should be
_AGAIN = "download it again; the file came incomplete or is a web page"
_CHOOSE = "choose a .pth, .ckpt or .safetensors file"
# (signature, at, what it is, what to do)
_OTHERS: tuple[tuple[bytes, int, str, Hint | str], ...] = (
    (b"version https://git-lfs", 0, "a Git LFS pointer, which only names the file", Hint("fetches the real one", "git lfs pull")),
    (b"GGUF", 0, "a GGUF model", ""),
    (b"\x89HDF\r\n", 0, "an HDF5 file (Keras)", ""),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", 0, "a RAR archive", "unpack it first"),
    (b"\x1f\x8b", 0, "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", 0, "an xz archive", "unpack it first"),
    (b"\x93NUMPY", 0, "a NumPy array", ""),
    (b"WAVE", 8, "a sound file (WAV)", _CHOOSE),
    (b"WEBP", 8, "a picture (WebP)", _CHOOSE),
    (b"RIFF", 0, "a sound file, picture or film (RIFF)", _CHOOSE),
    (b"fLaC", 0, "a sound file (FLAC)", _CHOOSE),
    (b"OggS", 0, "a sound file (Ogg)", _CHOOSE),
    (b"ID3", 0, "a sound file (MP3)", _CHOOSE),
    (b"\xff\xfb", 0, "a sound file (MP3)", _CHOOSE),
    (b"ftyp", 4, "a film, sound or picture (MP4)", _CHOOSE),
    (b"\x1aE\xdf\xa3", 0, "a film (Matroska, WebM)", _CHOOSE),
    (b"\x89PNG\r\n\x1a\n", 0, "a picture (PNG)", _CHOOSE),
    (b"\xff\xd8\xff", 0, "a picture (JPEG)", _CHOOSE),
    (b"GIF8", 0, "a picture (GIF)", _CHOOSE),
    (b"SQLite format 3\0", 0, "an SQLite database", _CHOOSE),
    (b"%PDF", 0, "a PDF document", _CHOOSE),
    (b"\x7fELF", 0, "a program", ""),
    (b"MZ", 0, "a Windows program", "do not run it"),
)
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # `._NAME`: what macOS keeps of a file NAME where the file system has no place for it
_ONNX = (b"\x08\x03", b"\x08\x04", b"\x08\x05", b"\x08\x06", b"\x08\x07", b"\x08\x08", b"\x08\x09", b"\x08\x0a", b"\x08\x0b")  # ir_version


def read(source: Source, *, inflate: bool = False) -> Checkpoint:
    """Open any checkpoint; a zip with compressed records only where `inflate` asks for it. What other readers may find in it is looked at, too.

    Raises NotCheckpointError naming what the file is, DamagedError or UnsupportedError, with the names in its pickles in `known`.
    """
    try:
        return ambiguity.compare_readers(*_read(source, inflate=inflate))
    except FLAWS as error:
        error.known = ambiguity.name_unreadable(source, error)
        raise


def _read(source: Source, *, inflate: bool) -> tuple[Checkpoint, Tail | None]:
    """The checkpoint, and of a zip its end."""
    head = read_head(source)
    if not head:
        raise NotCheckpointError("the file is empty", hint="the disk was full or the download failed; get it again")
    if len(head) < 4 and _ZIP.startswith(head):
        raise DamagedError(
            f"the file ends after {len(head)} bytes, which may have been the first of a checkpoint",
            where="first bytes",
            hint="get it again",
            check="container.truncated",
        )
    if heads.begins_as_zip(head):
        tail = directory.find_tail(source)
        if tail is None:
            raise _overlong_zip(source) or _cut_zip(source, head)
        return torch_zip.read(source, tail, inflate=inflate), tail
    if torch_tar.is_tar(head):  # torch.load tries this before its own older format, so it comes before that here, too
        found = torch_tar.read(source)
        if found is None:
            raise NotCheckpointError("this is a tar archive, not a checkpoint", hint="unpack it first")
        return found, None
    if heads.goes_on_as_zip(head) and directory.has_tail(source):  # GPT-SoVITS puts PK over whatever the first two bytes are
        raise _two_at_once(source)
    machine, finished, doubtful = _run_as_pickle(source)
    names = _importable(machine)
    if doubtful and not torch_stream.looks_like(head):  # whose reader tells where it parts from others
        raise _two_at_once(source, machine)
    if safetensors.looks_like(head, source.size) and not names:  # with names it is a pickle in disguise: torch.load would run it
        return safetensors.read(source), None
    if torch_stream.looks_like(head):
        return torch_stream.read(source), None
    if (names and finished) or judge_all(names, machine.calls).verdict == "unsafe" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        said = "Invalid magic number; corrupt file?" if finished and not doubtful else ""
        bare = UnsupportedError("a bare pickle that torch.save did not write", hint="no tensors can be read from it; do not load it", torch=said)
        bare.known = Known(source.size, Container("pickle", records=1), names, machine.calls)
        raise bare
    raise _name(source, head)


def _two_at_once(source: Source, machine: Machine | None = None) -> DamagedError:
    """Damage, as a flipped bit in the first two bytes makes such a file, too."""
    error = DamagedError(
        f"begins with the bytes {read_head(source)[:4].hex(' ')}, which readers interpret differently",
        where="first bytes",
        hint="get the file again from where it came; do not load it",
        check="container.head",
    )
    found = (_importable(machine), machine.calls) if machine is not None else ((), ())
    error.known = Known(source.size, Container("pickle", records=1), *found)
    return error


def read_head(source: Source) -> bytes:
    """The first 8 KiB, or less of a smaller file."""
    return read_bytes(source, 0, min(HEAD, source.size))


def _cut_zip(source: Source, head: bytes) -> DamagedError:
    error = DamagedError(
        "the file ends early: the zip directory at its end is missing",
        where="zip directory",
        hint=TRY_SALVAGE,
        check="container.truncated",
        torch="failed finding central directory",
    )
    # The pickle is the first record, so its names are there even in a cut file; it ends itself, so its size need not be known.
    machine, *_ = _run_as_pickle(source, 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"))
    error.known = Known(source.size, Container("torch-zip", records=0, head=head[:2].decode("latin-1")), _importable(machine), machine.calls)
    return error


def _overlong_zip(source: Source) -> DamagedError | None:
    """A whole zip with so much behind it that nobody finds its end; None where there is none."""
    for begin in range(max(source.size - _PEEK, 0), max(source.size - _FURTHEST, 0) - _PEEK, -_PEEK):
        buffer = read_bytes(source, max(begin, 0), min(_PEEK + 22, source.size - max(begin, 0)))
        at = buffer.rfind(b"PK\x05\x06")
        if 0 <= at <= len(buffer) - 22:
            end = max(begin, 0) + at + 22 + int.from_bytes(buffer[at + 20 : at + 22], "little")
            return DamagedError(
                f"{source.size - end:,} bytes follow the end of the zip, too many for any reader to find it",
                where="end of file",
                hint=Hint("cuts them off; keep a copy", f"python -c \"import sys; open(sys.argv[1], 'r+b').truncate({end})\" <FILE>"),
                check="container.trailing",
            )
    return None


def _name(source: Source, head: bytes) -> DamagedError | NotCheckpointError:
    if head[:4] == APPLE_DOUBLE:
        why = "this is a metadata file of macOS (AppleDouble), not a checkpoint"
        return NotCheckpointError(why, hint="leave it: it belongs to the file of the same name without `._`", check="container.unsupported")
    for signature, at, what, hint in _OTHERS:
        if head[at : at + len(signature)] == signature:
            return NotCheckpointError(f"this is {what}, not a checkpoint", hint=hint)
    if not head.strip(b"\0"):
        return NotCheckpointError(
            "the file begins with nothing but zeros", hint="the download or copy was cut off after space was reserved; get it again"
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<script", b"<!--")):
        return NotCheckpointError("this is a web page, not a checkpoint", hint=_AGAIN)
    if (
        head[:2] in _ONNX
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a")
        and (b"pytorch" in head or b"onnx" in head.lower() or b"graph" in head)
    ):
        return NotCheckpointError(
            "this is an ONNX model, not a checkpoint", hint="onnxruntime opens it; gsvckpt reads .pth, .ckpt and .safetensors files"
        )
    if directory.has_tail(source):
        return DamagedError(
            f"ends as a zip but begins with the bytes {head[:4].hex(' ')}, which torch.load reads as something else",
            where="zip directory",
            hint="get the file again; do not load it",
            check="container.head",
        )
    if _is_text(head):
        first = head.lstrip().split(b"\n", 1)[0][:60].decode("utf-8", "replace")
        return NotCheckpointError(f"this is a text file, not a checkpoint; it begins {first!r}", hint=_AGAIN)
    return NotCheckpointError(
        f"no checkpoint format begins with the bytes {head[:8].hex(' ')}", hint="download it again, or verify where it came from"
    )


def _importable(machine: Machine) -> tuple[Global, ...]:
    """The names that Python could import: bytes that are no pickle hold newlines, too."""
    return tuple(name for name in machine.globals if all(part.isidentifier() for part in str(name).split(".")))


def _run_as_pickle(source: Source, offset: int = 0) -> tuple[Machine, bool, bool]:
    """The machine that ran a pickle at `offset`, of any protocol, also the textual ones without a signature; whether it came to its end; and whether
    others may read on: it goes on for longer than anybody looks, or is spelled so that readers part.

    torch.load would run a bare pickle, whatever else the file looks like.
    """
    finished = endless = False
    for window in (_GLIMPSE, _PEEK):
        buffer = read_bytes(source, offset, max(min(source.size - offset, window), 0))
        machine = Machine(buffer, reduce=lambda _name, _args: None, persist=_stand_in, max_opcodes=_PEEK_OPCODES)
        try:
            machine.run()
            finished = True
        except DamagedError as error:
            endless = isinstance(error, EndOfPickle) and len(buffer) == window
        except UnsupportedError as error:
            endless = error.check == "pickle.bomb"
        if not endless:  # what more bytes would not change
            break
    doubtful = endless or any(not doubt.agreed for doubt in machine.doubts)
    return machine, finished, doubtful


def _stand_in(pid: object) -> object:
    """A storage without a place, so that a tensor made of it is known for one; None for any other persistent id."""
    try:
        key, dtype, location, numel, _ = storage_of(pid)
    except DamagedError:
        return None
    return Storage(key, dtype, numel, location, Nowhere(), MISSING)


class Nowhere(NamedTuple):
    """A source without bytes."""

    path: str = ""
    size: int = 0

    def read_into(self, offset: int, _: memoryview) -> None:
        raise DamagedError(f"there is no byte {offset:,}")


def _is_text(head: bytes) -> bool:
    try:
        return head[:1024].decode("utf-8", "strict" if len(head) < 1024 else "ignore").isprintable() or not any(byte < 9 for byte in head[:1024])
    except UnicodeDecodeError:
        return False
