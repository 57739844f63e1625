"""Which programs take a file. `make readers` holds the rules against the programs; here are their branches, and the digests of complete files."""

from __future__ import annotations

import pytest

from gsvckpt.sovits.layouts import layout, names
from gsvckpt.sovits.runtimes import COMPLETE, EQUAL, GENIE_LIMIT, RuntimeFacts, outgrown, runs_in, shapes_digest
from gsvckpt.sovits.upstream import Detection, UpstreamError

V2 = Detection("v2", "v2", False, "size")
PRO = Detection("v2", "v2Pro", False, "head")
S2 = frozenset({"iteration", "optimizer", "model", "learning_rate"})
S1 = frozenset({"pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers"})
INFERENCE, BASE, RESUME, EXPORT, LITE, GENIE = range(6)


def facts(kind="sovits-weights", version="v2", detected=V2, **changes) -> RuntimeFacts:
    usual = RuntimeFacts(kind, version, False, "torch-zip", "PK", 85_000_000, detected, frozenset(), config_version=version)
    return usual._replace(**changes)


def taken(found: RuntimeFacts) -> set[int]:
    return {place for place, one in enumerate(runs_in(found)) if one.takes}


def test_the_digests_are_those_of_the_layouts() -> None:
    made = {name: shapes_digest({tensor: shape for tensor, (_, shape) in layout(name).items()}) for name in names() if not name.startswith("vocoder")}
    assert {digest: EQUAL.get(name, name) for name, digest in made.items()} == COMPLETE
    assert set(EQUAL) == {name for name in made if name not in COMPLETE.values()}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(), {INFERENCE, EXPORT, LITE, GENIE}),
        (facts(full=True, size=106_020_809), {INFERENCE, BASE, EXPORT, LITE, GENIE}),
        (facts(size=GENIE_LIMIT + 1), {INFERENCE, EXPORT, LITE}),
        (facts(head="01", detected=V2._replace(rule="head")), {INFERENCE, LITE, GENIE}),
        (facts(version="v1", detected=Detection("v1", "v1", False, "size")), {INFERENCE, EXPORT}),
        (facts(version="v2Pro", detected=PRO, head="05", size=134_000_000), {INFERENCE, LITE}),
        (facts(version="v2Pro", detected=V2, size=134_000_000), {LITE}),  # GPT-SoVITS misreads it, GSV-TTS-Lite believes the config
        (facts(version="v2Pro", detected=V2, size=134_000_000, config_version="v2"), set()),
        (facts(version="v2ProPlus", detected=Detection("v2", "v2ProPlus", False, "head"), head="06", size=GENIE_LIMIT + 1), {INFERENCE, LITE, GENIE}),
        (facts(version="v3", detected=Detection("v2", "v3", False, "size"), size=769_000_000, full=True), {INFERENCE, BASE}),
        (facts("sovits-lora", "v3", Detection("v2", "v3", True, "head"), lora=True, head="03"), {INFERENCE}),
        (facts(version="v4", detected=Detection("v2", "v3", False, "size"), size=769_000_000, full=True), {BASE}),
        (facts(detected=UpstreamError("KeyError"), head="09"), {LITE, GENIE}),
        (facts(detected=UpstreamError("KeyError"), container="torch-stream", head=None), set()),
        (facts(missing="it lacks 3 tensors"), set()),
        (facts(refused="it has no record `version`"), set()),
        (facts(container="safetensors", head=None, detected=None), set()),
        (facts("gpt-weights", detected=None), {INFERENCE, BASE, EXPORT, LITE, GENIE}),
        (facts("gpt-weights", detected=None, version="v1"), {INFERENCE, BASE, EXPORT, LITE}),
        (facts("gpt-weights", detected=None, plain=False), {INFERENCE, BASE, EXPORT, LITE}),
        (facts("gpt-weights", detected=None, has_top_k=False), {INFERENCE, BASE, LITE, GENIE}),
        (facts("gpt-weights", detected=None, head="05"), set()),
        (facts("gpt-weights", detected=None, container="torch-stream", head=None), {INFERENCE, BASE, LITE, GENIE}),
        (facts("gpt-weights", detected=None, missing="it has 3 tensors besides"), set()),
        (facts("sovits-generator-training", detected=None, keys=S2), {RESUME}),
        (facts("sovits-discriminator-training", detected=None, keys=S2), {RESUME}),
        (facts("sovits-generator-training", detected=None, keys=S2 - {"optimizer"}), set()),
        (facts("sovits-generator-training", detected=None, keys=S2, head="05"), set()),
        (facts("gpt-training", detected=None, keys=S1), {RESUME}),
        (facts("gpt-training", detected=None, keys=S2), set()),
        (facts("unknown", None, None), set()),
    ],
)
def test_who_takes_what(found: RuntimeFacts, expected: set[int]) -> None:
    assert taken(found) == expected
    rows = runs_in(found)
    assert len(rows) == (0 if found.kind == "unknown" else 6)
    assert all(row.why and row.as_json().keys() == {"runtime", "version", "role", "takes", "why"} for row in rows)


@pytest.mark.parametrize("kind", ["sovits-generator-base"])
def test_a_base_is_told_by_its_hash(kind: str) -> None:
    base = facts(kind, "v2Pro", PRO._replace(rule="hash"), full=True, config_version=None, size=162_000_000)
    assert taken(base) == {INFERENCE, BASE, LITE}
    first = facts(kind, "v1", Detection("v1", "v1", False, "hash"), full=True, config_version=None, size=106_000_000)
    assert LITE not in taken(first)


def test_a_v2_file_that_outgrows_genie() -> None:
    assert "150 MiB" in str(outgrown("sovits-weights", "v2", 85_000_000, 170_000_000))
    for case in (("sovits-weights", "v2ProPlus", 85, 1 << 40), ("gpt-weights", "v2", 85, 1 << 40), ("sovits-weights", "v2", 1 << 40, 1 << 41)):
        assert outgrown(*case) is None
