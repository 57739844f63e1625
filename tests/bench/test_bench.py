"""The bench's own workings; what it measures is no test's business."""

from __future__ import annotations

import sys

import pytest

from tests.bench import growth, jobs, machine, measure
from tests.bench.table import lines


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


def test_a_run_is_weighed():
    costs = measure.weigh(python("big", "data = bytearray(50_000_000); open('/dev/null', 'wb').write(data); import time; time.sleep(0.2)"))
    if costs.anonymous is not None:  # where the system tells
        assert 50_000_000 < costs.anonymous < 80_000_000
        assert costs.written >= 50_000_000


def test_ratios_are_those_of_pairs():
    one, two = measure.Samples([1.0, 2.0, 9.0]), measure.Samples([2.0, 4.0, 3.0])
    assert one.ratio(two) == 0.5


def test_a_missed_limit_is_shown():
    costs = {"anonymous": 30_000_000, "read": 1_000_000, "written": None}
    rival = {"name": "rival", "seconds": 1.0, "spread": 0.1, "peak": 1, **costs, "ratio": 0.5, "limit": 1 / 4, "met": False}
    goals = {"peak_limit": 100_000_000, "peak_met": True, "items": 10, "rate": 500.0, "rate_limit": 1000, "rate_met": False}
    ours = {"seconds": 0.5, "spread": 0.1, "peak": 60_000_000, **costs, **goals}
    said = lines({"name": "job", "what": "a job", "gsvckpt": ours, "rivals": [rival]})
    assert said[0] == "job: a job"
    assert said[1].endswith("a process has at most 100 MB more than python: met, 500 files a second (at least 1,000: MISSED by 2.00)")
    assert said[2].endswith("2.0 times faster (at least 4 times: MISSED by 2.00)")
    assert lines({"name": "job", "what": "a job", "skipped": "no disk"}) == ["job: a job", "  skipped: no disk"]


def test_a_line_is_laid_through_sizes():
    start, each, residue = growth.fit([(1, 3.0), (2, 5.0), (4, 9.0)])
    assert (round(start, 9), round(each, 9), round(residue, 9)) == (1, 2, 0)
    assert growth.fit([(1, 1.0), (2, 4.0), (4, 16.0)])[2] > 0.1


def test_jobs_have_names_of_their_own_and_the_machine_is_described():
    names = [job.name for job in jobs.jobs()]
    assert len(set(names)) == len(names)
    assert "cores" in machine.describe(machine.facts())
