"""What GPT-SoVITS itself detects in an S2 file (process_ckpt.py:100-126), and the consequences. It can be wrong: see kinds."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gsvckpt.sovits.kinds import Identity, Kind
from gsvckpt.sovits.official import OFFICIAL, digest_header
from gsvckpt.sovits.versions import HEADS

HEADER_SIZE = 8192  # bytes whose MD5 upstream looks up: names and layout, no weights
V2_MIN_SIZE = 82_978 * 1024  # a PK file below it is v1
V3_MIN_SIZE = 700 * 1024 * 1024  # a PK file from here on is v3
V1_BASE_MIN_SIZE, V2_BASE_MIN_SIZE = 100 * 1024 * 1024, 103_520 * 1024  # where 3-get-semantic.py tells bases apart
NO_LIMIT = 1 << 63
BEYOND = 16 * 1024  # bytes behind a size line at which a padded file ends; files that upstream writes end 28 KiB behind it
MAX_PADDING = 1 << 22  # a file that misses its size window by more has lost tensors, and padding would only hide that

# What upstream answers for official files by their header. s2G488k is v1; upstream lists it as v2 and corrects that from its tensors later.
_ANSWERS = {
    "s2G488k.pth": ("v2", "v2"),
    "s2G2333k.pth": ("v2", "v2"),
    "s2Gv3.pth": ("v2", "v3"),
    "s2Gv4.pth": ("v2", "v4"),
    "s2Gv2Pro.pth": ("v2", "v2Pro"),
    "s2Gv2ProPlus.pth": ("v2", "v2ProPlus"),
}
HASHES: dict[str, tuple[str, str]] = {file.md5_8k: _ANSWERS[file.basename] for file in OFFICIAL if file.md5_8k and file.basename in _ANSWERS}
_WRITTEN = {meant.upstream[1:]: head for head, meant in HEADS.items() if meant.written and meant.upstream}  # by model, and whether it is a LoRA
_BY_SYMBOLS = frozenset({"v1", "v2"})


class Detection(NamedTuple):
    """Upstream's answer: the version of the symbol table, of the model, whether it is a LoRA, and which rule said so."""

    symbols: str
    model: str
    lora: bool
    rule: Literal["hash", "head", "size"]


class UpstreamError(NamedTuple):
    """Upstream stops at this file; `error` is what users see."""

    error: str


def detect(first8k: bytes, size: int) -> Detection | UpstreamError:
    """What upstream says of a file with these first bytes and this size, before any tensor is read."""
    answer = HASHES.get(digest_header(first8k))
    if answer is not None:
        return Detection(*answer, False, "hash")
    head = first8k[:2]
    if head != b"PK":
        meant = HEADS.get(head.decode("latin-1"))
        return Detection(*meant.upstream, "head") if meant is not None and meant.upstream else UpstreamError(f"KeyError: {head!r}")
    if size < V2_MIN_SIZE:
        return Detection("v1", "v1", False, "size")
    return Detection("v2", "v2" if size < V3_MIN_SIZE else "v3", False, "size")


def applies(kind: Kind) -> bool:
    """Whether upstream runs its detection on files of this kind: the S2 files that its inference opens."""
    return kind in ("sovits-weights", "sovits-lora", "sovits-generator-base")


def correct(detected: Detection, symbol_rows: int | None) -> Detection:
    """What upstream's callers make of it, after a look at `enc_p.text_embedding.weight` (inference_webui.py:318-330, TTS.py:508-522).

    `symbol_rows` is None where a file has no such tensor. The language menus still follow what was detected.
    """
    symbols = "v1" if symbol_rows == 322 else "v2"
    return detected._replace(symbols=symbols, model=symbols if detected.model in _BY_SYMBOLS else detected.model)


def size_window(version: str | None, *, base: bool = False) -> tuple[int, int] | None:
    """[low, high) bytes that a PK file needs for upstream to say this version; None for versions that no PK file is taken for by its size.

    A base is also read by prepare_datasets/3-get-semantic.py:18-28, whose windows are narrower, and which stops at a v2 base taken for v1.
    """
    windows = {"v1": (0, V2_MIN_SIZE), "v2": (V2_MIN_SIZE, V3_MIN_SIZE), "v3": (V3_MIN_SIZE, NO_LIMIT)}
    if base:
        windows |= {"v1": (V1_BASE_MIN_SIZE, V2_BASE_MIN_SIZE), "v2": (V2_BASE_MIN_SIZE, V3_MIN_SIZE)}
    return windows.get(version or "")


def padded_size(version: str | None, size: int, *, base: bool = False) -> int | None:
    """The size up to which a PK file is to be padded, so that upstream says this version; None where nothing, or too much, is missing."""
    window = size_window(version, base=base)
    return padded_to(window[0], size) if window is not None else None


def padded_to(low: int, size: int) -> int | None:
    """The size that a file of `size` bytes is padded to where files from `low` on are of its version; None where nothing, or too much, is missing.

    Some way beyond the line, and also where a file is exactly as long: releases have compared with `<` and with `>` (process_ckpt.py).
    """
    return low + BEYOND if low and 0 <= low - size <= MAX_PADDING else None


