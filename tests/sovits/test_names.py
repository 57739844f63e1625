from __future__ import annotations

import pytest

from gsvckpt.sovits.names import FileName, cut, experiment, folder_rank, folder_version, is_stray, original_name, parse, resumes, shorten


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xxx-e2.ckpt", FileName("gpt-weights", "xxx", 2)),
        ("声音-e1-e15.ckpt", FileName("gpt-weights", "声音-e1", 15)),
        ("xxx_e8_s16.pth", FileName("sovits-weights", "xxx", 8, 16)),
        ("SoVITS_weights_v3/a_b_e1_s2_l32.pth", FileName("sovits-weights", "a_b", 1, 2, 32)),
        ("logs/xxx/logs_s1_v2/ckpt/epoch=1-step=12.ckpt", FileName("gpt-training", "xxx", 2, 12)),
        ("epoch=9-step=90-v1.ckpt", FileName("gpt-training", None, 10, 90)),
        ("s1bert25hz-2kh-longer-epoch=68e-step=50232.ckpt", FileName("gpt-training", None, 69, 50232)),
        ("logs/xxx/logs_s2_v2/G_16.pth", FileName("generator", "xxx", None, 16)),
        ("logs/xxx/logs_s2_v2/D_233333333333.pth", FileName("discriminator", "xxx", latest=True)),
        ("G_latest.pth", FileName("generator", latest=True)),
        ("mine/epoch_001.ckpt", FileName("epoch", "mine", 1)),
        ("epoch_3_step_400.pth", FileName("epoch", None, 3, 400)),
        ("s2Gv3.pth", FileName()),
        ("", FileName()),
        ("x_e" + "9" * 300 + "_s1.pth", FileName()),
    ],
)
def test_parse(name: str, expected: FileName) -> None:
    assert parse(name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("logs/xxx/logs_s2/G_1.pth", "xxx"),
        ("C:\\gsv\\logs\\我的声音\\logs_s1_v2\\ckpt\\epoch=1-step=2.ckpt", "我的声音"),
        ("/srv/logs/gsv/logs/xxx/3-bert/a.wav.pt", "xxx"),
        ("logs/logs/logs_s2_v2/G_1.pth", "logs"),
        ("backup/xxx/logs_s2_v4_lora_64/G_1.pth", "xxx"),
        ("/var/logs/weights/abc_e8_s16.pth", "abc"),
        ("run7/epoch_001.ckpt", "run7"),
        ("epoch_001.ckpt", None),
        ("s2Gv3.pth", None),
        ("logs/G_1.pth", None),
        ("", None),
    ],
)
def test_experiment(path: str, expected: str | None) -> None:
    assert experiment(path) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("G_16.pth", True),
        ("logs/x/D_233333333333.pth", True),
        ("G_16.fp16.pth", True),  # the trap for tools that put a word behind the stem
        ("g_16.PTH", True),
        ("fp16-G_16.pth", False),
        ("G_16.pth.bak", False),
        ("epoch=9-step=90.ckpt", True),
        ("epoch=9-step=90.ckpt.bak", True),
        ("epoch=9-step=90-v1.ckpt", False),
        ("fp16-epoch=9-step=90.ckpt", False),
        ("xxx-e2.ckpt", False),
    ],
)
def test_resumes_follows_upstreams_patterns(name: str, expected: bool) -> None:
    assert resumes(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1745000000.1234567.pth", True),
        ("1745000000.12345670.pth", True),
        ("1745000000.pth", False),
        ("G_1745000000.1.pth", False),
        ("1.5.pth", False),
    ],
)
def test_stray(name: str, expected: bool) -> None:
    assert is_stray(name) is expected


def test_folders_name_versions_and_ranks() -> None:
    assert folder_version("logs/x/logs_s2_v2ProPlus/G_1.pth") == ("v2ProPlus", "logs_s2_v2ProPlus")
    assert folder_version("SoVITS_weights_v4/x_e1_s2.pth") == ("v4", "SoVITS_weights_v4")
    assert folder_version("SoVITS_weights/x_e1_s2.pth") is None
    assert folder_version("logs_s2_v3") is None
    assert folder_rank("logs/x/logs_s2_v4_lora_64/G_1.pth") == 64
    assert folder_rank("logs/x/logs_s2_v4/G_1.pth") is None


@pytest.mark.parametrize(("text", "most", "expected"), [("声音", 6, "声音"), ("声音", 5, "声"), ("声音", 3, "声"), ("声音", 2, ""), ("aé", 2, "a")])
def test_no_letter_is_cut_in_two(text: str, most: int, expected: str) -> None:
    assert cut(text, most) == expected


ENDS = ["_e8_s16.pth", "_e8_s16_l32.migrated.pth", "-e15.ckpt", "-epoch=1-step=12.ckpt", ".salvaged.safetensors", ".pth", "_e8_s16", ""]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("letter", ["x", "声", "\U0001f3a4", "\udc80"])
def test_a_name_is_cut_before_what_it_tells(end: str, letter: str) -> None:
    assert shorten(f"{letter * 20}{end}") == f"{letter * 20}{end}"
    name = shorten(f"{letter * 300}{end}")
    assert name == letter * (len(name) - len(end)) + end
    size = len(name.encode("utf-8", "surrogatepass"))
    assert 255 - len(letter.encode("utf-8", "surrogatepass")) < size <= 255


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logs/weights-G_16.pth", "logs/G_16.pth"),
        ("fp16-weights-G_16.pth", "G_16.pth"),
        ("weights-G_16.fp16.pth", "G_16.pth"),
        ("alice_e8_s16.fp16.migrated.pth", "alice_e8_s16.pth"),
        ("salvaged-D_16.pth", "D_16.pth"),
        ("weights-epoch=1-step=12.ckpt", "epoch=1-step=12.ckpt"),
        ("C:\\logs\\weights-G_16.pth", "C:\\logs\\G_16.pth"),
        ("G_16.pth", "G_16.pth"),
        ("my-weights-G_16.pth", "my-weights-G_16.pth"),
        ("weights-/G_16.pth", "weights-/G_16.pth"),
        ("weights-", "weights-"),
        (".fp16.pth", ".fp16.pth"),
        ("", ""),
        ("a/", "a/"),
    ],
)
def test_our_own_words_are_taken_off(name: str, expected: str) -> None:
    assert original_name(name) == expected
    assert original_name(expected) == expected
