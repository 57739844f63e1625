"""What is asked of an experiment's config before small weights are made with it."""

from __future__ import annotations

import pytest
from support.voices import Maker, sovits_config

from gsvckpt.errors import RefusedError
from gsvckpt.model import Tensor
from gsvckpt.sovits.kinds import Identity
from gsvckpt.sovits.small_weights import check_config

V2 = Identity("sovits-generator-training", "sovits-generator", "v2", versions=("v2",))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return Maker(tiny=False).state("sovits-v2", "float32")


def test_the_config_of_its_own_run_suits(state: dict[str, Tensor]) -> None:
    check_config(sovits_config("alice", "v2", 8), V2, state, "config.json")


@pytest.mark.parametrize(
    ("field", "value"), [("inter_channels", "many"), ("inter_channels", 193), ("gin_channels", 1024), ("upsample_initial_channel", 768)]
)
def test_a_size_that_the_tensors_do_not_have_is_refused(state: dict[str, Tensor], field: str, value: object) -> None:
    config = sovits_config("alice", "v2", 8)
    model = config["model"]
    assert isinstance(model, dict)
    model[field] = value
    with pytest.raises(RefusedError, match=f"{field} is {value}, but the tensors have"):
        check_config(config, V2, state, "config.json")
