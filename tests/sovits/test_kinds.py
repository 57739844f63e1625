from __future__ import annotations

from collections import OrderedDict

import pytest

from gsvckpt.model import Global, Opaque
from gsvckpt.sovits import kinds
from gsvckpt.sovits.kinds import Identity, identify, symbol_rows
from gsvckpt.sovits.official import OFFICIAL, Match

from .trees import checkpoint, hparams, identity, optimizer, parameter, posix, s1_training, s2_training, small, state, tensor


def facts(found: Identity) -> tuple[str, str | None]:
    return found.kind, found.version


@pytest.mark.parametrize(
    ("layout", "version", "head"),
    [
        ("sovits-v1-small", "v1", "PK"),
        ("sovits-v2-small", "v2", "PK"),
        ("sovits-v2Pro-small", "v2Pro", "05"),
        ("sovits-v2ProPlus-small", "v2ProPlus", "06"),
        ("sovits-v3", "v3", "PK"),
        ("sovits-v4", "v4", "PK"),
    ],
)
def test_small_weights(layout: str, version: str, head: str) -> None:
    found = identity(small(state(layout), version), "SoVITS_weights/xxx_e8_s16.pth", head)
    assert facts(found) == ("sovits-weights", version)
    assert (found.family, found.state_path, found.lora_rank, found.notes) == ("sovits-generator", ("weight",), None, ())
    assert (found.progress.epoch, found.progress.step) == (8, 16)


@pytest.mark.parametrize(
    ("layout", "version"), [("sovits-v1-small", "v1"), ("sovits-v2-small", "v2"), ("sovits-v2Pro-small", "v2Pro"), ("sovits-v2ProPlus", "v2ProPlus")]
)
def test_up_to_v2pro_the_tensors_suffice(layout: str, version: str) -> None:
    assert identity({"weight": state(layout)}).version == version


@pytest.mark.parametrize("version", ["v1", "v2", "v2Pro", "v2ProPlus"])
def test_enc_q_makes_a_base(version: str) -> None:
    found = identity(small(state(f"sovits-{version}"), version, info="pretrained"), "mine.pth")
    assert facts(found) == ("sovits-generator-base", version)


@pytest.mark.parametrize(
    ("root", "name", "expected"),
    [
        (small({}, "v3"), "s2Gv3.pth", ("sovits-weights", "v3")),  # its info counts epochs: a fine-tune that was renamed
        (small({}, "v3", info=None), "s2Gv3.pth", ("sovits-generator-base", "v3")),
        (small({}, "v3", info="pretrained_s2G_v3"), "mine.pth", ("sovits-generator-base", "v3")),
        (small({}, None, info="pretrained_s2G_v4"), "mine.pth", ("sovits-generator-base", "v4")),
        (small({}, "v3", info=None), "mine.pth", ("sovits-weights", "v3")),
        ({"weight": {}}, "mine.pth", ("sovits-generator-base", None)),  # no config: inference cannot open it, the trainers can
    ],
)
def test_v3_and_v4_bases_have_the_tensors_of_fine_tunes(root: dict[str, object], name: str, expected: tuple[str, str | None]) -> None:
    assert facts(identity({**root, "weight": state("sovits-v3")}, name)) == expected


def test_an_official_header_makes_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(file for file in OFFICIAL if file.basename == "s2Gv4.pth")
    monkeypatch.setattr(kinds, "lookup", lambda size, md5: Match(file, "header and size"))
    found = identity(small(state("sovits-v4"), info=None), "renamed.pth")
    assert facts(found) == ("sovits-generator-base", "v4")
    assert "the first 8 KiB are those of s2Gv4.pth" in found.version_evidence


@pytest.mark.parametrize(
    ("config", "info", "name", "head", "expected"),
    [
        ({"version": "v3"}, None, "x.pth", "04", "v4"),  # the head outweighs the config
        ({"model": {"version": "v4"}, "version": "v3"}, None, "x.pth", "PK", "v4"),
        ({"version": "V4"}, None, "x.pth", "PK", "v4"),
        ({"version": "v4"}, "pretrained_s2G_v4", "x.pth", "PK", "v4"),
        ({}, "pretrained_s2G_v4", "x.pth", "PK", "v4"),
        ({"save_weight_dir": "SoVITS_weights_v4"}, None, "x.pth", "PK", "v4"),
        ({"save_weight_dir": posix("a", "SoVITS_weights_v3")}, None, "x.pth", "PK", "v3"),
        ({}, None, "SoVITS_weights_v4/x.pth", "PK", "v4"),
        ({}, None, "x.pth", "07", "v4"),
        ({}, None, "x.pth", "02", "v3"),
        ({}, None, "x.pth", "PK", None),
        ({"version": "v2"}, None, "SoVITS_weights/x.pth", "PK", None),
    ],
)
def test_v3_or_v4_is_told_by_what_stands_beside_the_tensors(config: dict[str, object], info: object, name: str, head: str, expected: object) -> None:
    found = identity({"weight": state("sovits-v3"), "config": hparams(config), "info": info}, name, head)
    assert found.version == expected
    assert found.versions == ((expected,) if expected else ("v3", "v4"))
    assert found.version_evidence[0] == "cfm tensors: v3 or v4"


