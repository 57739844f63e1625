"""Files that the GPT-SoVITS project publishes or tells users to download, and how certainly a file is one of them.

Sizes and SHA-256 are of Hugging Face lj1995/GPT-SoVITS revision 336b2ec4e8d4ac74740798dd40af44e74659ecaf and the sources its README names; the
MD5 of the first 8 KiB is upstream's own table (process_ckpt.py, today and at 921ac6c). `sources` counts the independent public repositories that
pin the SHA-256.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class OfficialFile(NamedTuple):
    """One published file. `size` and the digests are None if no source states them exactly."""

    name: str
    size: int | None = None
    sha256: str | None = None
    sources: int = 0
    md5_8k: str | None = None

    @property
    def basename(self) -> str:
        return self.name.rsplit("/", 1)[-1]


class Match(NamedTuple):
    """A file recognised as official, and in words how sure that is."""

    file: OfficialFile
    confidence: str


_V2 = "gsv-v2final-pretrained"
_V4 = "gsv-v4-pretrained"
_HUBERT = "chinese-hubert-base"
_ROBERTA = "chinese-roberta-wwm-ext-large"
_BIGVGAN = "models--nvidia--bigvgan_v2_24khz_100band_256x"

OFFICIAL: tuple[OfficialFile, ...] = (
    OfficialFile("s2G488k.pth", None, "020a014e1e01e550e510f2f61fae5e5f5b6aab40f15c22f1f12f724df507e835", 1, "dc3c97e17592963677a4a1681f30c653"),
    OfficialFile("s2D488k.pth", None, "fc579c1db3c1e21b721001cf99d7a584214280df19b002e200b630a34fa06eb8", 1),
    OfficialFile("s1bert25hz-2kh-longer-epoch=68e-step=50232.ckpt", None, "b1c1e17e9c99547a89388f72048cd6e1b41b5a18b170e86a46dfde0324d63eb1", 1),
    OfficialFile(
        f"{_V2}/s2G2333k.pth", None, "924fdccaa3c574bf139c25c9759aa1ed3b3f99e19a7c529ee996c2bc17663695", 4, "6642b37f3dbb1f76882b69937c95a5f3"
    ),
    OfficialFile(f"{_V2}/s2D2333k.pth", None, "8ae7fe8dd8c8f2e718de359e00edac88b0c71ab2fd10b07ad4cc45070eb8a836", 1),
    OfficialFile(
        f"{_V2}/s1bert25hz-5kh-longer-epoch=12-step=369668.ckpt", None, "732f94e63b148066e24c7f9d2637f3374083e637635f07fbdb695dee20ddbe1f", 5
    ),
    OfficialFile("s1v3.ckpt", 155_284_856, "87133414860ea14ff6620c483a3db5ed07b44be42e2c3fcdad65523a729a745a", 10),
    OfficialFile("s2Gv3.pth", None, "f33abb1920076d988e1711d5f41b5c9c6d7f92575b4acf0ad4fae6a4ebf0cf19", 1, "43797be674a37c1c83ee81081941ed0f"),
    OfficialFile(
        f"{_V4}/s2Gv4.pth",
        769_025_545,
        "906fe22f48c3e037a389df291d4d32a9414e15dbb8f9628643e83aaced109ea4",
        3,
        "4f26b9476d0c5033e04162c486074374",
    ),
    OfficialFile(f"{_V4}/vocoder.pth", 57_781_109, "4d611913df7b12d49e8976c944558d2d096816365edfc6c35a9e85b67dd14ed9", 3),
    OfficialFile(
        "v2Pro/s2Gv2Pro.pth", 162_303_657, "0f8ead815234365edf045c6d86370ed6e4f440e8195be77ff0ea72684ad406a5", 5, "c7e9fce2223f3db685cdfa1e6368728a"
    ),
    OfficialFile("v2Pro/s2Dv2Pro.pth", None, "257a7f36ae49e9ff08790d2cd3d398592530852caba810197f8606e884a52c54", 1),
    OfficialFile(
        "v2Pro/s2Gv2ProPlus.pth",
        200_125_741,
        "d42a22bbbf65fb2bbdd45ad6a66841156977db45c7aabe0a6992ff378d9c7d3b",
        8,
        "66b313e39455b57ab1b0bc0b239c9d0a",
    ),
    OfficialFile("v2Pro/s2Dv2ProPlus.pth", 126_432_639, "635cd84bf6f7f9b8d41c88c7106f81d782c794c61f931845214ea037b0c5bef2", 4),
    # First editions, replaced on the day they came out (2025-06-04, 921ac6c to e909c93); today's upstream no longer knows them.
    OfficialFile("v2Pro/s2Gv2Pro_pre1.pth", md5_8k="1dbcf2d280aff5dc4713c7b56b5c9463"),
    OfficialFile("v2Pro/s2Gv2ProPlus_pre1.pth", md5_8k="2581b83257dbb1c91d1278e40c6b7a2f"),
    OfficialFile("sv/pretrained_eres2netv2w24s4ep4.ckpt", 107_528_697, "4f5a0bf73c61eb41b174e1bb54e7ee3c83233892be8e0af1f187024e8e581a35", 6),
    OfficialFile(f"{_BIGVGAN}/bigvgan_generator.pt", 450_088_331, "6f9c5715550c9d0f11159ceb8935638da5aeb19e27d1e63677632df095e376f5", 6),
    OfficialFile(f"{_BIGVGAN}/config.json", 1_402, "d77e2c96583ca2296ac112a56ec7cc6bd5da4bf7681ceff18448bedc4fcf6512", 5),
    OfficialFile(f"{_HUBERT}/pytorch_model.bin", 188_811_417, "24164f129c66499d1346e2aa55f183250c223161ec2770c0da3d3b08cf432d3c", 6),
    OfficialFile(f"{_HUBERT}/config.json", 1_449, "c3e5060a1277e0f078cc6be9da4528a605dba6ece93018981fe2c820e5c7b103", 4),
    OfficialFile(f"{_HUBERT}/preprocessor_config.json", 212, "dcd684124d06722947939d41ea6ae58dbf10968c60a11a29f23ddc602c64a29b", 4),
    OfficialFile(f"{_ROBERTA}/pytorch_model.bin", 651_225_145, "e53a693acc59ace251d143d068096ae0d7b79e4b1b503fa84c9dcf576448c1d8", 5),
    OfficialFile(f"{_ROBERTA}/config.json", 963, "3d57de2fd7e80d0e5c8ff194f0bbb6baa10df7e43fc262a0cc71298a78b0a3e5", 4),
    OfficialFile(f"{_ROBERTA}/tokenizer.json", 268_962, "173796956820ea27bd14f76bf28162607ff4254807e2948253eb5b46f5bb643b", 4),
    OfficialFile("G2PWModel.zip", 588_856_634, "46292be0374a49308069233cd5c147ae4c41806558e4781a2467a31a4d8099da", 2),
    OfficialFile("G2PWModel_1.1.zip", None, "b116f6930a7ee55eef6576a8d8e14bf40c1106583439e8ae924b901512379c64", 1),
    OfficialFile("G2PWModel/g2pW.onnx", 635_212_732, "2eb3c71fd95117b2e1abef8d2d0cd78aae894bbe7f0fac105ddc9c32ce63cbd0", 1),
)


_COMMON = frozenset({"pytorch_model.bin", "config.json", "preprocessor_config.json", "tokenizer.json", "vocoder.pth"})


@lru_cache(maxsize=1)  # several ask for the same file's
def digest_header(head: bytes) -> str:
    """The MD5 of a file's first 8,192 bytes, by which GPT-SoVITS knows its bases (process_ckpt.py:100-126)."""
    return md5_hex(head[:8192])


