"""Many files through verify: the same results one by one, in processes, and on any executor, also where a process dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.builders import tensor, torch_zip

from gsvckpt.commands.verify.batch import Candidate, Verify, verify_files
from gsvckpt.commands.verify.file import verify_file
from gsvckpt.commands.verify.result import Expected, Options
from gsvckpt.engine.pool import run as dispatch
from gsvckpt.engine.pool.processes import Workers, count_processes, run_on
from gsvckpt.files.progress import Share, Silent


class Counting(Silent):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.expected = self.advanced = self.files = self.ended = 0

    def expect(self, count: int) -> None:
        self.expected += count

    def advance(self, count: int) -> None:
        self.advanced += count

    def expect_files(self, count: int) -> None:
        self.files += count

    def end_file(self) -> None:
        self.ended += 1


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Expected]:
    for number in range(12):
        data = torch_zip({"dec.w": tensor("float32", (3,), [number, 1.0, 2.0])})
        (tmp_path / f"{number}.pth").write_bytes(data if number % 4 else data[:-9])
    return {str(path): Expected() for path in sorted(tmp_path.iterdir())} | {str(tmp_path / "none.pth"): Expected()}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Processes are started for any number of files that is large enough; the list tells how often."""
    monkeypatch.setattr(dispatch, "START", 0)
    started: list[int] = []
    inner = dispatch.run_in_processes

    def in_processes(*arguments: object):
        started.append(1)
        return inner(*arguments)

    monkeypatch.setattr(dispatch, "run_in_processes", in_processes)
    return started


def test_processes_give_the_same_results(files: dict[str, Expected], eager: list[int]) -> None:
    alone = verify_files(files, Options(), 1, Silent())
    assert not eager
    assert verify_files(files, Options(), 2, Silent()) == alone
    assert eager
    assert [result.path for result in alone] == list(files)


def test_few_files_need_no_processes(files: dict[str, Expected], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "run_in_processes", None)
    assert len(verify_files(files, Options(), 4, Silent())) == len(files)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("quick", [False, True])
def test_progress_counts_files_and_their_bytes(files: dict[str, Expected], eager: list[int], jobs: int, quick: bool) -> None:
    told = Counting()
    verify_files(files, Options(quick=quick), jobs, told)
    total = 0 if quick else sum(os.path.getsize(path) for path in files if os.path.exists(path))
    assert (told.files, told.ended, told.expected, told.advanced) == (len(files), len(files), total, total)


def test_a_share_never_goes_back_nor_beyond_its_size() -> None:
    told = Counting()
    share = Share(told, 1000)
    share.advance(0)
    share.expect(10)
    share.advance(5)
    assert told.advanced == 500
    share.expect(90)  # another pass
    share.advance(1)
    assert told.advanced == 500
    share.advance(94)
    assert told.advanced == 1000
    share.advance(50)
    share.end_file()
    assert (told.advanced, told.ended) == (1000, 1)


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_no_more_processes_than_the_system_has_pools_for(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Python's own pool refuses more than 61 on Windows."""
    monkeypatch.setattr("sys.platform", system)
    ProcessPoolExecutor(count_processes(1_000, 200)).shutdown()
    assert [count_processes(1_000, 8), count_processes(3, 8)] == [8, 3]


def run(executor: object, files: dict[str, Expected], chunk: int = 1, window: int = 64) -> tuple[list[object], Counting]:
    told = Counting()
    items = [Candidate(path) for path in files]
    return list(run_on(Workers(executor, window), Verify(Options()), items, [Share(told, 1) for _ in items], chunk=chunk)), told


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_any_executor(files: dict[str, Expected], chunk: int, window: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        results, told = run(pool, files, chunk=chunk, window=window)
    assert results == [verify_file(path, Options()) for path in files]
    assert told.ended == len(files)


def test_no_more_than_a_window_is_with_the_executor(files: dict[str, Expected]) -> None:
    class Slow:
        """Does a task only when its result is asked for."""

        under_way = most = 0

        def submit(self, work: Callable[..., object], *arguments: object) -> Future:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            future: Future = Future()
            ask = future.result

            def result() -> object:
                self.under_way -= 1
                future.set_result(work(*arguments))
                return ask()

            future.result = result
            return future

    executor = Slow()
    results, _ = run(executor, files, chunk=2, window=3)
    assert [result.path for result in results] == list(files)
    assert executor.most == 3


def test_whoever_stops_listening_cancels_the_rest(files: dict[str, Expected]) -> None:
    class Idle:
        """Does nothing but the first task."""

        def __init__(self) -> None:
            self.futures: list[Future] = []

        def submit(self, work: Callable[..., object], *arguments: object) -> Future:
            future: Future = Future()
            if not self.futures:
                future.set_result(work(*arguments))
            self.futures.append(future)
            return future

    executor = Idle()
    results = run_on(Workers(executor, window=4), Verify(Options()), [Candidate(path) for path in files], [Share(Silent(), 0) for _ in files])
    assert next(results).path == next(iter(files))
    results.close()
    assert [future.cancelled() for future in executor.futures] == [False, True, True, True]


def test_a_process_that_dies_costs_nothing(files: dict[str, Expected]) -> None:
    class Dying:
        """Its second job takes the process along, and the third finds it gone."""

        count = 0

        def submit(self, work: Callable[..., object], *arguments: object) -> Future:
            self.count += 1
            if self.count > 2:
                raise BrokenProcessPool("gone")
            future: Future = Future()
            if self.count == 2:
                future.set_exception(BrokenProcessPool("killed"))
            else:
                future.set_result(work(*arguments))
            return future

    results, told = run(Dying(), files)
    assert results == [verify_file(path, Options()) for path in files]
    assert told.ended == len(files)


def test_a_real_process_that_dies(files: dict[str, Expected]) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 9).result()
        results, _ = run(pool, files)
    assert [result.path for result in results] == list(files)


def test_an_error_of_the_program_itself_is_not_hidden(files: dict[str, Expected]) -> None:
    class Wrong:
        def submit(self, *_: object) -> Future:
            future: Future = Future()
            future.set_exception(KeyError("a mistake"))
            return future

    with pytest.raises(KeyError, match="a mistake"):
        run(Wrong(), files)
