"""What torch's zip reader asks of a file beyond its bytes: without it torch.load refuses a checkpoint in which nothing is damaged.

Measured with torch 2.13, and read in caffe2/serialize/inline_container.cc (`init`, `getAllRecords`) and torch/serialization.py (`_load`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

LONGEST_NAME = 511  # bytes of a record's name that torch compares (MZ_ZIP_MAX_ARCHIVE_FILENAME_SIZE)
VERSIONS = range(1, 11)  # kMinSupportedFileFormatVersion and kMaxSupportedFileFormatVersion
LITTLE, BIG = "little", "big"  # what the record `byteorder` may say
_NO_FOLDER = " (torch: file in archive is not in a subdirectory)"  # torch's own words, for those who search for them
_NO_VERSION = ' (torch: Expected hasRecord("version") to be true, but got false)'
_USUAL = b"3\n"  # the version that torch.save writes
_NUMBER = rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)"  # as C's strtoull takes it, whatever follows
_INT = rb"\s*[+-]?[0-9]+(?:_[0-9]+)*\s*"  # as Python's int takes it


def find_folder(first: str) -> str | None:
    """The folder in which torch looks for everything: that of the first entry in the zip's directory, with its slash. None where it has none."""
    folder, slash, _ = first.partition("/")
    return folder + slash if slash else None


def find_refusal(first: str, prefix: str, names: Iterable[str], read_text: Callable[[str], bytes | None]) -> str:
    """Why torch.load refuses a zip, as a sentence about it; empty where it does not.

    `first` is the first entry of the directory, `prefix` the folder in which data.pkl was found, `read_text` gives the beginning of a record in that
    folder, or None where there is no such record.
    """
    folder = find_folder(first)
    if not prefix or folder is None:
        return f"its records are in no folder{_NO_FOLDER}" if not prefix else f"{first[:60]} is outside the folder {prefix}{_NO_FOLDER}"
    if prefix != folder:
        deep = prefix.startswith(folder)
        return (
            f"its records are one folder too deep, in {prefix}{_NO_VERSION}" if deep else f"{first[:60]} is outside the folder {prefix}{_NO_VERSION}"
        )
    if len(folder.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        return f"the name of its folder has more than {LONGEST_NAME} bytes"
    refusal = _version(read_text)
    if refusal:
        return refusal
    outside = next((name for name in names if not name.startswith(folder)), None)
    if outside is not None:
        return f"{outside[:60]} is outside the folder {folder[:60]}{_NO_FOLDER}"
    return _byte_order(read_text("byteorder")) or _alignment(read_text(".storage_alignment"))


def refuse_texts(count: int) -> str:
    """Why torch.load refuses a pickle with so many byte strings of Python 2 that are no UTF-8, as it reads them as such; empty for none."""
    texts = "1 text" if count == 1 else f"{count:,} texts"
    return (
        f"it holds {texts} of Python 2 that are no UTF-8, read here as Latin-1 (torch: UnicodeDecodeError, unless encoding='latin1' is given)"
        if count
        else ""
    )


def _version(read_text: Callable[[str], bytes | None]) -> str:
    text = read_text(".data/version")
    text = text if text is not None else read_text("version")
    if text is None:
        return f"it has no record `version`{_NO_VERSION}"
    if text == _USUAL:  # compiling an expression takes a hundredth of the start
        return ""
    match = re.match(_NUMBER, text)
    value = int(match[2]) if match is not None else -1
    if value >= 1 << 64:
        value = -1
    elif match is not None and match[1] == b"-":
        value = -value % (1 << 64)
    if value in VERSIONS:
        return ""
    said = " (torch: Attempted to read a PyTorch file with version)" if 0 <= value < 1 << 64 else ""
    return f"it states format version {text[:20].decode('latin-1').strip()!r}, where torch reads {VERSIONS.start} to {VERSIONS.stop - 1}{said}"


def _byte_order(text: bytes | None) -> str:
    told = text.decode("latin-1") if text is not None else LITTLE
    return (
        "" if told in (LITTLE, BIG) else f"it states the byte order {told[:20]!r}, which is neither little nor big (torch: Unknown endianness type)"
    )


def _alignment(text: bytes | None) -> str:
    return (
        ""
        if text is None or text.isdigit() or re.fullmatch(_INT, text)
        else f"it states the alignment {text[:20].decode('latin-1')!r}, which is no number"
    )