def md5_hex(data: bytes) -> str:
    """The MD5 of some bytes. It guards nothing."""
    try:
        from _md5 import md5  # type: ignore[import-not-found,unused-ignore]  # CPython's own; hashlib would load OpenSSL, which takes 4 ms
    except ImportError:
        from hashlib import md5
    return str(md5(data, usedforsecurity=False).hexdigest())


def lookup(size: int, md5_8k: str) -> Match | None:
    """The official file with this header. Its size must be the known one, else it is cut off or something else with the same header.

    The header holds names and layout but no weights, so this is no proof: a SHA-256 is.
    """
    for file in OFFICIAL:
        if file.md5_8k == md5_8k.lower():
            if file.size is None:
                return Match(file, "header; its exact size is not known")
            return Match(file, "header and size") if file.size == size else None
    return None


def lookup_sha256(hexdigest: str) -> Match | None:
    """The official file with this SHA-256. One that a single repository pins is unconfirmed, and the confidence says so."""
    for file in OFFICIAL:
        if file.sha256 == hexdigest.lower():
            return Match(file, f"SHA-256, seen in {file.sources} repositories" if file.sources > 1 else "SHA-256, single source")
    return None


@lru_cache(1)
def _by_basename() -> dict[str, list[OfficialFile]]:
    found: dict[str, list[OfficialFile]] = {}
    for file in OFFICIAL:
        if file.sha256 is not None:
            found.setdefault(file.basename, []).append(file)
    return found


def named(path: str) -> tuple[OfficialFile, ...]:
    """Official files of this name whose SHA-256 is known: by the last part of the path, or with its folder where many files are called so."""
    folder, _, base = path.replace("\\", "/").rpartition("/")
    parent = folder.rpartition("/")[2]
    return tuple(file for file in _by_basename().get(base, ()) if base not in _COMMON or file.name == f"{parent}/{base}")


def candidates(size: int) -> tuple[OfficialFile, ...]:
    """Official files of exactly this size whose header no source states: reading the whole file for its SHA-256 is worth it."""
    return tuple(file for file in OFFICIAL if file.size == size and file.md5_8k is None)
