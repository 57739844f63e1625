"""The bench's own workings; what it measures is no test's business."""

from __future__ import annotations

import sys

import pytest

from tests.bench import jobs, machine, measure
from tests.bench.__main__ import lines


def python(name, code, output=None):
    return measure.Command(name, (sys.executable, "-c", code, str(output)), output)


def test_commands_run_in_turns_and_leave_no_output(tmp_path):
    log, output = tmp_path / "log", tmp_path / "output"
    one = python("one", f"import sys; open({str(log)!r}, 'a').write('1'); open(sys.argv[1], 'x')", output)
    two = python("two", f"open({str(log)!r}, 'a').write('2')")
    found = measure.compare([one, two], 2, warm_up=True)
    assert log.read_text() == "121212"
    assert [len(samples.seconds) for samples in found.values()] == [2, 2]
    assert found["two"].peak > 1_000_000
    assert not output.exists()


def test_a_failing_command_says_why():
    with pytest.raises(measure.FailedError, match="bad ended with 3: no such thing"):
        measure.run(python("bad", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"))


def test_a_missed_limit_is_shown():
    rival = {"name": "rival", "seconds": 1.0, "spread": 0.1, "peak": 1, "ratio": 0.5, "limit": 1 / 3, "met": False}
    ours = {"seconds": 0.5, "spread": 0.1, "peak": 60_000_000, "peak_limit": 100_000_000, "peak_met": True}
    said = lines({"name": "job", "what": "a job", "gsvckpt": ours, "rivals": [rival]})
    assert said[0] == "job: a job"
    assert said[1].endswith("60 MB   memory at most 100 MB: met")
    assert said[2].endswith("2.0 times faster (at least 3 times: MISSED)")
    assert lines({"name": "job", "what": "a job", "skipped": "no disk"}) == ["job: a job", "  skipped: no disk"]


def test_jobs_have_names_of_their_own_and_the_machine_is_described():
    names = [job.name for job in jobs.jobs()]
    assert len(set(names)) == len(names)
    assert "cores" in machine.describe(machine.facts())
