"""The heads of torch's zip: which bytes there are, and that each has its meaning."""

from __future__ import annotations

import pytest

from gsvckpt.formats.heads import HEADS, PLAIN, begins_as_zip, goes_on_as_zip
from gsvckpt.sovits import upstream, versions


@pytest.mark.parametrize("head", HEADS)
def test_a_zip_may_begin_with_each_head(head: str) -> None:
    assert begins_as_zip(f"{head}\3\4".encode())
    assert not begins_as_zip(f"{head}\7\x08".encode())


@pytest.mark.parametrize(("head", "begins"), [(b"PK\5\6", True), (b"05\5\6", False), (b"99\3\4", True), (b"NX\3\4", False), (b"0x\3\4", False)])
def test_other_heads(head: bytes, begins: bool) -> None:
    assert begins_as_zip(head) == begins
    assert goes_on_as_zip(head) == (head[2:] == b"\3\4")


def test_what_each_head_means_is_said() -> None:
    """The bytes and their meaning stand in two rooms that do not know each other."""
    assert (PLAIN, *versions.HEADS) == HEADS


def test_what_upstream_writes_it_reads() -> None:
    for head, meant in versions.HEADS.items():
        if meant.written:
            assert meant.upstream is not None
            _, model, lora = meant.upstream
            assert (model, upstream.head_for(model, lora)) == (meant.version, head)
