"""One ordered pass: checksums and digests as the libraries compute them over the same bytes, however chunks and spans lie."""

from __future__ import annotations

import random
import struct
from zlib import crc32

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Bytes

from gsvckpt.devices.choice import choose
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine import single_pass as module
from gsvckpt.engine.single_pass import SweepSpan, sweep
from gsvckpt.errors import DamagedError
from gsvckpt.files.progress import Silent

FLOAT = DTYPES["float32"]


def run(source, spans, *, entire_file=True, jobs=2):
    return sweep(source, spans, choose("cpu"), entire_file=entire_file, jobs=jobs, progress=Silent())


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_checksums_digests_and_the_file(jobs: int) -> None:
    data = random.Random(1).randbytes(9_000_001)
    spans = [
        SweepSpan(3, 5_000_000, crc=True, digest=True),
        SweepSpan(5_000_010, 7, crc=True, digest=True),
        SweepSpan(5_000_017, 3_999_984, crc=True, digest=True),
    ]
    found = run(Bytes(data), spans, jobs=jobs)
    for span in spans:
        part = data[span.offset : span.offset + span.size]
        assert found.crcs[span] == crc32(part)
        assert found.digests[span] == xxhash.xxh3_128_digest(part)
    assert found.file == xxhash.xxh3_128_hexdigest(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_spans_in_any_chunks(data: st.DataObject) -> None:
    raw = random.Random(data.draw(st.integers(0, 99))).randbytes(data.draw(st.integers(0, 3000)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    spans = list(dict.fromkeys(SweepSpan(a, b - a, crc=True, digest=True) for a, b in zip(cuts[::2], cuts[1::2], strict=False)))
    chunk = module.CHUNK
    module.CHUNK = data.draw(st.integers(17, 400))  # a real one holds more than all of this
    try:
        found = run(Bytes(raw), spans, entire_file=data.draw(st.booleans()))
    finally:
        module.CHUNK = chunk
    for span in spans:
        part = raw[span.offset : span.offset + span.size]
        assert (found.crcs[span], found.digests[span]) == (crc32(part), xxhash.xxh3_128_digest(part))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 5, 13])
def test_values_are_never_cut_in_two(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    """A span may begin at any byte, as in the old format, so the chunks of a whole file must not end inside its values."""
    monkeypatch.setattr(module, "CHUNK", 64)
    values = [float(n) for n in range(1, 200)]
    values[77] = float("nan")
    data = bytes(offset) + struct.pack(f"<{len(values)}f", *values) + b"tail"
    span = SweepSpan(offset, 4 * len(values), dtype=FLOAT)
    numbers = run(Bytes(data), [span]).extremes[span]
    assert (numbers.count, numbers.nan, numbers.infinite, numbers.largest) == (199, 1, 0, 199.0)


def test_without_the_whole_only_spans_are_read() -> None:
    source = Bytes(bytes(10_000_000))
    span = SweepSpan(5_000_000, 100, crc=True)
    assert run(source, [span], entire_file=False).crcs[span] == crc32(bytes(100))
    assert sum(count for _, count in source.reads) == 100


def test_every_byte_is_read_once() -> None:
    source = Bytes(random.Random(2).randbytes(7_000_000))
    run(source, [SweepSpan(64, 6_000_000, crc=True, digest=True, dtype=FLOAT)])
    assert sum(count for _, count in source.reads) == source.size


def test_an_empty_span_and_an_empty_file() -> None:
    span = SweepSpan(0, 0, crc=True, digest=True)
    found = run(Bytes(b""), [span])
    assert (found.crcs[span], found.digests[span]) == (0, xxhash.xxh3_128_digest(b""))
    assert found.file == xxhash.xxh3_128_hexdigest(b"")


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_ends_all_lanes(jobs: int) -> None:
    class Failing(Bytes):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset > 5_000_000:
                raise DamagedError("cannot be read")
            super().read_into(offset, buffer)

    with pytest.raises(DamagedError, match="cannot be read"):
        run(Failing(bytes(20_000_000)), [SweepSpan(0, 20_000_000, crc=True)], jobs=jobs)


@pytest.mark.parametrize("entire_file", [False, True])
@pytest.mark.parametrize("size", [1, 5, 16])
def test_a_span_that_the_file_does_not_hold(size: int, entire_file: bool) -> None:
    """Where the last chunk would end inside a value, the next one would begin where it began, for ever."""
    with pytest.raises(DamagedError, match="the file ends at byte 100"):
        run(Bytes(bytes(100)), [SweepSpan(96, 4 + size, crc=True)], entire_file=entire_file)
