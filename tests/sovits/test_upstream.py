from __future__ import annotations

import hashlib

import pytest

from gsvckpt.sovits import upstream
from gsvckpt.sovits.kinds import Identity, Kind
from gsvckpt.sovits.upstream import Detection, UpstreamError, applies, correct, detect, head_for, judge, size_window, warnings
from gsvckpt.sovits.versions import Version

PK = b"PK\3\4"
V1, V2, V3 = Detection("v1", "v1", False, "size"), Detection("v2", "v2", False, "size"), Detection("v2", "v3", False, "size")
V3_LORA, V4_LORA = Detection("v2", "v3", True, "head"), Detection("v2", "v4", True, "head")
PRO, PLUS = Detection("v2", "v2Pro", False, "head"), Detection("v2", "v2ProPlus", False, "head")
V4_BASE = Detection("v2", "v4", False, "hash")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (84_923_626, V1),
        (84_969_471, V1),
        (84_969_472, V2),
        (84_998_954, V2),
        (169_600_000, V2),
        (734_003_199, V2),
        (734_003_200, V3),
        (769_021_078, V3),
    ],
)
def test_a_pk_file_is_told_by_its_size(size: int, expected: Detection) -> None:
    assert detect(PK, size) == expected


@pytest.mark.parametrize(
    ("head", "symbols", "model", "lora"),
    [
        (b"00", "v1", "v1", False),
        (b"01", "v2", "v2", False),
        (b"02", "v2", "v3", False),
        (b"03", "v2", "v3", True),
        (b"04", "v2", "v4", True),
        (b"05", "v2", "v2Pro", False),
        (b"06", "v2", "v2ProPlus", False),
    ],
)
def test_a_head_is_told_whatever_the_size(head: bytes, symbols: str, model: str, lora: bool) -> None:
    assert detect(head + b"\3\4", 1) == Detection(symbols, model, lora, "head")


@pytest.mark.parametrize(("first", "text"), [(b"07\3\4", "KeyError: b'07'"), (b"<!DOCTYPE", "KeyError: b'<!'"), (b"", "KeyError: b''")])
def test_an_unknown_head_is_a_bare_key_error(first: bytes, text: str) -> None:
    assert detect(first, 100) == UpstreamError(text)


def test_a_known_header_outweighs_head_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    first8k = b"PK" + bytes(8190)
    monkeypatch.setitem(upstream.HASHES, hashlib.md5(first8k, usedforsecurity=False).hexdigest(), ("v2", "v4"))
    assert detect(first8k, 5) == V4_BASE
    assert detect(first8k + b"more", 5) == V4_BASE  # only 8,192 bytes count
    assert detect(first8k[:-1], 5) == V1


def test_todays_hash_table_has_six_entries() -> None:
    assert upstream.HASHES == {
        "dc3c97e17592963677a4a1681f30c653": ("v2", "v2"),
        "6642b37f3dbb1f76882b69937c95a5f3": ("v2", "v2"),
        "43797be674a37c1c83ee81081941ed0f": ("v2", "v3"),
        "4f26b9476d0c5033e04162c486074374": ("v2", "v4"),
        "c7e9fce2223f3db685cdfa1e6368728a": ("v2", "v2Pro"),
        "66b313e39455b57ab1b0bc0b239c9d0a": ("v2", "v2ProPlus"),
    }


def test_it_applies_to_what_inference_opens() -> None:
    assert all(applies(kind) for kind in ("sovits-weights", "sovits-lora", "sovits-generator-base"))
    assert not any(applies(kind) for kind in ("gpt-weights", "sovits-generator-training", "vocoder", "state-dict"))


@pytest.mark.parametrize(
    ("detected", "rows", "symbols", "model"),
    [(V2, 322, "v1", "v1"), (V1, 732, "v2", "v2"), (V1, 500, "v2", "v2"), (V1, None, "v2", "v2"), (PRO, 732, "v2", "v2Pro"), (V3, 732, "v2", "v3")],
)
def test_callers_correct_it_from_the_symbol_table(detected: Detection, rows: int | None, symbols: str, model: str) -> None:
    found = correct(detected, rows)
    assert (found.symbols, found.model, found.rule) == (symbols, model, detected.rule)


def test_size_windows_lead_to_their_version() -> None:
    for version in ("v1", "v2", "v3"):
        window = size_window(version)
        assert window is not None
        assert {detect(PK, size).model for size in (window[0], window[1] - 1)} == {version}  # type: ignore[union-attr]
    assert size_window("v4") is size_window("v2Pro") is size_window(None) is None


def semantic_version(size: int) -> str:
    """prepare_datasets/3-get-semantic.py:18-28, which reads a base by these windows."""
    kib = size / 1024
    if kib < 82_978:
        return "v1"
    if kib < 100 * 1024:
        return "v2"
    if kib < 103_520:
        return "v1"
    return "v2" if kib < 700 * 1024 else "v3"