def test_a_plain_dict_config_serves_as_well() -> None:
    assert identity({"weight": state("sovits-v3"), "config": {"version": "v4"}, "info": "1epoch_2iteration"}).version == "v4"


def test_contradictions_are_told() -> None:
    found = identity(small(state("sovits-v2-small"), "v2Pro"), head="06")
    assert found.version == "v2"
    assert found.notes == (
        "head bytes 06, but this is v2",
        "config.model.version is v2Pro, but this is v2",
        "config.version is v2Pro, but this is v2",
    )


def test_a_custom_symbol_table_is_told_by_the_reference_encoder() -> None:
    weights = state("sovits-v1-small") | {"enc_p.text_embedding.weight": tensor(151, 192)}
    found = identity(small(weights))
    assert found.version == "v1"
    assert found.version_evidence == ("enc_p.text_embedding has 151 rows, a custom symbol table", "ref_enc reads 1025 bins")


def test_rows_and_reference_encoder_may_disagree() -> None:
    weights = state("sovits-v2-small") | {"ref_enc.spectral.0.fc.weight": tensor(128, 1025)}
    found = identity(small(weights, "v2"))
    assert (found.version, found.notes) == ("v2", ("ref_enc reads 1025 bins, as in v1",))


@pytest.mark.parametrize(("version", "head", "rank"), [("v3", "03", 32), ("v4", "04", 64)])
def test_lora_weights(version: str, head: str, rank: int) -> None:
    root = small(state(f"lora-{version}", rank), version, lora_rank=rank)
    found = identity(root, f"SoVITS_weights_{version}/x_e8_s16_l{rank}.pth", head)
    assert facts(found) == ("sovits-lora", version)
    assert (found.lora_rank, found.notes) == (rank, ())


def test_a_wrong_lora_rank_is_told() -> None:
    found = identity(small(state("lora-v3", 16), "v3", lora_rank=32), "x_e8_s16_l64.pth", "03")
    assert found.lora_rank == 16
    assert found.notes == ("lora_rank says LoRA rank 32, but the matrices have 16 rows", "the name says LoRA rank 64, but the matrices have 16 rows")


@pytest.mark.parametrize(
    ("layout", "name", "kind", "version"),
    [
        ("sovits-v1", "G_16.pth", "sovits-generator-training", "v1"),
        ("sovits-v2ProPlus", "G_16.pth", "sovits-generator-training", "v2ProPlus"),
        ("sovits-v3", "G_16.pth", "sovits-generator-training", None),
        ("sovits-v3", "logs/x/logs_s2_v3/G_16.pth", "sovits-generator-training", "v3"),
        ("lora-training-v4", "logs/x/logs_s2_v4_lora_32/G_16.pth", "sovits-generator-training", "v4"),
        ("discriminator-v2", "D_16.pth", "sovits-discriminator-training", None),
        ("discriminator-v2", "logs/x/logs_s2_v2/D_16.pth", "sovits-discriminator-training", "v2"),
        ("discriminator-v2Pro", "logs/x/logs_s2_v2ProPlus/D_16.pth", "sovits-discriminator-training", "v2ProPlus"),
    ],
)
def test_s2_training_files(layout: str, name: str, kind: str, version: str | None) -> None:
    found = identity(s2_training(OrderedDict(state(layout))), name)
    assert facts(found) == (kind, version)
    assert (found.state_path, found.progress.epoch, found.progress.step) == (("model",), 8, 16)
    assert found.lora_rank == (32 if "lora" in layout else None)


def test_a_training_file_without_its_optimizer_is_still_one() -> None:
    assert identity({**s2_training(state("sovits-v2")), "optimizer": None}).kind == "sovits-generator-training"
    assert identity({**s1_training(state("gpt-v2")), "optimizer_states": [], "lr_schedulers": []}).kind == "gpt-training"


def test_discriminators_say_what_remains() -> None:
    six, eight = (identity({"weight": state(name)}, "s2D.pth") for name in ("discriminator-v1", "discriminator-v2ProPlus"))
    assert facts(six) == facts(eight) == ("sovits-discriminator-base", None)
    assert (six.version_evidence, eight.version_evidence) == (("6 discriminators: v1 or v2",), ("8 discriminators: v2Pro or v2ProPlus",))
    assert eight.versions == ("v2Pro", "v2ProPlus")


