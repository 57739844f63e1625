"""Checks of the outer file: what it is, whether it is complete, and which error torch would give."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.commands.verify.checks.versions import rewrite_head
from gsvckpt.commands.verify.findings import Finding
from gsvckpt.engine.examine import Examination
from gsvckpt.errors import DamagedError, GsvError, in_torch
from gsvckpt.formats.torch_distributed import gather
from gsvckpt.formats.torch_salvage import Salvaged
from gsvckpt.formats.zip.directory import is_storage
from gsvckpt.hints import NO_HINT, TRY_SALVAGE, Hint
from gsvckpt.model import Checkpoint, Record, Source, Storage, Tensor, format_path, walk
from gsvckpt.sovits import upstream
from gsvckpt.sovits.upstream import Detection

_OPCODES = frozenset(b"(.0123456789BCEFGIJKLMNPQRSTUVXabcdeghijlopqrstu]})\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b")  # to protocol 2
_AGAIN = Hint("get the file again")
_SEEKS_TOO_FAR = (4_096, 70_000)  # bytes of a cut zip between which torch's reader asks the system for a place before the file
_LISTED = 20  # records named one by one
_BY_INFERENCE = ("sovits-weights", "sovits-lora")  # kinds that GPT-SoVITS opens whatever their head (process_ckpt.py:129-138)


def failure(error: GsvError, head: bytes, size: int, salvaged: Salvaged | None) -> list[Finding]:
    """Why a file could not be opened, in torch's words, too, and what of it is whole."""
    why = error.why.removesuffix(in_torch(error.torch))
    said = torch_says(head, size, cut=error.check == "container.truncated") or error.torch
    if said:
        why += f"; torch.load says `{said}`" + (")" if " (" in said else "")
    hint = error.hint if error.hint != TRY_SALVAGE else _AGAIN  # what is told below says whether anything is whole
    found = [Finding(error.check, "error", error.where, why, hint)]
    if salvaged is not None and salvaged.tensors:
        share = f"{salvaged.complete:,} of {salvaged.tensors:,}"
        hint = Hint("writes what is whole", "gsvckpt migrate <SOURCE> --salvage") if salvaged.complete else NO_HINT
        found.append(Finding(error.check, "info", "tensors", f"{share} tensors still have all their bytes", hint, share))
    return found


def torch_says(head: bytes, size: int, *, cut: bool) -> str:
    """What torch.load raises at such a file, as users search for it; empty if torch opens the file or the message cannot be predicted.

    Measured with torch 2.6 and 2.13. `head` are the file's first bytes, `cut` says that it is a zip without its end.
    """
    if not size:
        return "EOFError: Ran out of input"
    if size < 4 and b"PK\x03\x04".startswith(head):
        return "UnpicklingError: A load persistent id instruction was encountered"
    if head[:4] == b"PK\x03\x04" and cut:
        kind = "failed finding central directory" if size > 21 else "not a ZIP archive"
        also = "` (or `OSError: [Errno 22] Invalid argument" if _SEEKS_TOO_FAR[0] < size < _SEEKS_TOO_FAR[1] else ""
        return f"PytorchStreamReader failed reading zip archive: {kind}{also}"
    if head[:2].isdigit() and head[2:4] == b"\x03\x04":
        return f"UnpicklingError: unpickling stack underflow` (with weights_only: `Unsupported operand {head[0]}"
    if head.startswith(b"version https://git-lfs"):
        return "UnpicklingError: invalid load key, 'v'.` (with weights_only: `Unsupported operand 118"
    if len(head) >= 512 and not head[:512].strip(b"\0"):
        return "KeyError: \"filename 'storages' not found\""
    if head[:4] != b"PK\x03\x04" and head[0] not in _OPCODES:
        return f"UnpicklingError: invalid load key, {chr(head[0])!r}."
    return ""


def head(examination: Examination) -> list[Finding]:
    """Whether the programs that open such files accept the first two bytes."""
    container, kind = examination.checkpoint.container, examination.identity.kind
    if container.format != "torch-zip" or container.head == "PK":
        return []
    said = "torch.load alone says `unpickling stack underflow` (with weights_only: `Unsupported operand 48`)"
    if kind in _BY_INFERENCE:
        detected, identity = examination.upstream, examination.identity
        suits = isinstance(detected, Detection) and not upstream.misread(identity.version, examination.is_lora, detected)
        why = f"begins with {container.head} instead of PK{', as GPT-SoVITS marks this version' if suits else ''}; {said}"
        why += ", GPT-SoVITS opens it" if suits else ""
        return [Finding("container.head", "info", "first two bytes", why, found=container.head or "")]
    why = f"begins with {container.head} instead of PK, and no program that opens such files corrects that: {said}"
    hint = rewrite_head(examination.checkpoint.source.path, "PK")
    return [Finding("container.head", "error", "first two bytes", why, hint, container.head or "", "PK")]


