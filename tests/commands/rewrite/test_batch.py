"""Many files through the writing commands: the same outputs and results one by one and at once, names by order, and errors that travel."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli.samples import environment, evil, generator, leftovers, lora, s2_training, save, small
from support.builders import tensor, torch_zip

from gsvckpt.commands.rewrite import batch
from gsvckpt.commands.rewrite.batch import Rewrite, rewrite_files
from gsvckpt.commands.rewrite.convert_fp16 import ConvertFp16
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.result import Rewritten, as_json
from gsvckpt.commands.rewrite.strip_optimizer import StripOptimizer
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.pool import run as dispatch
from gsvckpt.errors import DamagedError, GsvError, MissingError, NotCheckpointError, RefusedError, UsageError
from gsvckpt.files.progress import Silent


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Training files, one of which is cut off, one is no checkpoint, and one would run code."""
    for number in range(9):
        save(tmp_path / "in" / f"run{number}.pth", s2_training(generator("v2", enc_q=True), epoch=number))
    cut = tmp_path / "in" / "run3.pth"
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "in" / "run5.pth").write_bytes(b"<html>")
    save(tmp_path / "in" / "run7.pth", evil())
    return [str(path) for path in sorted((tmp_path / "in").iterdir())] + [str(tmp_path / "in" / "nowhere.pth")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started however little there is to do."""
    monkeypatch.setattr(dispatch, "START", 0)
    monkeypatch.setattr(dispatch, "FEWEST", 1)


def plain(result: Rewritten | GsvError) -> dict[str, object]:
    return as_json(result) if isinstance(result, Rewritten) else failure_json(result)


def run(recipe: Recipe, destination: Destination, sources: Sequence[str], jobs: int) -> list[Rewritten | GsvError]:
    outputs = destination.assign(sources)
    return list(rewrite_files(Rewrite(recipe, destination), sources, outputs, jobs, Silent()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


RECIPES = {
    "halve": ConvertFp16(),
    "strip": StripOptimizer(),
    "migrate": Migrate(Steps(plain=True)),
    "to-safetensors": Migrate(Steps(to="safetensors")),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("at_once")
def test_at_once_gives_the_same_as_one_by_one(sources: list[str], tmp_path: Path, name: str) -> None:
    alone = run(RECIPES[name], Destination("x", f"{tmp_path}/one/"), sources, 1)
    together = run(RECIPES[name], Destination("x", f"{tmp_path}/one2"), sources, 3)
    assert json.dumps([plain(result) for result in together]).replace("/one2", "/one") == json.dumps([plain(result) for result in alone])
    assert contents(tmp_path / "one2") == contents(tmp_path / "one") != {}
    assert leftovers(tmp_path) == []
    assert {type(result) for result in alone} >= {Rewritten, DamagedError, NotCheckpointError, MissingError, RefusedError}


@pytest.mark.usefixtures("at_once")
def test_in_place_at_once(sources: list[str], tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    copies = [str(tmp_path / "again" / os.path.basename(source)) for source in sources]
    for source, copy in zip(sources[:-1], copies, strict=False):
        Path(copy).write_bytes(Path(source).read_bytes())
    alone = run(StripOptimizer(), Destination("weights", in_place=True), sources, 1)
    together = run(StripOptimizer(), Destination("weights", in_place=True), copies, 2)
    assert json.dumps([plain(result) for result in together]).replace("/again/", "/in/") == json.dumps([plain(result) for result in alone])
    assert contents(tmp_path / "again") == contents(tmp_path / "in")


@pytest.mark.usefixtures("at_once")
def test_a_folder_that_stays_empty_goes_again(tmp_path: Path, sources: list[str]) -> None:
    bad = [source for source in sources if source.endswith(("3.pth", "5.pth", "nowhere.pth"))]
    results = run(StripOptimizer(), Destination("weights", f"{tmp_path}/new/deep/"), bad, 2)
    assert [result.exit_code for result in results if isinstance(result, GsvError)] == [3, 3, 3]
    assert not (tmp_path / "new").exists()


# --- names ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def namesakes(tmp_path: Path) -> list[str]:
    """Two files that become `x.safetensors` where they go, among others; the first of them is much larger, so that it is done last."""
    big = {"w": tensor("uint8", (8 << 20,), bytes(8 << 20))}
    save(tmp_path / "a" / "x.pth", big)
    for number in range(6):
        save(tmp_path / "b" / f"{number}.pth", {"w": tensor("float32", (2,), [1, number])})
    save(tmp_path / "b" / "x.ckpt", {"w": tensor("float32", (2,), [1, 2])})
    return [str(path) for path in (tmp_path / "a" / "x.pth", *sorted((tmp_path / "b").iterdir()))]


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.usefixtures("at_once")
def test_the_first_of_two_namesakes_gets_the_name(namesakes: list[str], tmp_path: Path, jobs: int, force: bool) -> None:
    results = run(Migrate(Steps(to="safetensors")), Destination("migrated", f"{tmp_path}/out/", force=force), namesakes, jobs)
    assert [isinstance(result, Rewritten) for result in results] == [True] * 7 + [False]
    assert isinstance(results[-1], RefusedError)
    assert "is one of the files being read" in results[-1].why
    assert (tmp_path / "out" / "x.safetensors").stat().st_size > 8 << 20


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.usefixtures("at_once")
def test_the_second_gets_the_name_where_the_first_fails(namesakes: list[str], tmp_path: Path, jobs: int) -> None:
    first = Path(namesakes[0])
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1  # its checksum tells, but only when its bytes are read
    first.write_bytes(data)
    results = run(Migrate(Steps(to="safetensors")), Destination("migrated", f"{tmp_path}/out/"), namesakes, jobs)
    assert isinstance(results[0], DamagedError)
    assert all(isinstance(result, Rewritten) for result in results[1:])


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.usefixtures("at_once")
def test_an_output_never_replaces_another_source(tmp_path: Path, jobs: int) -> None:
    sources = [save(tmp_path / f"{n}.pth", s2_training(generator("v2", enc_q=True))) for n in range(4)]
    other = save(tmp_path / "2.weights.pth", s2_training(generator("v2", enc_q=True), epoch=3))
    before = other.read_bytes()
    results = run(StripOptimizer(), Destination("weights", force=True), [*map(str, sources), str(other)], jobs)
    assert [isinstance(result, Rewritten) for result in results] == [True, True, False, True, True]
    assert other.read_bytes() == before


# --- Ctrl-C --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("pause", [0, 0.05, 0.2])
def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, pause: float) -> None:
    """As a terminal sends it: to every process."""
    padding = {"large": tensor("float32", (1 << 19,), bytes(1 << 21))}
    paths = [save(tmp_path / "in" / f"{n}.pth", {**generator("v2"), **padding}) for n in range(120)]
    code = "from gsvckpt.engine.pool import run as pool; pool.START = 0; from gsvckpt.__main__ import run; run()"
    command = [sys.executable, "-c", code, "convert-fp16", "-j2", *paths, "-o", f"{tmp_path}/out/", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), start_new_session=True) as process:
        while not list(tmp_path.glob("out/*.pth")):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == json.loads(out)["exit_code"] == 130, err
    assert b"Traceback" not in err
    assert leftovers(tmp_path) == []
    done = list((tmp_path / "out").iterdir())
    assert 0 < len(done) < 120
    for path in done:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.source.size == done[0].stat().st_size


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_leaves_nothing_half_written(tmp_path: Path, name: str, alone: bool) -> None:
    """As a service manager or a terminal that goes away sends it: to every process, or to the first `alone`."""
    first = save(tmp_path / "in" / "0.pth", {"w": tensor("float32", (1 << 22,), bytes(1 << 24))})
    paths = [first, *(tmp_path / "in" / f"{n}.pth" for n in range(1, 24))]
    for path in paths[1:]:
        os.link(first, path)
    code = "from gsvckpt.engine.pool import run as pool; pool.START = 0; from gsvckpt.__main__ import run; run()"
    command = [sys.executable, "-c", code, "convert-fp16", "-j2", *paths, "-o", f"{tmp_path}/out/", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), start_new_session=True) as process:
        while not leftovers(tmp_path):
            assert process.poll() is None
            time.sleep(0.001)
        (os.kill if alone else os.killpg)(process.pid, getattr(signal, name))
        out, err = process.communicate(timeout=60)
    assert process.returncode == json.loads(out)["exit_code"] == 130, err
    assert err.decode().splitlines() == ["gsvckpt: interrupted; nothing half-written was left behind"]
    assert leftovers(tmp_path) == []
    assert len(list(tmp_path.glob("out/*"))) < len(paths) // 2


# --- travelling ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UsageError, MissingError, DamagedError, NotCheckpointError, RefusedError])
def test_errors_travel(kind: type[GsvError]) -> None:
    error = kind("why", where="where", hint="hint", path="path")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert (str(again), again.exit_code) == (str(error), error.exit_code)


def test_what_is_known_of_a_bad_file_travels(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(torch_zip(evil())[:-300])
    with pytest.raises(GsvError) as caught, open_checkpoint(path):
        pass
    before = failure_json(caught.value)
    after = failure_json(pickle.loads(pickle.dumps(caught.value)))
    assert after == before
    assert after["size"] == path.stat().st_size


@pytest.mark.parametrize("recipe", [*RECIPES.values(), Migrate(Steps(merge_lora="base.pth"))], ids=lambda recipe: type(recipe).__name__)
def test_jobs_travel(recipe: Recipe) -> None:
    job = Rewrite(recipe, Destination("x", "out", force=True), "cpu")
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_dtype_stays_the_one_that_it_is() -> None:
    from gsvckpt.dtypes import DTYPES, UNTYPED

    assert all(pickle.loads(pickle.dumps(dtype)) is dtype for dtype in (*DTYPES.values(), UNTYPED))


def test_merging_uses_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "START", 0)
    monkeypatch.setattr(dispatch, "run_in_processes", None)
    paths = [str(save(tmp_path / f"{n}.pth", small(lora(), "v3"), head=b"03")) for n in range(8)]
    results = run(Migrate(Steps(merge_lora=str(tmp_path / "none.pth"))), Destination("merged"), paths, 2)
    assert all(isinstance(result, MissingError) for result in results)


def test_one_by_one_names_nothing_twice(sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_Naming", None)
    assert len(run(RECIPES["to-safetensors"], Destination("x", f"{tmp_path}/out/"), sources, 1)) == len(sources)
