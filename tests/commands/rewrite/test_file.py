"""One file through a writing command: a rehearsal says what writing does, and what is needless is not written."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.samples import generator, s2_training, save
from support.builders import tensor

from gsvckpt.commands.rewrite.convert_fp16 import ConvertFp16
from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.commands.rewrite.file import plan_file, rehearse, write
from gsvckpt.commands.rewrite.migrate import Migrate, Steps
from gsvckpt.commands.rewrite.recipe import Recipe
from gsvckpt.commands.rewrite.result import Rewritten
from gsvckpt.commands.rewrite.strip_optimizer import StripOptimizer
from gsvckpt.devices.host import Host
from gsvckpt.engine.write import Engine
from gsvckpt.errors import RefusedError

ENGINE = Engine(Host())
RECIPES = [ConvertFp16(), StripOptimizer(), Migrate(Steps(to="safetensors")), Migrate(Steps(to="safetensors", shard_size=9_000))]
BEYOND = [1e6, 1.0]  # the first of which float16 cannot hold


def run(source: Path, destination: Destination, recipe: Recipe) -> Rewritten:
    with plan_file(str(source), destination.assign([str(source)])[0], destination, recipe) as file_plan:
        return (write if destination.writes else rehearse)(file_plan, ENGINE)


@pytest.mark.parametrize("recipe", RECIPES, ids=["convert-fp16", "strip-optimizer", "migrate", "shards"])
def test_a_rehearsal_says_what_writing_does(tmp_path: Path, recipe: Recipe) -> None:
    source = save(tmp_path / "run.pth", s2_training(generator("v2", enc_q=True)))
    rehearsed = run(source, Destination("x", dry_run=True), recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pth"]
    written = run(source, Destination("x"), recipe)
    assert rehearsed._replace(rehearsed=False) == written
    there = Path(str(written.output))
    assert written.bytes_after == sum(path.stat().st_size for path in ([there] if there.is_file() else there.iterdir()))


@pytest.mark.parametrize("values", [BEYOND, BEYOND * (1 << 19)], ids=["found beforehand", "found while it is written"])
@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"dry_run": True}], ids=str)
def test_an_output_that_would_be_its_source_is_not_written(tmp_path: Path, values: list[float], options: dict[str, bool]) -> None:
    source = save(tmp_path / "x.pth", {"w": tensor("float32", (len(values),), values)})
    before, facts = source.read_bytes(), source.stat()
    done = run(source, Destination("fp16", **options), ConvertFp16())
    assert (done.output, done.changed, done.overflowed, done.bytes_after) == (None, False, 1, len(before))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert (source.read_bytes(), source.stat().st_ino, source.stat().st_mtime_ns) == (before, facts.st_ino, facts.st_mtime_ns)


def test_with_an_output_named_it_is_written_all_the_same(tmp_path: Path) -> None:
    source = save(tmp_path / "x.pth", {"w": tensor("float32", (2,), BEYOND)})
    done = run(source, Destination("fp16", str(tmp_path / "y.pth")), ConvertFp16())
    assert (done.output, done.changed) == (str(tmp_path / "y.pth"), False)
    assert (tmp_path / "y.pth").stat().st_size == done.bytes_after


def test_an_error_while_a_plan_is_in_use_learns_which_file_it_is_about(tmp_path: Path) -> None:
    source = str(save(tmp_path / "x.pth", {"w": tensor("float32", (2,), [1, 2])}))
    with pytest.raises(RefusedError) as caught, plan_file(source, source, Destination("fp16", in_place=True), ConvertFp16()):
        raise RefusedError("no")
    assert caught.value.path == source
