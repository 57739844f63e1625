"""Names of damaged files that are kept beside the good copies that replaced them."""

from __future__ import annotations

import os
import re

from gsvckpt.sovits.names import resumes


def damaged_name(path: str, number: int = 1) -> str:
    """`G_16.pth.damaged`; but `damaged-epoch=1-step=12.ckpt`, as GPT-SoVITS would take a name that only begins like one of its own."""
    folder, name = os.path.split(path)
    again = "" if number == 1 else f"-{number}"
    plain = f"{name}.damaged{again}"
    return os.path.join(folder, f"damaged{again}-{name}" if resumes(plain) else plain)


def is_kept_aside(path: str) -> bool:
    """Whether a file is a damaged one that `restore` kept, by its name."""
    return re.fullmatch(r".+\.damaged(-[0-9]+)?|damaged(-[0-9]+)?-epoch=.+", os.path.basename(path)) is not None
