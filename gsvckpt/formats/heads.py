"""The heads of torch's zip, its first two bytes, one row each. GPT-SoVITS and its forks put two digits over `PK` (process_ckpt.py) and leave the
rest of the zip as it is. Which version a head means is said in sovits/versions.
"""

from __future__ import annotations

PLAIN = "PK"
HEADS = (PLAIN, "00", "01", "02", "03", "04", "05", "06", "07")


def begins_as_zip(head: bytes) -> bool:
    """`PK`, or any two digits: a version may come that is not in HEADS.

    Anything else torch.load runs as a pickle, whatever zip follows; digits end that at once.
    """
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or (goes_on_as_zip(head) and head[:2].isdigit())


def goes_on_as_zip(head: bytes) -> bool:
    """Whether a zip begins there, whatever its first two bytes are."""
    return head[2:4] == b"\x03\x04"
