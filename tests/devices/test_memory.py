"""Blocks for the memory that is left, and which errors say that none is."""

from __future__ import annotations

import pytest
import torch

from gsvckpt.devices import memory
from gsvckpt.devices.memory import fitting_block, free_memory, is_full, staging

GIB = 1 << 30


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_all_ways_of_saying_that_memory_is_used_up(text):
    assert is_full(RuntimeError(text))
    assert not is_full(ValueError(text))


def test_other_errors_are_not_about_memory():
    assert is_full(torch.cuda.OutOfMemoryError())
    assert not is_full(RuntimeError("CUDA error: device-side assert triggered"))


def test_blocks_are_as_large_as_asked_where_there_is_room_or_nobody_knows():
    for free in (None, 80 * GIB):
        assert fitting_block(free, 16, largest=1 << 20, smallest=1 << 14) == 1 << 20


def test_blocks_of_all_lanes_take_at_most_a_quarter_of_what_is_left():
    for lanes in (1, 3, 16):
        for free in (GIB, 3 * GIB // 2, 8 * GIB):
            block = fitting_block(free, lanes, largest=1 << 20, smallest=1 << 14)
            assert block * 64 * lanes <= free / 4
            assert block == 1 << 20 or block * 2 * 64 * lanes > free / 4  # and no smaller than need be


def test_blocks_do_not_shrink_to_nothing():
    assert fitting_block(0, 4, largest=1 << 20, smallest=1 << 14) == 1 << 14


def test_the_host_does_not_tell_what_it_has_left():
    assert free_memory(torch.device("cpu")) is None


def test_staging_without_page_locks_is_plain_memory(monkeypatch):
    """A container may forbid them; the fake stands for CUDA's refusal, as there is no such limit to set here."""
    real = torch.empty

    def empty(*size, pin_memory=False, **rest):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*size, **rest)

    monkeypatch.setattr(memory.torch, "empty", empty)
    assert staging(4096, torch.device("cuda")).numel() == 4096
