"""The reference layouts against files of every version, whole and with one thing wrong; and the config that GPT-SoVITS reads."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
from support.builders import View, hparams, row_major, tensor, torch_zip
from support.verified import ids, remarkable, verify

from gsvckpt.commands.verify.checks.layouts import require_layout
from gsvckpt.commands.verify.result import Options
from gsvckpt.errors import UsageError
from gsvckpt.sovits import layouts, upstream

QUICK = Options(quick=True)
VOICES = {
    "v1": "sovits-v1-small",
    "v2": "sovits-v2-small",
    "v2Pro": "sovits-v2Pro-small",
    "v2ProPlus": "sovits-v2ProPlus-small",
}


def state(name: str) -> dict[str, View]:
    """All tensors of a layout, as views of one small storage: --quick reads no values, and files stay small."""
    shapes = {tensor_name: shape for tensor_name, (_, shape) in layouts.layout(name).items()}
    largest = max(1, *(_numel(shape) for shape in shapes.values()))
    store = tensor("float16", (largest,)).store
    return {tensor_name: View(store, shape, row_major(shape)) for tensor_name, shape in shapes.items()}


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def config(version: str) -> dict[str, object]:
    model = dict.fromkeys(("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout"), 192)
    model |= dict.fromkeys(("resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates", "upsample_kernel_sizes"), (1,))
    model |= {
        "upsample_initial_channel": 768 if version == "v2ProPlus" else 512,
        "gin_channels": 1024 if "Pro" in version else 512,
        "version": version,
    }
    data = dict.fromkeys(("filter_length", "sampling_rate", "hop_length", "win_length", "n_speakers"), 300)
    return {"train": {"segment_size": 20480}, "data": data, "model": model}


def voice(version: str, *, weight: dict[str, View] | None = None, settings: dict[str, object] | None = None) -> bytes:
    settings = config(version) if settings is None else settings
    tree = OrderedDict(
        weight=state(VOICES[version]) if weight is None else weight,
        config=hparams({k: hparams(v) for k, v in settings.items()}),
        info="8epoch_16iteration",
    )
    return torch_zip(tree, head=upstream.head_for(version, lora=False).encode())


def layout_findings(path: Path, data: bytes, options: Options = QUICK):
    return [finding for finding in remarkable(verify(path, data, options)) if finding.check.startswith("layout")]


@pytest.mark.parametrize("version", VOICES)
def test_a_whole_voice_has_nothing_wrong(tmp_path: Path, version: str) -> None:
    assert layout_findings(tmp_path / "x_e8_s16.pth", voice(version)) == []


def test_what_users_take_for_damage_is_said_to_be_normal(tmp_path: Path) -> None:
    result = verify(tmp_path / "x_e8_s16.pth", voice("v2"), QUICK)
    assert "enc_q" in next(finding.why for finding in result.findings if finding.check == "layout.missing" and finding.severity == "info")


@pytest.mark.parametrize("version", VOICES)
@pytest.mark.parametrize(
    ("change", "check", "severity"),
    [
        (lambda weight: weight.pop("enc_p.proj.weight"), "layout.missing", "error"),
        (lambda weight: weight.update({"enc_p.more": tensor("float16", (2,))}), "layout.extra", "warning"),
        (lambda weight: weight.update({"enc_p.proj.bias": tensor("float16", (3,))}), "layout.shape", "error"),
        (lambda weight: weight.update({"enc_p.proj.bias": tensor("int64", (384,))}), "layout.dtype", "error"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_one_thing_wrong(tmp_path: Path, version: str, change, check: str, severity: str) -> None:
    weight = state(VOICES[version])
    change(weight)
    (finding,) = layout_findings(tmp_path / "x_e8_s16.pth", voice(version, weight=weight))
    assert (finding.check, finding.severity) == (check, severity)


def test_gpt_weights_are_loaded_strictly(tmp_path: Path) -> None:
    weight = state("gpt-v2")
    weight["model.more"] = tensor("float16", (1,))
    settings = {"data": {"max_sec": 54}, "model": dict.fromkeys(("hidden_dim", "embedding_dim", "head", "n_layer", "dropout", "EOS"), 512)}
    settings["model"] |= {"vocab_size": 1025, "phoneme_vocab_size": 732}
    (finding,) = layout_findings(tmp_path / "x-e8.ckpt", torch_zip(OrderedDict(weight=weight, config=settings, info="GPT-e8")))
    assert (finding.check, finding.severity) == ("layout.extra", "error")


@pytest.mark.parametrize("section", ["data", "train", "model"])
def test_config_fields_that_gpt_sovits_reads(tmp_path: Path, section: str) -> None:
    settings = {key: value for key, value in config("v2").items() if key != section}
    (finding,) = layout_findings(tmp_path / "x_e8_s16.pth", voice("v2", settings=settings))
    assert finding.check == "layout.config"
    assert finding.where.startswith(f"{section}.")


def test_config_sizes_that_the_tensors_do_not_have(tmp_path: Path) -> None:
    settings = config("v2")
    settings["model"]["gin_channels"] = 1024
    (finding,) = layout_findings(tmp_path / "x_e8_s16.pth", voice("v2", settings=settings))
    assert (finding.where, finding.found, finding.expected) == ("config.model.gin_channels", "1024", "512")


def test_another_layout_may_be_asked_for(tmp_path: Path) -> None:
    data = voice("v2")
    assert "layout.shape" in ids(verify(tmp_path / "x_e8_s16.pth", data, QUICK._replace(layout="v1")))
    assert layout_findings(tmp_path / "x_e8_s16.pth", data, QUICK._replace(layout="none")) == []
    flat = torch_zip(state("sovits-v2-small"))
    assert layout_findings(tmp_path / "x.pth", flat, QUICK._replace(layout="sovits-v2-small")) == []


def test_unknown_layouts_are_refused() -> None:
    require_layout("v2ProPlus")
    with pytest.raises(UsageError, match="is not a layout"):
        require_layout("v9")


def test_other_models_have_no_layout(tmp_path: Path) -> None:
    assert layout_findings(tmp_path / "x.pth", torch_zip({"conv1.weight": tensor("float32", (2, 2))})) == []
