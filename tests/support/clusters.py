"""A real Dask cluster on loopback: a scheduler, and workers that are single processes, so that a kill is one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from cli.samples import environment

PATIENCE = 60  # seconds for a process to start


class Cluster:
    """Started empty; `close` ends all that was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        self._file = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self._file)
        end = time.monotonic() + PATIENCE
        while not self._file.exists() or not self._file.read_text().rstrip().endswith("}"):
            assert time.monotonic() < end, "the scheduler does not start"
            time.sleep(0.05)
        self.address = json.loads(self._file.read_text())["address"]

    def add_worker(self, preload: str = "") -> subprocess.Popen:
        """A worker with one thread, in which the Python text `preload` runs first."""
        number = len(self.processes)
        options: list[object] = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--scheduler-file", self._file, "--host", "127.0.0.1"]
        if preload:
            script = self.folder / f"preload{number}.py"
            script.write_text(preload)
            options += ["--preload", script]
        return self._start("worker", *options, "--name", f"w{number}", "--local-directory", self.folder / f"scratch{number}")

    def wait(self, workers: int) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=PATIENCE)

    def count_tasks(self) -> int:
        """The tasks that the scheduler knows."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))  # by value: the scheduler has no tests

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def _start(self, kind: str, *options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", kind, "--no-dashboard", *map(str, options)]
        with open(self.folder / f"{kind}{len(self.processes)}.log", "wb") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=self.folder))
        return self.processes[-1]