def misread_base(version: str | None, size: int) -> str | None:
    """What goes wrong where a base of v1 or v2 has the size of the other in 3-get-semantic.py:18-28; None where nothing does.

    For later versions it builds the same quantizer whatever it takes them for.
    """
    if version not in ("v1", "v2"):
        return None
    is_v1 = size < V2_MIN_SIZE or V1_BASE_MIN_SIZE <= size < V2_BASE_MIN_SIZE
    said = "v1" if is_v1 else "v2" if size < V3_MIN_SIZE else "v3"
    if said == version:
        return None
    return f"3-get-semantic.py would mistake this {version} base for {said} by its size ({size:,} bytes), and training stops with a size mismatch"


def head_for(version: str | None, lora: bool, *, base: bool = False) -> str:
    """The head upstream writes. A base keeps PK whatever its version: the trainers open it with a plain torch.load (s2_train.py:238)."""
    return "PK" if base else _WRITTEN.get((version or "", lora), "PK")


def misread(version: str | None, lora: bool, detected: Detection | UpstreamError) -> bool:
    """Whether what upstream detected contradicts what the file is. An undetermined version (None) is v3 or v4."""
    if isinstance(detected, UpstreamError):
        return True
    wanted = ("v3", "v4") if version is None else (version,)
    return detected.model not in wanted or detected.lora != lora


def judge(version: str | None, lora: bool, before: Detection | UpstreamError | None, after: Detection | UpstreamError | None) -> str | None:
    """Why an output must not be published, or None when it may.

    Refused: an output that upstream misreads where it read the source rightly, or whose misreading gives wrong sound without an error (full v4 as
    v3, Pro as non-Pro, a LoRA as full weights). Not refused: a confusion of v1 and v2, which upstream corrects from the tensors, where the source had
    it too or nothing avoids it, as v1 in float32 is larger than any v1 that upstream knows.
    """
    if after is None:
        return None
    name = describe(version, lora)
    if isinstance(after, UpstreamError):
        return f"GPT-SoVITS could not open the output: {after.error}" if isinstance(before, Detection) else None
    if version is None and isinstance(before, Detection) and (before.model, before.lora) != (after.model, after.lora):
        return f"GPT-SoVITS reads the source as {_said(before)} and would read the output as {_said(after)}"
    if not misread(version, lora, after) or (version == "v1" and not lora and after == Detection("v2", "v2", False, "size")):
        return None
    silent = (
        (version == "v4" and not lora and after.model == "v3")
        or (version in ("v2Pro", "v2ProPlus") and "Pro" not in after.model)
        or (lora and not after.lora)
    )
    was_right = before is None or not misread(version, lora, before)
    return f"GPT-SoVITS would read this {name} file as {_said(after)}" if was_right or silent else None


def warnings(identity: Identity, detected: Detection | UpstreamError | None, rows: int | None) -> tuple[str, ...]:
    """In plain words, what goes wrong in GPT-SoVITS where its answer differs from what the tensors say; `rows` as in `correct`."""
    if detected is None or not applies(identity.kind):
        return ()
    version, lora, base = identity.version, identity.kind == "sovits-lora", identity.kind == "sovits-generator-base"
    found: list[str] = []
    if isinstance(detected, UpstreamError):
        return (f"GPT-SoVITS does not know this head and stops with a bare `{detected.error}`",)
    if detected.rule == "head" and (base or (not lora and version in ("v1", "v2", "v3"))):
        found.append("only today's inference reads this head; training, the exporters and most other projects need PK")
    if rows is not None and rows not in (322, 732):
        found.append(f"enc_p.text_embedding has {rows} rows, where GPT-SoVITS builds 322 or 732, so loading stops with a size mismatch")
    if (version or identity.versions == ("v3", "v4")) and misread(version, lora, detected):
        found.append(_consequence(version, lora, base, detected))
    return tuple(found)


def _consequence(version: str | None, lora: bool, base: bool, detected: Detection) -> str:
    said = f"GPT-SoVITS mistakes this {describe(version, lora)} file for {_said(detected)}"
    if version == "v2" and detected.model == "v1" and not lora:
        return f"{said} because it is smaller than 82,978 KiB: the menus lack Cantonese and Korean; the model itself is corrected from its tensors"
    if version == "v1" and detected.model == "v2" and not lora:
        return f"{said} by its {detected.rule}: the menus offer languages that it does not know; the model itself is corrected from its tensors"
    if version in ("v2Pro", "v2ProPlus") and "Pro" not in detected.model:
        if base:
            return f"{said}: training from it works, but inference with it stops with a tensor size error (512 against 1024)"
        return f"{said}: it loads without complaint, then inference stops with a tensor size error (512 against 1024)"
    if version == "v4" and detected.model == "v3" and lora == detected.lora:
        return f"{said}: it uses the wrong upsampling (1.875 instead of 2) and the 24 kHz vocoder of v3"
    if lora and not detected.lora:
        return f"{said}: it is loaded alone, without its base, and most of the model stays random, with no error"
    return f"{said} by its {detected.rule} and builds the wrong model for it"


def describe(version: str | None, lora: bool) -> str:
    """A version as people say it: `v4 LoRA`, `v3 or v4`."""
    return (version or "v3 or v4") + (" LoRA" if lora else "")


def _said(detected: Detection) -> str:
    return describe(detected.model, detected.lora)