def test_the_windows_of_bases_suit_the_semantics_too() -> None:
    for version in ("v1", "v2", "v3"):
        low, high = size_window(version, base=True) or (0, 0)
        assert {semantic_version(low), semantic_version(min(high, 1 << 40) - 1)} == {version}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kib", [1, 82_977, 82_978, 100 * 1024 - 1, 100 * 1024, 103_519, 103_520, 206_000, 700 * 1024 - 1, 700 * 1024])
def test_a_base_by_its_size(version: str, kib: int) -> None:
    said = upstream.misread_base(version, kib * 1024)
    assert (said is None) == (semantic_version(kib * 1024) == version)
    assert said is None or f"{version} base for {semantic_version(kib * 1024)}" in said
    assert upstream.misread_base("v2Pro", kib * 1024) is upstream.misread_base(None, kib * 1024) is None


def test_heads_that_upstream_writes() -> None:
    cases = [("v1", False), ("v2", False), ("v2Pro", False), ("v2ProPlus", False), ("v3", False), ("v4", False), ("v3", True), ("v4", True)]
    assert [head_for(*case) for case in cases] == ["PK", "PK", "05", "06", "PK", "PK", "03", "04"]
    assert head_for("v2Pro", False, base=True) == head_for(None, False) == "PK"


@pytest.mark.parametrize(
    ("version", "lora", "before", "after"),
    [
        ("v2", False, V2, V1),  # shrunk below the line
        ("v1", False, V1, Detection("v2", "v2", False, "head")),  # a head that upstream would not write
        ("v4", False, V4_BASE, V3),
        ("v4", False, V3, V3),  # wrong sound without an error, whoever began it
        ("v4", False, None, V3),
        ("v2Pro", False, PRO, V2),
        ("v2ProPlus", False, V2, V2),
        ("v2ProPlus", False, PLUS, PRO),
        ("v3", True, V3_LORA, V1),
        ("v3", True, V1, V1),
        ("v3", True, V3_LORA, V4_LORA),
        ("v2", False, V2, UpstreamError("KeyError: b'07'")),
        (None, True, V4_LORA, V3_LORA),
    ],
)
def test_refused(version: str | None, lora: bool, before: Detection | None, after: Detection | UpstreamError) -> None:
    assert judge(version, lora, before, after)


@pytest.mark.parametrize(
    ("version", "lora", "before", "after"),
    [
        ("v2", False, V2, V2),
        ("v1", False, V1, V2),  # fp32 v1 is taken for v2, and its tensors correct that
        ("v1", False, V2, V2),
        ("v2", False, V1, V2),
        ("v2", False, V1, V1),
        ("v2Pro", False, V2, PRO),
        ("v4", True, V4_LORA, V4_LORA),
        ("v3", False, V3, None),
        (None, False, V3, V3),
        ("v4", False, UpstreamError("KeyError: b'07'"), UpstreamError("KeyError: b'07'")),
    ],
)
def test_not_refused(version: str | None, lora: bool, before: Detection | UpstreamError, after: Detection | UpstreamError | None) -> None:
    assert judge(version, lora, before, after) is None


@pytest.mark.parametrize(
    ("kind", "version", "detected", "rows", "words"),
    [
        ("sovits-weights", "v2", V1, 732, "Cantonese"),
        ("sovits-weights", "v1", V2, 322, "corrected from its tensors"),
        ("sovits-weights", "v2Pro", V2, 732, "512 against 1024"),
        ("sovits-generator-base", "v2ProPlus", V2, 732, "training from it works"),
        ("sovits-weights", "v4", V3, 732, "1.875 instead of 2"),
        ("sovits-weights", "v2ProPlus", PRO, 732, "wrong model"),
        ("sovits-lora", "v3", V1, None, "without its base"),
        ("sovits-lora", "v3", V4_LORA, None, "v4 LoRA by its head"),
        ("sovits-weights", "v4", UpstreamError("KeyError: b'07'"), 732, "KeyError: b'07'"),
        ("sovits-weights", "v2", Detection("v2", "v2", False, "head"), 732, "need PK"),
        ("sovits-generator-base", "v2Pro", PRO, 732, "need PK"),
        ("sovits-weights", "v2", V2, 500, "500 rows"),
    ],
)
def test_warnings(kind: Kind, version: Version, detected: Detection | UpstreamError, rows: int | None, words: str) -> None:
    found = warnings(Identity(kind, version=version, versions=(version,)), detected, rows)
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    ("kind", "version", "detected"),
    [
        ("sovits-weights", "v2", V2),
        ("sovits-weights", "v2Pro", PRO),
        ("sovits-lora", "v4", V4_LORA),
        ("gpt-weights", "v2", V1),
        ("sovits-weights", None, V1),
        ("sovits-weights", "v2", None),
    ],
)
def test_nothing_to_warn_of(kind: Kind, version: Version | None, detected: Detection | None) -> None:
    assert warnings(Identity(kind, version=version), detected, None) == ()
