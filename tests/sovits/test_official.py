from __future__ import annotations

from gsvckpt.sovits.official import OFFICIAL, candidates, lookup, lookup_sha256


def test_header_and_size() -> None:
    match = lookup(769_025_545, "4f26b9476d0c5033e04162c486074374")
    assert match is not None and match.file.name == "gsv-v4-pretrained/s2Gv4.pth" and match.confidence == "header and size"


def test_a_header_with_another_size_is_not_the_file() -> None:
    assert lookup(769_025_544, "4f26b9476d0c5033e04162c486074374") is None


def test_a_header_whose_size_nobody_stated_says_so() -> None:
    match = lookup(1, "DC3C97E17592963677A4A1681F30C653")
    assert match is not None and match.file.name == "s2G488k.pth" and match.confidence == "header; its exact size is not known"


def test_unknown_header() -> None:
    assert lookup(769_025_545, "0" * 32) is None


def test_sha256_tells_how_many_confirm_it() -> None:
    several = lookup_sha256("0f8ead815234365edf045c6d86370ed6e4f440e8195be77ff0ea72684ad406a5")
    single = lookup_sha256("F33ABB1920076D988E1711D5F41B5C9C6D7F92575B4ACF0AD4FAE6A4EBF0CF19")
    assert several is not None and (several.file.basename, several.confidence) == ("s2Gv2Pro.pth", "SHA-256, seen in 5 repositories")
    assert single is not None and (single.file.basename, single.confidence) == ("s2Gv3.pth", "SHA-256, single source")
    assert lookup_sha256("") is None


def test_candidates_are_worth_a_full_hash() -> None:
    assert [file.name for file in candidates(155_284_856)] == ["s1v3.ckpt"]
    assert candidates(769_025_545) == ()  # its header is known, which is cheaper
    assert candidates(5) == ()


def test_the_table_is_well_formed() -> None:
    for digests, length in (([file.sha256 for file in OFFICIAL if file.sha256], 64), ([file.md5_8k for file in OFFICIAL if file.md5_8k], 32)):
        assert len(digests) == len(set(digests))
        assert all(len(digest) == length and set(digest) <= set("0123456789abcdef") for digest in digests)
    assert len({file.name for file in OFFICIAL}) == len(OFFICIAL)
    assert all((file.sources > 0) == (file.sha256 is not None) for file in OFFICIAL)