@pytest.mark.parametrize(("layout", "version", "rows"), [("gpt-v1", "v1", 512), ("gpt-v2", "v2", 732)])
def test_gpt(layout: str, version: str, rows: int) -> None:
    weights = identity({"weight": state(layout), "config": {"model": {}}, "info": "GPT-e2"}, "GPT_weights_v2Pro/xxx-e2.ckpt")
    training = identity(s1_training(state(layout)), "logs/xxx/logs_s1_v2/ckpt/epoch=1-step=12.ckpt")
    assert (facts(weights), facts(training)) == (("gpt-weights", version), ("gpt-training", version))
    assert str(rows) in weights.version_evidence[0]
    assert (weights.progress.epoch, training.progress.epoch, training.progress.step, training.notes) == (2, 2, 12, ())


def test_a_custom_phoneme_table_leaves_the_version_open() -> None:
    weights = state("gpt-v2") | {"model.ar_text_embedding.word_embeddings.weight": tensor(800, 512)}
    assert facts(identity({"weight": weights})) == ("gpt-weights", None)


def test_vocoders() -> None:
    bigvgan = {f"{name}.weight": tensor(2) for name in ("ups.0.0", "resblocks.0.convs1.0", "conv_post")}
    bigvgan |= {"conv_pre.weight": tensor(1536, 100, 7), "activation_post.act.alpha": tensor(24)}
    assert facts(identity(state("vocoder-v4"))) == ("vocoder", "v4")
    assert facts(identity({"generator": bigvgan})) == ("vocoder", "v3")
    assert facts(identity({"generator": state("vocoder-v4"), "optim_g": optimizer()})) == ("training", "v4")


def test_speaker_encoder_is_not_any_resnet() -> None:
    names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer3_ds.weight", "fuse34.local_att.0.weight", "seg_1.weight")
    encoder = {name: tensor(2) for name in names}
    assert identity(encoder).kind == "speaker-encoder"
    assert identity({name: encoder[name] for name in names[:3]}).kind == "state-dict"


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ({"model": {"a": tensor(1)}, "optimizer": optimizer()}, "training"),
        ({"model": {"a": tensor(1)}, "optimizer": None}, "training"),
        ({"state_dict": {"a": tensor(1)}, "pytorch-lightning_version": "2.0"}, "training"),
        (optimizer(), "training"),
        ([optimizer()], "training"),
        ({"a": tensor(1)}, "state-dict"),
        ({"model": {"a": parameter(1)}}, "state-dict"),
        ([tensor(1)], "state-dict"),
        (tensor(1), "state-dict"),
        (state("gpt-v2"), "state-dict"),
        (state("sovits-v2-small"), "state-dict"),
        ({"enc_p.emb_phone.weight": tensor(1), "dec.conv_pre.weight": tensor(1), "ref_enc.gru.weight": tensor(1)}, "state-dict"),
        ({}, "unknown"),
        ([], "unknown"),
        (None, "unknown"),
        ("text", "unknown"),
        (Opaque(Global("os", "system"), "reduce", ("x",)), "unknown"),
    ],
)
def test_files_of_others(root: object, expected: str) -> None:
    assert identity(root).kind == expected


def test_a_bare_state_dict_still_has_family_and_version() -> None:
    found = identity(state("sovits-v2Pro"))
    assert (found.kind, found.family, found.version, found.state_path) == ("state-dict", "sovits-generator", "v2Pro", ())


@pytest.mark.parametrize("odd", [3, None, "x", [], tensor(1), {}, Opaque(Global("a", "b"), "reduce", 5), {(): {None: 1.5}}, float("nan")])
def test_odd_values_anywhere_raise_nothing(odd: object) -> None:
    weights = state("lora-v3") | {"enc_p.text_embedding.weight": tensor(), "ref_enc.spectral.0.fc.weight": tensor(3)}
    for key in ("weight", "config", "info", "lora_rank", "model", "iteration", "state_dict", "epoch", "hyper_parameters", "optimizer"):
        assert identity({**small(weights), key: odd}).kind
        assert identity({key: odd, odd if isinstance(odd, (str, int)) else 1: odd}).kind
    assert identity({"weight": {"dec.conv_pre.weight": tensor(), "sv_emb.weight": tensor(), "discriminators": tensor(), "ge_to512.x": odd}}).kind


def test_the_head_counts_only_in_a_zip() -> None:
    found = checkpoint(small(state("sovits-v3"), info="1epoch_2iteration"), None)
    assert identify(found, "x.pth", b"07\3\4").version is None


def test_symbol_rows() -> None:
    assert symbol_rows(state("sovits-v1")) == 322
    assert symbol_rows(state("lora-v3")) is None
    assert symbol_rows({"enc_p.text_embedding.weight": tensor()}) is None
