"""Tell the version of GPT-SoVITS from a set of tensors, with the reasons as short sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from gsvckpt.model import Opaque, Tensor
from gsvckpt.sovits import names
from gsvckpt.sovits.config import lookup, path_text
from gsvckpt.sovits.official import OfficialFile

Version = Literal["v1", "v2", "v2Pro", "v2ProPlus", "v3", "v4"]
Family = Literal["gpt", "sovits-generator", "sovits-discriminator", "vocoder", "speaker-encoder"]

VERSIONS: tuple[Version, ...] = ("v1", "v2", "v2Pro", "v2ProPlus", "v3", "v4")
_BY_TEXT: Mapping[str, Version] = {version.lower(): version for version in VERSIONS}  # some files have it in lower case (issue 2533)
_OFFICIAL: Mapping[str, Version] = {"s2Gv3.pth": "v3", "s2Gv4.pth": "v4"}


class Head(NamedTuple):
    """What the first two bytes of a zip mean where they are not `PK`.

    `version` is that of the files that have this head, None where none is known. `upstream` is what GPT-SoVITS takes them for (symbols, model,
    LoRA), None where it stops. `written` says that it writes such files itself.
    """

    version: Version | None
    upstream: tuple[str, str, bool] | None
    written: bool = False


# Upstream writes 03 to 06 (process_ckpt.py, s2_train.py:573); 00, 01 and 02 are in its reader since 2025-02-23 and were never written by it. The fork
# GPT-SoVITS-ko writes 02 and 07 for full v3 and v4.
HEADS: Mapping[str, Head] = {
    "00": Head(None, ("v1", "v1", False)),
    "01": Head(None, ("v2", "v2", False)),
    "02": Head("v3", ("v2", "v3", False)),
    "03": Head("v3", ("v2", "v3", True), written=True),
    "04": Head("v4", ("v2", "v4", True), written=True),
    "05": Head("v2Pro", ("v2", "v2Pro", False), written=True),
    "06": Head("v2ProPlus", ("v2", "v2ProPlus", False), written=True),
    "07": Head("v4", None),
}

_TEXT = "enc_p.text_embedding.weight"
_GPT_TEXT = "model.ar_text_embedding.word_embeddings.weight"
_REFERENCE = "ref_enc.spectral.0.fc.weight"
# Prefixes that no other VITS family has: so-vits-svc, RVC and OpenVoice share enc_p, dec, flow and even ref_enc with GPT-SoVITS.
_GENERATOR = (
    "enc_p.text_embedding.",
    "enc_p.mrte.",
    "enc_p.encoder_ssl.",
    "ref_enc.spectral.",
    "cfm.estimator.transformer_blocks.",
    "cfm.base_model.model.estimator.",
    "ge_to512.",
)


class Clues(NamedTuple):
    """All that may tell a version: the model's tensors, the tree, its raw config, the path, a zip's head, an official file of the same header."""

    tensors: Mapping[str, Tensor]
    root: object
    config: object
    path: str
    head: str
    official: OfficialFile | None

    @property
    def info(self) -> str | None:
        said = self.root.get("info") if isinstance(self.root, dict) else None
        return said if isinstance(said, str) else None


class VersionEvidence(NamedTuple):
    """The versions that remain possible (one: decided), the reasons, and contradictions."""

    versions: tuple[Version, ...] = ()
    evidence: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> Version | None:
        return self.versions[0] if len(self.versions) == 1 else None


def family_of(tensors: Mapping[str, Tensor]) -> Family | None:
    """The kind of model, by tensor names."""
    tops = {name.partition(".")[0] for name in tensors}
    if any(name.startswith("model.h.layers.") for name in tensors):
        return "gpt"
    if tops == {"discriminators"}:
        return "sovits-discriminator"
    if any(name.startswith(_GENERATOR) for name in tensors):
        return "sovits-generator"
    if {"conv_pre", "ups", "resblocks", "conv_post"} <= tops:
        return "vocoder"
    if {"conv1", "layer1", "layer3_ds", "fuse34", "seg_1"} <= tops:  # conv1 and layer1 alone are any ResNet; these are ERes2NetV2.py's own
        return "speaker-encoder"
    return None


def find_version(family: Family | None, clues: Clues) -> VersionEvidence:
    """The version of a model of this family, from tensors first."""
    if family == "gpt":
        return _gpt(clues.tensors)
    if family == "sovits-discriminator":
        return _discriminator(clues)
    if family == "vocoder":
        return _vocoder(clues.tensors)
    return _generator(clues) if family == "sovits-generator" else VersionEvidence()


def dimension(tensors: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    """The size of one axis of a tensor; None where the tensor or the axis is missing."""
    tensor = tensors.get(name)
    return tensor.shape[axis] if tensor is not None and len(tensor.shape) > axis else None


def counts_epochs(info: str) -> bool:
    """Whether an `info` text counts epochs, as upstream's save functions write it; the official bases' does not."""
    return re.match(r"(?:[0-9]+epoch_|GPT-e[0-9])", info) is not None


def _gpt(tensors: Mapping[str, Tensor]) -> VersionEvidence:
    rows = dimension(tensors, _GPT_TEXT, 0)
    if rows is None:
        return VersionEvidence()
    told = f"the phoneme table has {rows} rows"
    known: dict[int, Version] = {512: "v1", 732: "v2"}
    if rows not in known:
        return VersionEvidence(evidence=(f"{told}, which no version has",))
    return VersionEvidence((known[rows],), (told if rows == 512 else f"{told}, as in v2 and everything after it",))


def _discriminator(clues: Clues) -> VersionEvidence:
    count = len({name.split(".")[1] for name in clues.tensors if name.count(".") > 1})
    pairs: dict[int, tuple[Version, ...]] = {6: ("v1", "v2"), 8: ("v2Pro", "v2ProPlus")}
    possible = pairs.get(count, ())
    told = f"{count} discriminators" + (f": {' or '.join(possible)}" if possible else ", which no version has")
    hint = _folder(clues.path)
    if hint is not None and hint[0] in possible:
        return VersionEvidence((hint[0],), (told, hint[1]))
    return VersionEvidence(possible, (told,), (f"{hint[1]}, but the tensors say {' or '.join(possible)}",) if hint and possible else ())


def _vocoder(tensors: Mapping[str, Tensor]) -> VersionEvidence:
    bands = dimension(tensors, "conv_pre.weight", 1) or dimension(tensors, "conv_pre.weight_v", 1)
    snake = any(".activations." in name or name.startswith("activation_post.") for name in tensors)
    if bands != 100:
        return VersionEvidence()
    if snake:
        return VersionEvidence(("v3",), ("BigVGAN for 100 mel bands, the vocoder of v3",))
    channels = dimension(tensors, "conv_pre.weight", 0)
    return VersionEvidence(("v4",), ("HiFi-GAN for 100 mel bands with 512 channels, the vocoder of v4",)) if channels == 512 else VersionEvidence()


def _generator(clues: Clues) -> VersionEvidence:
    tensors = clues.tensors
    if any(name.startswith(("cfm.", "bridge.")) for name in tensors):
        return _flow_matching(clues)
    if "sv_emb.weight" in tensors:
        return _checked(_pro(clues), clues)
    return _checked(_plain(clues), clues)


def _flow_matching(clues: Clues) -> VersionEvidence:
    """v3 and v4 have the same tensors, so whatever else there is decides, the surest first."""
    evidence = "cfm tensors: v3 or v4"
    hints = _hints(clues, ("v3", "v4"))
    if not hints:
        return VersionEvidence(("v3", "v4"), (evidence,))
    version = hints[0][0]
    return VersionEvidence((version,), (evidence, *(told for said, told in hints if said == version)), _conflicts(hints, version))


def _pro(clues: Clues) -> VersionEvidence:
    channels = dimension(clues.tensors, "dec.conv_pre.weight", 0)
    known: dict[int | None, Version] = {512: "v2Pro", 768: "v2ProPlus"}
    if channels in known:
        return VersionEvidence((known[channels],), (f"sv_emb is there and dec.conv_pre has {channels} channels",))
    hints = _hints(clues, ("v2Pro", "v2ProPlus"))
    told = "sv_emb is there: v2Pro or v2ProPlus"
    return VersionEvidence((hints[0][0],), (told, hints[0][1])) if hints else VersionEvidence(("v2Pro", "v2ProPlus"), (told,))


def _plain(clues: Clues) -> VersionEvidence:
    """v1 or v2: the symbol table decides, the reference encoder where the table is custom (issue 774) or missing."""
    rows, width = dimension(clues.tensors, _TEXT, 0), dimension(clues.tensors, _REFERENCE, 1)
    by_rows: dict[int | None, Version] = {322: "v1", 732: "v2"}
    by_width: dict[int | None, Version] = {1025: "v1", 704: "v2"}
    told = () if rows is None else (f"enc_p.text_embedding has {rows} rows" + ("" if rows in by_rows else ", a custom symbol table"),)
    if rows in by_rows:
        version = by_rows[rows]
        other = by_width.get(width, version)
        return VersionEvidence((version,), told, () if other == version else (f"ref_enc reads {width} bins, as in {other}",))
    if width in by_width:
        return VersionEvidence((by_width[width],), (*told, f"ref_enc reads {width} bins"))
    hints = _hints(clues, ("v1", "v2"))
    return VersionEvidence((hints[0][0],), (*told, hints[0][1])) if hints else VersionEvidence((), told)


def _checked(found: VersionEvidence, clues: Clues) -> VersionEvidence:
    """The same evidence, with a note for every other place that names another version."""
    if found.version is None:
        return found
    hints = _hints(clues, VERSIONS)
    evidence = (*found.evidence, *(told for said, told in hints if said == found.version and told.startswith("head")))
    return VersionEvidence(found.versions, evidence, (*found.notes, *_conflicts(hints, found.version)))


def _conflicts(hints: list[tuple[Version, str]], version: Version) -> tuple[str, ...]:
    return tuple(f"{told}, but this is {version}" for said, told in hints if said != version)


def _hints(clues: Clues, wanted: tuple[Version, ...]) -> list[tuple[Version, str]]:
    """(version, what says so) outside the tensors, the surest first: head, config, info, official header, folders."""
    found: list[tuple[Version | None, str]] = []
    if clues.head in HEADS:
        found.append((HEADS[clues.head].version, f"head bytes {clues.head}"))
    for keys in (("model", "version"), ("version",)):
        said = lookup(clues.config, *keys)
        if isinstance(said, str):
            found.append((_BY_TEXT.get(said.lower()), f"config.{'.'.join(keys)} is {_BY_TEXT.get(said.lower())}"))
    if clues.info == "pretrained_s2G_v4":
        found.append(("v4", f"info is {clues.info}"))
    if clues.official is not None:
        found.append((_OFFICIAL.get(clues.official.basename), f"the first 8 KiB are those of {clues.official.basename}"))
    folder = lookup(clues.config, "save_weight_dir")
    hint = names.folder_version(f"{path_text(folder) if isinstance(folder, Opaque) else folder}/x") if folder is not None else None
    if hint is not None:
        found.append((_BY_TEXT.get(hint[0].lower()), f"config.save_weight_dir is {hint[1]}"))
    own = _folder(clues.path)
    if own is not None:
        found.append(own)
    return [(version, told) for version, told in found if version is not None and version in wanted]


def _folder(path: str) -> tuple[Version, str] | None:
    hint = names.folder_version(path)
    version = _BY_TEXT.get(hint[0].lower()) if hint else None
    return (version, f"it lies in {hint[1]}") if hint and version else None
