"""What is not a regular file is never replaced by an output, whatever command writes it, with --force or not: devices, pipes, sockets, folders."""

from __future__ import annotations

import os
import shutil
import stat
import sys

import pytest

from gsvckpt.engine.write import Engine

from .samples import generator, leftovers, s2_training, save, weights

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX devices, pipes and links")

TREE = {"w": (4, 4)}
KINDS = {"device": stat.S_IFCHR, "pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK, "folder": stat.S_IFDIR}
WORDS = {"device": "is a device", "pipe": "is a named pipe", "socket": "is a socket", "folder": "is a folder"}


def place(path, kind, *, link=False):
    """Put something in the way, and return what it is, to be compared with what it is afterwards."""
    real = path.with_name("elsewhere") if link else path
    if kind == "folder":
        real.mkdir()
    else:
        try:
            os.mknod(real, KINDS[kind] | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
        except OSError:
            pytest.skip("this system makes no such thing")
    if link:
        path.symlink_to(real)
    return identity(path)


def identity(path):
    return [(facts.st_ino, facts.st_mode) for facts in (os.lstat(path), os.stat(path))]


def refused(run, path, kind):
    assert run.code == 4, run.err
    assert f"{path}: {WORDS[kind]}" in run.err
    assert "Traceback" not in run.err


COMMANDS = {
    "convert": ["convert-fp16", "SOURCE", "-o", "OUT.pth"],
    "strip": ["strip-optimizer", "SOURCE", "-o", "OUT.pth"],
    "migrate": ["migrate", "SOURCE", "--dtype", "float16", "-o", "OUT.pth"],
    "safetensors": ["migrate", "SOURCE", "--to", "safetensors", "-o", "OUT.safetensors"],
    "default name": ["convert-fp16", "SOURCE"],
}
CASES = [(command, kind) for command in COMMANDS for kind in KINDS if kind != "folder" or command == "default name"]  # -o FOLDER is a file in it


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("link", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize(("command", "kind"), CASES)
def test_the_writing_commands_refuse_before_they_compute(gsvckpt, tmp_path, monkeypatch, command, kind, link, force):
    source = save(tmp_path / "x.pth", s2_training(generator("v2", enc_q=True)))
    words = [str(source) if word == "SOURCE" else word.replace("OUT", str(tmp_path / "out")) for word in COMMANDS[command]]
    output = tmp_path / "x.fp16.pth" if command == "default name" else tmp_path / os.path.basename(words[-1])
    before = place(output, kind, link=link)
    monkeypatch.setattr(Engine, "write", lambda *_, **__: pytest.fail("computed"))
    refused(gsvckpt(*words, *force), output, kind)
    assert identity(output) == before
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
@pytest.mark.parametrize("options", [["--max-shard-size", "100B", "--to", "safetensors", "-o"], ["--bundle"]], ids=["shards", "bundle"])
def test_folders_of_files(gsvckpt, tmp_path, kind, options):
    save(tmp_path / "logs" / "alice" / "logs_s2_v2" / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    source = tmp_path / "logs" / "alice" if options == ["--bundle"] else save(tmp_path / "x.pth", weights(TREE))
    before = place(tmp_path / "out", kind)
    refused(gsvckpt("migrate", source, *options, tmp_path / "out", *(["--force"] if "-o" in options else [])), tmp_path / "out", kind)
    assert identity(tmp_path / "out") == before


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_what_comes_while_the_output_is_written_stays(gsvckpt, tmp_path, monkeypatch, force):
    """Found just before the name changes hands."""
    source, output = save(tmp_path / "x.pth", weights(TREE)), tmp_path / "out.pth"
    write = Engine.write

    def late(self, plan, path, *, overwrite, approve, accept):
        def accept_late(outcome):
            is_wanted = accept(outcome)
            os.mkfifo(output)
            return is_wanted

        return write(self, plan, path, overwrite=overwrite, approve=approve, accept=accept_late)

    monkeypatch.setattr(Engine, "write", late)
    run = gsvckpt("convert-fp16", source, "-o", output, *force)
    assert run.code == 4, run.err
    assert stat.S_ISFIFO(os.lstat(output).st_mode)
    assert not leftovers(tmp_path)


def test_the_reader_of_a_pipe_behind_standard_output_is_no_file(gsvckpt, tmp_path):
    """`/dev/fd/N` leads to a pipe by a name that is no path."""
    source = save(tmp_path / "x.pth", weights(TREE))
    ends = os.pipe()
    try:
        refused(gsvckpt("convert-fp16", source, "-o", f"/dev/fd/{ends[1]}", "--force"), f"/dev/fd/{ends[1]}", "pipe")
    finally:
        for end in ends:
            os.close(end)


def test_a_dry_run_tells_of_it(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights(TREE))
    place(tmp_path / "out.pth", "pipe")
    run = gsvckpt("convert-fp16", source, "-o", tmp_path / "out.pth", "--force", "-n")
    assert run.code == 0
    assert "is a named pipe; only a regular file can be replaced, so a real run would stop here" in run.err


@pytest.mark.parametrize("link", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--write-checksums", "LIST", "--force"], "LIST"),
        (["--record"], "voices/gsvckpt.toml"),
        (["--backup", "copies"], "copies/voices/x.pth"),
        (["--backup", "copies"], "copies/voices/gsvckpt.toml"),
    ],
)
def test_verify_refuses_before_it_reads(gsvckpt, tmp_path, monkeypatch, options, name, kind, link):
    save(tmp_path / "voices" / "x.pth", weights(TREE))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    before = place(path, kind, link=link)
    monkeypatch.setattr("gsvckpt.commands.verify.run.verify_files", lambda *_, **__: pytest.fail("read"))
    refused(gsvckpt("verify", tmp_path / "voices", *(word if word.startswith("-") else tmp_path / word for word in options)), path, kind)
    assert identity(path) == before


def test_a_manifest_that_is_a_pipe_stops_no_verification(gsvckpt, tmp_path):
    """Whoever opened it would wait for ever."""
    save(tmp_path / "x.pth", weights(TREE))
    os.mkfifo(tmp_path / "gsvckpt.toml")
    run = gsvckpt("verify", tmp_path)
    assert (run.code, "gsvckpt.toml: is not a regular file" in run.err) == (3, True)


def test_python_records_into_no_pipe(tmp_path):
    import gsvckpt
    from gsvckpt.errors import RefusedError

    os.mkfifo(tmp_path / "gsvckpt.toml")
    with pytest.raises(RefusedError, match="named pipe"):
        gsvckpt.record(save(tmp_path / "x.pth", weights(TREE)))


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_took_the_place_of_a_lost_file_stays(gsvckpt, tmp_path, kind):
    path = save(tmp_path / "voices" / "x.pth", weights(TREE))
    assert gsvckpt("verify", tmp_path / "voices", "--record", "--backup", tmp_path / "copies").code == 0
    path.unlink()
    before = place(path, kind)
    run = gsvckpt("verify", tmp_path / "voices", "--restore-from", tmp_path / "copies")
    assert (run.code, WORDS[kind] in run.err) == (4, True), run.err
    assert identity(path) == before
    assert sorted(os.listdir(path.parent)) == ["gsvckpt.toml", "x.pth"]


@pytest.mark.parametrize("name", [".gsvckpt.lock", "gsvckpt.toml"])
def test_links_to_nowhere_lead_recording_nowhere(gsvckpt, tmp_path, name):
    """A stranger's folder may hold a link that leads out of it: a lock is never made behind one. The manifest follows it, as outputs do."""
    save(tmp_path / "voices" / "x.pth", weights(TREE))
    (tmp_path / "voices" / name).symlink_to(tmp_path / "outside")
    run = gsvckpt("verify", tmp_path / "voices", "--record")
    if name == ".gsvckpt.lock":
        assert (run.code, "is a symbolic link" in run.err) == (4, True), run.err
    assert (tmp_path / "outside").exists() is (name == "gsvckpt.toml")


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_the_trash_of_prune_is_a_folder(gsvckpt, tmp_path, kind):
    folder = tmp_path / "logs"
    for epoch in range(3):
        save(folder / f"x-e{epoch}.ckpt", weights(TREE))
    if kind == "link":
        (tmp_path / "outside").mkdir()
        (folder / ".gsvckpt-trash").symlink_to(tmp_path / "outside")
    else:
        place(folder / ".gsvckpt-trash", kind)
    names, before = sorted(os.listdir(folder)), identity(folder / ".gsvckpt-trash")
    run = gsvckpt("prune", folder, "--keep-last", "1", "--yes")
    assert (run.code, "cannot be the trash" in run.err) == (4, True), run.err
    assert (sorted(os.listdir(folder)), identity(folder / ".gsvckpt-trash")) == (names, before)
    if kind == "link":
        assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_the_archive_of_prune_is_a_folder_and_its_copies_are_files(gsvckpt, tmp_path, kind):
    folder, archive = tmp_path / "logs", tmp_path / "archive"
    for epoch in range(3):
        save(folder / f"x-e{epoch}.ckpt", weights(TREE))
    before = place(archive, kind)
    refused(gsvckpt("prune", folder, "--keep-last", "1", "--yes", "--archive", archive), archive, kind)
    assert identity(archive) == before
    archive.unlink()
    (archive / "logs").mkdir(parents=True)
    before = place(archive / "logs" / "x-e0.ckpt", kind)
    run = gsvckpt("prune", folder, "--keep-last", "1", "--yes", "--archive", archive)
    refused(run, archive / "logs" / "x-e0.ckpt", kind)
    assert identity(archive / "logs" / "x-e0.ckpt") == before
    assert (folder / "x-e0.ckpt").exists()


def test_a_link_to_a_regular_file_and_one_to_nothing_are_followed(gsvckpt, tmp_path):
    source = save(tmp_path / "x.pth", weights(TREE))
    (tmp_path / "there").mkdir()
    shutil.copy(source, tmp_path / "there" / "old.pth")
    for name in ("old.pth", "new.pth"):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
        assert gsvckpt("convert-fp16", source, "-o", tmp_path / name, "--force").code == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / name).stat().st_size < source.stat().st_size or name == "old.pth"
        assert stat.S_ISREG(os.lstat(tmp_path / "there" / name).st_mode)
