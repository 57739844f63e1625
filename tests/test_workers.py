"""Many files: the same results one by one, in processes, and on any executor, also where a process dies."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from builders import tensor, torch_zip

from gsvckpt import workers
from gsvckpt.progress import Silent
from gsvckpt.verdicts import Expected, Options
from gsvckpt.verification import verify_file
from gsvckpt.workers import run_on, verify_files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Expected]:
    for number in range(12):
        data = torch_zip({"dec.w": tensor("float32", (3,), [number, 1.0, 2.0])})
        (tmp_path / f"{number}.pth").write_bytes(data if number % 4 else data[:-9])
    return {str(path): Expected() for path in sorted(tmp_path.iterdir())} | {str(tmp_path / "none.pth"): Expected()}


def test_processes_give_the_same_results(files: dict[str, Expected], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = verify_files(files, Options(), 1, Silent())
    monkeypatch.setattr(workers, "_START", 0)
    started: list[int] = []
    inner = workers._in_processes

    def in_processes(*arguments: object):
        started.append(1)
        return inner(*arguments)

    monkeypatch.setattr(workers, "_in_processes", in_processes)
    assert verify_files(files, Options(), 2, Silent()) == alone
    assert started
    assert [result.path for result in alone] == list(files)


def test_few_files_need_no_processes(files: dict[str, Expected], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_in_processes", None)
    assert len(verify_files(files, Options(), 4, Silent())) == len(files)


def test_any_executor(files: dict[str, Expected]) -> None:
    done: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        results = run_on(pool, files, Options(), done.append)
    assert results == [verify_file(path, Options()) for path in files]
    assert sorted(done) == sorted(files)


def test_a_process_that_dies_costs_nothing(files: dict[str, Expected]) -> None:
    class Dying:
        """Its second job takes the process along, and the third finds it gone."""

        count = 0

        def submit(self, work, *arguments):
            self.count += 1
            if self.count > 2:
                raise BrokenProcessPool("gone")
            future: Future = Future()
            if self.count == 2:
                future.set_exception(BrokenProcessPool("killed"))
            else:
                future.set_result(work(*arguments))
            return future

    results = run_on(Dying(), files, Options(), lambda _: None)
    assert [result.path for result in results] == list(files)
    assert results == [verify_file(path, Options()) for path in files]


def test_a_real_process_that_dies(files: dict[str, Expected]) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 9).result()
        results = run_on(pool, files, Options(), lambda _: None)
    assert [result.path for result in results] == list(files)
