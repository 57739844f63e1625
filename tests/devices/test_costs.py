"""Which device is done first: arithmetic, whatever this machine has."""

from __future__ import annotations

import pytest

from gsvckpt.devices.costs import Work, choose_by_time

GB = 10**9


@pytest.mark.parametrize("kind", ["cast", "stats", "difference"])
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_an_ordinary_checkpoint_stays_on_the_host(kind, threads):
    choice = choose_by_time(Work(kind, GB, threads), torch_is_loaded=False)
    assert choice.name == "cpu"
    assert "its start included" in choice.why


def test_much_work_for_few_threads_is_worth_the_start():
    assert choose_by_time(Work("stats", 100 * GB, 1), torch_is_loaded=False).name == "cuda"
    assert choose_by_time(Work("cast", 100 * GB, 1), torch_is_loaded=False).name == "cuda"
    assert choose_by_time(Work("cast", 100 * GB, 16), torch_is_loaded=False).name == "cpu"


def test_where_torch_is_loaded_less_work_is_enough():
    work = Work("stats", 4 * GB, 1)
    assert [choose_by_time(work, torch_is_loaded=loaded).name for loaded in (False, True)] == ["cpu", "cuda"]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", ["cast", "stats", "difference"])
def test_there_is_one_size_from_which_on_it_is_worth_it(kind, loaded):
    names = [choose_by_time(Work(kind, 2**power, 1), torch_is_loaded=loaded).name for power in range(10, 50)]
    assert names == sorted(names)  # cpu before cuda


def test_products_are_never_moved_as_their_last_bits_depend_on_the_device():
    assert choose_by_time(Work("product", 10**15, 1), torch_is_loaded=True).name == "cpu"


def test_nothing_to_do_is_done_at_once():
    assert choose_by_time(Work("cast", 0, 2), torch_is_loaded=True).name == "cpu"
