"""Files on a real Dask cluster: the same results and bytes as here, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from cli.samples import Run, environment, generator, leftovers, s2_training, save, small
from support.builders import tensor
from support.clusters import Cluster

from gsvckpt.commands.inspect.batch import Inspect, Sought
from gsvckpt.commands.inspect.structure_cache import StructureCache
from gsvckpt.commands.verify.batch import Candidate, Verify
from gsvckpt.commands.verify.result import Options
from gsvckpt.engine.pool import dask
from gsvckpt.engine.pool.dask import _look, _Parcel, _Shipped
from gsvckpt.errors import ClusterError, DamagedError
from gsvckpt.files.progress import Silent
from gsvckpt.files.temporary import is_temporary
from gsvckpt.version import __version__

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, which no test kills."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.add_worker()
        made.add_worker()
        made.wait(2)
        yield made
    finally:
        made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of a test's own, without workers yet."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.close()


def finish(process: subprocess.Popen[bytes], seconds: int) -> tuple[bytes, bytes]:
    """What a run printed. One that does not end is ended: `with` would wait for it for ever."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def spawn(*argv: object, cwd: Path | None = None, **variables: str) -> Run:
    """The program as a process of its own."""
    command = [sys.executable, "-m", "gsvckpt", *map(os.fspath, argv)]
    done = subprocess.run(command, capture_output=True, check=False, env=environment(**variables), timeout=120, cwd=cwd)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def voices(folder: Path, count: int, large: int = 0) -> list[Path]:
    """Training files, each with `large` more bytes of weights; the second is cut off."""
    padding = {"large": tensor("float32", (large // 4,), bytes(large))} if large else {}
    paths = [save(folder / f"run{n:03}.pth", s2_training({**generator("v2", enc_q=True), **padding}, epoch=n)) for n in range(count)]
    paths[1].write_bytes(paths[1].read_bytes()[:-30])
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    """The outputs. What a process was at when it was killed is not among them; a later run sweeps it away."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not is_temporary(path.name)}


# --- the same as here ----------------------------------------------------------------------------------------------------------------------------

COMMANDS = {
    "verify": (),
    "inspect": (),
    "inspect --stats": (),
    "convert-fp16": ("-o", "OUT/"),
    "strip-optimizer": ("-o", "OUT/"),
    "migrate": ("--plain", "--to", "safetensors", "-o", "OUT/"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_results_and_bytes_are_those_of_a_run_here(shared: Cluster, tmp_path: Path, command: str) -> None:
    paths = voices(tmp_path / "in", 6)
    (tmp_path / "in" / "web.pth").write_bytes(b"<html>")
    sources = [*paths, tmp_path / "in" / "web.pth", tmp_path / "in" / "nowhere.pth"]
    runs = []
    for name, more in (("here", ()), ("there", ("--cluster", shared.address))):
        options = [option.replace("OUT", str(tmp_path / name)) for option in COMMANDS[command]]
        runs.append(spawn(*command.split(), *sources, *options, "--json", *more))
    here, there = runs
    assert (there.code, there.out.replace("/there/", "/here/"), there.err) == (here.code, here.out, here.err)
    assert here.code == 3
    if "-o" in COMMANDS[command]:
        assert contents(tmp_path / "there") == contents(tmp_path / "here") != {}
    assert leftovers(tmp_path) == []


def test_the_address_may_stand_in_the_environment_and_paths_are_sent_whole(shared: Cluster, tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.pth", small(generator("v2"), "v2"))
    run = spawn("inspect", "a", "--json", cwd=tmp_path, GSVCKPT_CLUSTER=shared.address)
    assert [file["path"] for file in run.document["files"]] == [str(tmp_path / "a" / "x.pth")]
    run = spawn("convert-fp16", "a/x.pth", "-o", "out/", "--json", cwd=tmp_path, GSVCKPT_CLUSTER=shared.address)
    assert run.file["output"] == str(tmp_path / "out" / "x.pth")
    assert (tmp_path / "out" / "x.pth").exists()


def test_one_file_is_shown_as_ever_with_a_cluster_in_the_environment(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    run = spawn("inspect", path, GSVCKPT_CLUSTER="tcp://127.0.0.1:1")
    assert (run.code, run.out, run.err) == (0, spawn("inspect", path).out, "")
    assert "container" in run.out  # a table of many has no room for it


def test_of_two_namesakes_the_first_gets_the_name(shared: Cluster, tmp_path: Path) -> None:
    one = save(tmp_path / "a" / "x.pth", {"w": tensor("uint8", (1 << 22,), bytes(1 << 22))})
    two = save(tmp_path / "b" / "x.ckpt", {"w": tensor("float32", (2,), [1, 2])})
    run = spawn("migrate", one, two, "--to", "safetensors", "-o", tmp_path / "out/", "--json", "--cluster", shared.address)
    assert run.code == 4
    assert [file["written"] for file in run.document["files"]] == [True, False]


# --- workers that die ----------------------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_nothing(own: Cluster, tmp_path: Path) -> None:
    victim = own.add_worker()
    own.add_worker()
    own.wait(2)
    paths = voices(tmp_path / "in", 24, large=1 << 19)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gsvckpt", "convert-fp16", *paths, "-o", f"{out}/", "--force", "--json", "--cluster", own.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        while process.poll() is None and (not out.exists() or len(os.listdir(out)) < 4):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before anything could be killed"
        victim.kill()
        stdout, _ = finish(process, 100)
    document = json.loads(stdout)
    assert process.returncode == 3  # of the file that is cut off
    assert [file["source"] for file in document["files"]] == list(map(str, paths))
    assert [file["written"] for file in document["files"]] == [number != 1 for number in range(24)]
    assert spawn("convert-fp16", *paths, "-o", f"{tmp_path}/here/", "-q").code == 3
    assert contents(out) == contents(tmp_path / "here")
    assert len(leftovers(out)) <= 1  # of the killed one


DIES_AFTER_PUBLISHING = """
    import os, signal
    from gsvckpt.files import publish as publishing
    def patch(inner, done):
        def take_name(*arguments, **options):
            inner(*arguments, **options)
            done.append(1)
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        publishing._take_name = take_name
    if publishing._take_name.__name__ == "_take_name":  # Dask runs this twice
        patch(publishing._take_name, [])
    """


DYING = {  # options, and what is told of a file that the dying worker had published without an answer
    "-o OUT/": ("refused", "exists already"),
    "-o OUT/ --force": None,
    "--in-place": ("cluster", "a worker sees another file of this name, or not all of it"),
}


@pytest.mark.parametrize("options", DYING)
def test_a_worker_that_dies_between_publishing_and_answering(own: Cluster, tmp_path: Path, options: str) -> None:
    """Only the run that put an output there says so; the next worker, which finds it there, cannot know that it was this one."""
    mortal = own.add_worker(dedent(DIES_AFTER_PUBLISHING))
    own.add_worker()
    own.wait(2)
    paths = voices(tmp_path / "in", 16)
    for path in paths:
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    copies = sorted((tmp_path / "copy").iterdir())
    here = spawn("strip-optimizer", *copies, *options.replace("OUT", f"{tmp_path}/here").split(), "--json")
    run = spawn("strip-optimizer", *paths, *options.replace("OUT", f"{tmp_path}/there").split(), "--json", "--cluster", own.address)
    assert mortal.wait(10) == -signal.SIGKILL
    one, two = ("in", "copy") if options == "--in-place" else ("there", "here")
    assert contents(tmp_path / one) == contents(tmp_path / two)
    assert len(leftovers(tmp_path)) <= 1  # of the killed one
    expected = json.loads(here.out)["files"]
    files = json.loads(run.out.replace("/there/", "/here/").replace("/in/", "/copy/"))["files"]
    others = [(file, twin) for file, twin in zip(files, expected, strict=True) if file != twin]
    told = DYING[options]
    # It died at its third output. Results of the two before it may have been on their way, and go with it.
    assert {(file["error"]["kind"], file["error"]["why"]) for file, _ in others} == ({told} if told is not None else set())
    assert len(others) <= 3
    assert all(twin["written"] and not file["written"] for file, twin in others)
    assert (here.code, run.code) == (3, 4 if told is not None and told[0] == "refused" else 3)


def test_a_file_that_kills_every_worker_is_that_files_own_error(own: Cluster, tmp_path: Path) -> None:
    deadly = """
        import os
        from gsvckpt.commands.inspect import batch as inspections
        def examine(checkpoint):
            from gsvckpt.engine.examine import examine
            if "deadly" in checkpoint.source.path:
                os._exit(9)
            return examine(checkpoint)
        inspections.examine = examine
        """
    for _ in range(5):
        own.add_worker(dedent(deadly))
    own.wait(5)
    good, bad = (save(tmp_path / f"{name}.pth", small(generator("v2"), "v2")) for name in ("good", "deadly"))
    run = spawn("inspect", good, bad, "--json", "--cluster", own.address)
    assert run.code == 3
    assert "error" not in run.document["files"][0]
    assert run.document["files"][1]["error"]["kind"] == "cluster"
    assert "died" in run.document["files"][1]["error"]["why"]


def test_a_scheduler_that_dies_ends_the_run_with_a_result_for_every_file(own: Cluster, tmp_path: Path) -> None:
    own.add_worker()
    own.wait(1)
    paths = voices(tmp_path / "in", 40, large=1 << 19)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gsvckpt", "convert-fp16", *paths, "-o", f"{out}/", "--json", "--cluster", own.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        while process.poll() is None and (not out.exists() or len(os.listdir(out)) < 4):
            time.sleep(0.01)
        own.processes[0].kill()
        stdout, stderr = finish(process, 100)
    document = json.loads(stdout)
    assert process.returncode == document["exit_code"] == 3
    assert b"Traceback" not in stderr
    assert [file["source"] for file in document["files"]] == list(map(str, paths))
    lost = [file for file in document["files"] if not file["written"]]
    assert {file["error"]["kind"] for file in lost} == {"damaged", "cluster"}
    assert all((out / Path(file["source"]).name).exists() for file in document["files"] if file["written"])


# --- clusters that cannot be used ----------------------------------------------------------------------------------------------------------------


def assert_refused(run: Run, *words: str) -> None:
    assert run.code == ClusterError.exit_code
    lines = run.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("gsvckpt: --cluster: ")
    assert lines[1].startswith("hint: ")
    assert all(word in run.err for word in words), run.err


def test_no_cluster_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    assert_refused(spawn("inspect", tmp_path, "--cluster", "nonsense"), "no Dask scheduler at nonsense")
    begun = time.monotonic()
    run = spawn("convert-fp16", path, "--json", "--cluster", "tcp://127.0.0.1:1")
    assert time.monotonic() - begun < 60  # it gives up, and does not wait for ever
    assert_refused(run, "tcp://127.0.0.1:1")
    assert (run.document["files"], run.document["error"]["kind"]) == ([], "cluster")


@pytest.mark.parametrize(
    ("preload", "words"),
    [
        ("import gsvckpt\ngsvckpt.__version__ = '9.9'", ("has gsvckpt 9.9, not " + __version__, "pip install")),
        ("import sys\nsys.modules['gsvckpt'] = None", ("has no gsvckpt", "pip install")),
    ],
    ids=["another version", "none"],
)
def test_workers_without_this_gsvckpt(own: Cluster, tmp_path: Path, preload: str, words: tuple[str, ...]) -> None:
    own.add_worker(preload)
    own.wait(1)
    path = save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    assert_refused(spawn("verify", path, "--cluster", own.address), *words)


def test_without_dask(tmp_path: Path) -> None:
    save(tmp_path / "x.pth", small(generator("v2"), "v2"))
    code = "import sys; sys.modules['distributed'] = None; from gsvckpt.__main__ import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", tmp_path, "--cluster", "tcp://x:1"], capture_output=True, check=False, env=environment(), text=True
    )
    assert done.returncode == 3
    assert 'pip install "gsvckpt[dask]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("sight", [None, (1, 2)])
def test_a_worker_that_sees_another_file_touches_nothing(tmp_path: Path, sight: tuple[int, int] | None) -> None:
    path = str(save(tmp_path / "x.pth", small(generator("v2"), "v2")))
    result = _Shipped(Inspect(None), __version__)(_Parcel(Sought(path), path, sight), 1, Silent())
    assert isinstance(result, ClusterError)
    assert (result.path, result.exit_code) == (path, 3)
    assert "same paths" in result.hint.text
    checked = _Shipped(Verify(Options()), __version__)(_Parcel(Candidate(path), path, sight), 1, Silent())
    assert (checked.status, checked.path) == ("unchecked", path)


def test_a_worker_that_sees_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "x.pth")
    result = _Shipped(Inspect(None), __version__)(_Parcel(Sought(path), path, (1, 2)), 1, Silent())
    assert isinstance(result, ClusterError)
    assert "no such file" in result.why
    assert _look(path) is None


def test_a_worker_of_another_version_touches_nothing(tmp_path: Path) -> None:
    path = str(save(tmp_path / "x.pth", small(generator("v2"), "v2")))
    result = _Shipped(Inspect(None), "9.9")(_Parcel(Sought(path), path, _look(path)), 1, Silent())
    assert isinstance(result, ClusterError)
    assert "not 9.9" in result.why


def test_an_error_of_the_program_itself_is_that_files_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(save(tmp_path / "x.pth", small(generator("v2"), "v2")))

    def fail(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("gsvckpt.commands.inspect.batch.examine", fail)
    monkeypatch.setattr("gsvckpt.commands.inspect.batch._structures", StructureCache())  # nothing that another test read in this process
    result = _Shipped(Inspect(None), __version__)(_Parcel(Sought(path), path, _look(path)), 1, Silent())
    assert isinstance(result, ClusterError)
    assert "RecursionError: too deep" in result.why


@pytest.mark.parametrize("error", [ImportError("no"), KeyError("x"), DamagedError("x"), MemoryError()])
def test_a_task_without_a_result_is_no_success(error: Exception) -> None:
    found = dask._explain(error).error
    assert found is not None
    assert found.exit_code == 3
    assert found.hint


# --- many ----------------------------------------------------------------------------------------------------------------------------------------


def test_ctrl_c_cancels_what_is_queued(shared: Cluster, tmp_path: Path) -> None:
    paths = voices(tmp_path / "in", 60, large=1 << 20)
    command = [sys.executable, "-m", "gsvckpt", "verify", "--json", *paths, "--cluster", shared.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        end = time.monotonic() + 60
        while shared.count_tasks() < 2 and process.poll() is None:
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        out, err = finish(process, 60)
    assert process.returncode == 130, err
    assert b"workers finish what they are working on" in err
    assert b"Traceback" not in err
    assert json.loads(out)["exit_code"] == 130
    while shared.count_tasks():
        assert time.monotonic() < end, "tasks are left"
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_ten_thousand_files_in_little_memory(shared: Cluster, tmp_path: Path) -> None:
    """Hard links of one tiny file, as only their number matters; the client holds less than 200 MB whatever it collects."""
    first = save(tmp_path / "many" / "0.pth", {"w": tensor("float32", (1,), [1.0])})
    for number in range(1, 10_000):
        os.link(first, first.with_name(f"{number}.pth"))
    code = dedent(
        """
        import sys
        from gsvckpt.cli.app import main
        code = main(sys.argv[1:])
        status = open("/proc/self/status").read()  # getrusage would count what the process that started this one had
        sys.stderr.write(status.partition("VmHWM:")[2].split()[0])
        sys.exit(code)
        """
    )
    command = [sys.executable, "-c", code, "inspect", "--json", "--no-progress", first.parent, "--cluster", shared.address]
    done = subprocess.run(command, capture_output=True, check=False, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr[-3000:].decode()
    files = json.loads(done.stdout)["files"]
    assert [file["path"] for file in files] == sorted(str(path) for path in first.parent.iterdir())
    assert int(done.stderr.split()[-1]) * 1024 < 200_000_000