def refused(checkpoint: Checkpoint) -> list[Finding]:
    """What torch's reader misses in a file whose tensors are all there, and a byte order that it turns round."""
    container = checkpoint.container
    if container.format == "torch-distributed":
        why = "is a distributed checkpoint: names, shapes and the sizes of its files were examined, its tensors were not"
        return [Finding("container.unsupported", "error", "folder", why, gather(checkpoint.source.path))]
    if container.refused:
        why = f"torch.load refuses the file although its tensors are there: {container.refused}"
        return [Finding("container.torch", "error", "file", why, Hint("writes a file that torch opens", "gsvckpt migrate <FILE>"))]
    if container.format == "torch-tar":
        why = "has the form of torch before 0.1.10, which torch.load opens only with weights_only=False"
        return [Finding("container.torch", "info", "file", why, Hint("writes today's form", "gsvckpt migrate <FILE>"), "torch-tar", "torch-zip")]
    if container.byteorder == "little":
        return []
    why = "its numbers are those of a big-endian machine; torch turns them round while it loads, and so does gsvckpt"
    hint = Hint("writes today's little-endian file", "gsvckpt migrate <FILE>")
    return [Finding("container.torch", "info", "byteorder", why, hint, container.byteorder, "little")]


def library(source: Source) -> list[Finding]:
    """Whether the safetensors package, with which other programs read such files, finds the same in it."""
    from gsvckpt.formats.safetensors import find_disagreement

    try:
        disagreement = find_disagreement(source)
    except DamagedError as error:
        disagreement = error.why
    return [Finding("container.library", "error", "header", disagreement, _AGAIN)] if disagreement else []


def stale(checkpoint: Checkpoint) -> list[Finding]:
    """A tree in a safetensors header that another program left there when it changed the tensors."""
    told = checkpoint.container.stale
    if not told:
        return []
    why = f"another program changed its tensors and left the old tree in its metadata ({told}); it is read as the dict of tensors that it is"
    return [
        Finding("container.header", "warning", "metadata", why, Hint("writes it without the old tree", "gsvckpt migrate <FILE> --to safetensors"))
    ]


def trailing(checkpoint: Checkpoint) -> list[Finding]:
    """Bytes that follow the end of what readers read."""
    count, container = checkpoint.container.trailing, checkpoint.container
    if not count or container.format != "torch-stream":  # behind a zip's pickle they are a doubt (see ambiguity)
        return []
    why = f"{count:,} bytes follow the last storage; torch.load ignores them"
    return [Finding("container.trailing", "warning", "end of file", why, Hint("harmless where a copy appended zeros; otherwise get the file again"))]


def checksums(root: object, crcs: Mapping[Record, int]) -> list[Finding]:
    """Records whose bytes do not have their checksum, with the tensors in them. torch itself never checks."""
    owners: dict[int, str] = {}
    for path, leaf in walk(root):
        if isinstance(leaf, (Tensor, Storage)):
            owners.setdefault((leaf.storage if isinstance(leaf, Tensor) else leaf).offset, format_path(path))
    wrong = [(record, crc) for record, crc in crcs.items() if record.crc != crc and not (record.crc == 0 and record.size)]
    unknown = [record for record, crc in crcs.items() if record.crc == 0 and crc]
    lost = {record for record, _ in wrong}
    is_left = root is not None and any(is_storage(record.name) and record not in lost for record in crcs)
    found = [
        Finding(
            "record.crc",
            "error",
            owners.get(record.offset, record.name),
            f"record {record.name} was altered on disk or in transfer"
            + (", which torch.load does not notice" if is_storage(record.name) else "; torch.load stops, or takes it for something else"),
            TRY_SALVAGE if is_left and is_storage(record.name) else _AGAIN,
            f"{crc:08x}",
            f"{record.crc:08x}",
        )
        for record, crc in wrong[:_LISTED]
    ]
    if len(wrong) > _LISTED:
        found.append(Finding("record.crc", "error", "records", f"and {len(wrong) - _LISTED:,} more altered records"))
    if unknown:
        why = f"{len(unknown):,} of {len(crcs):,} records state no checksum: torch wrote them with checksums switched off, so damage would not show"
        found.append(Finding("record.crc", "warning", unknown[0].name, why, Hint("keeps a digest of its own", "gsvckpt verify <FILE> --record"), "0"))
    return found


def unexamined(error: GsvError) -> Finding:
    """Why nothing is known of a file but its digests."""
    return Finding("container.unsupported", "error", error.where or "file", f"{error.why}, so it was not examined")
