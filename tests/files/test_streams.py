"""Moving storages: every byte once, in order, checked; and one failure ends all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import pytest
from support.builders import Bytes

from gsvckpt.dtypes import DTYPES
from gsvckpt.errors import DamagedError
from gsvckpt.files import streams
from gsvckpt.files.progress import Silent
from gsvckpt.files.streams import Buffers, Stopped, chunks, for_each, read_chunks
from gsvckpt.model import Storage


class Counter:
    """Progress that adds up."""

    def __init__(self) -> None:
        self.expected = self.done = 0
        self._lock = threading.Lock()

    def expect(self, count: int) -> None:
        self.expected += count

    def advance(self, count: int) -> None:
        with self._lock:
            self.done += count


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(streams, "CHUNK", 16)
    monkeypatch.setattr(streams, "BATCH", 40)
    return


def storage(data: bytes, crc: int | None = None, key: str = "0") -> Storage:
    return Storage(key, DTYPES["uint8"], len(data), "cpu", Bytes(data), 0, crc)


def buffers() -> Buffers:
    return Buffers(threading.Event(), Silent())


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 48, 100])
def test_chunks_are_the_whole_storage_in_order(size: int) -> None:
    data = bytes(range(size))
    pieces = [(offset, bytes(chunk)) for offset, chunk in chunks(storage(data, crc32(data)), buffers())]
    assert b"".join(piece for _, piece in pieces) == data
    assert [offset for offset, _ in pieces] == list(range(0, size, 16))


@pytest.mark.parametrize(("begin", "end"), [(0, None), (0, 0), (5, 37), (3, 100), (100, None)])
@pytest.mark.parametrize("own", [True, False])
def test_a_file_is_read_chunk_by_chunk(begin: int, end: int | None, own: bool) -> None:
    data = bytes(range(100))
    step = 16 if own else 7
    pieces = [(at, bytes(chunk)) for at, chunk in read_chunks(Bytes(data), begin, end, memory=None if own else memoryview(bytearray(step)))]
    assert b"".join(piece for _, piece in pieces) == data[begin:end]
    assert [at for at, _ in pieces] == list(range(begin, 100 if end is None else end, step))


def test_wrong_checksums_are_told_after_the_last_chunk() -> None:
    stream = chunks(storage(b"x" * 20, 5), buffers())
    next(stream)
    next(stream)
    with pytest.raises(DamagedError, match="their record states 00000005") as caught:
        next(stream)
    assert (caught.value.where, caught.value.path) == ("storage 0", Bytes.path)


def test_a_worker_stops_between_chunks() -> None:
    mine = buffers()
    stream = chunks(storage(bytes(100)), mine)
    next(stream)
    mine.stop.set()
    with pytest.raises(Stopped):
        next(stream)


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_by_storage(jobs: int) -> None:
    many = [storage(bytes([n]) * n, key=str(n)) for n in range(50)]
    progress = Counter()

    def work(one: Storage, mine: Buffers) -> int:
        return sum(len(chunk) for _, chunk in chunks(one, mine))

    results = for_each(many, work, jobs=jobs, progress=progress)
    assert list(results) == many
    assert list(results.values()) == list(range(50))
    assert progress.done == sum(range(50))


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("error", [DamagedError("bad"), KeyboardInterrupt()])
def test_one_failure_ends_all(jobs: int, error: BaseException) -> None:
    many = [storage(bytes(100), key=str(n)) for n in range(40)]
    done: list[str] = []

    def work(one: Storage, mine: Buffers) -> None:
        if one.key == "3":
            raise error
        for _ in chunks(one, mine):
            pass
        done.append(one.key)

    before = threading.active_count()
    with pytest.raises(type(error)):
        for_each(many, work, jobs=jobs, progress=Silent())
    assert threading.active_count() == before
    assert "3" not in done
    assert len(done) < 40


def test_a_late_failure_does_not_wait_for_earlier_pieces() -> None:
    def work(one: Storage, mine: Buffers) -> None:
        if one.key == "1":
            raise DamagedError("bad")
        assert mine.stop.wait(30), "was never told to stop"
        raise Stopped

    with pytest.raises(DamagedError, match="bad"):
        for_each([storage(bytes(100), key=str(n)) for n in range(2)], work, jobs=2, progress=Silent())


def test_ctrl_c_while_work_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers that have begun are told to stop; nobody waits for all the work to be done."""
    real = ThreadPoolExecutor.submit
    calls = iter(range(10))

    def submit(self: ThreadPoolExecutor, *work: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *work)

    def work(one: Storage, mine: Buffers) -> None:
        assert mine.stop.wait(30), "was never told to stop"

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for_each([storage(bytes(100), key=str(n)) for n in range(5)], work, jobs=2, progress=Silent())
    assert time.monotonic() - started < 20


def test_workers_reuse_their_buffers() -> None:
    seen: set[int] = set()

    def work(one: Storage, mine: Buffers) -> None:
        seen.add(id(mine.raw.obj))

    for_each([storage(bytes(100), key=str(n)) for n in range(60)], work, jobs=2, progress=Silent())
    assert len(seen) <= 2


def test_both_checksum_libraries_agree() -> None:
    data = bytes(range(256)) * 41
    assert streams.crc32(data) == crc32(data)
    assert streams.crc32(data[100:], streams.crc32(data[:100])) == crc32(data)
