"""What of a URL may be shown, and that its secrets are known again."""

from __future__ import annotations

import pytest

from gsvckpt.files import secrets
from gsvckpt.files.paths import name_of
from gsvckpt.files.secrets import conceal, forget, holds_secrets, redact, reveal


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:word@host:8080/a/b.pth", "https://host:8080/a/b.pth"),
        ("https://token@host/b.pth", "https://host/b.pth"),
        ("https://signed/b.pth?X-Amz-Signature=abcdef&X-Amz-Date=1", "https://signed/b.pth"),
        ("https://host/c.pth#token=abcdef", "https://host/c.pth"),
        ("s3://bucket/take #2.pth", "s3://bucket/take #2.pth"),
        ("sftp://me:word@host/b.pth", "sftp://host/b.pth"),
        ("ftp://me:w@rd@host/b.pth", "ftp://host/b.pth"),
        ("s3://bucket/G_1.pth", "s3://bucket/G_1.pth"),
        ("abfs://box@account/b.pth", "abfs://box@account/b.pth"),
        ("hf://user/repo@main/b.pth", "hf://user/repo@main/b.pth"),
        ("s3://bucket/epoch=1 step=2.ckpt", "s3://bucket/epoch=1 step=2.ckpt"),
    ],
)
def test_secrets_are_not_shown_and_are_known_again(url, shown):
    assert conceal(url) == shown
    assert reveal(shown) == url


def test_options_are_concealed_too():
    assert conceal("--output=https://me:word@host/out/") == "--output=https://host/out/"
    assert conceal("-ohttps://me:word@other/out/") == "-ohttps://other/out/"
    assert reveal("https://other/out/") == "https://me:word@other/out/"
    assert conceal("--layout=auto") == "--layout=auto"


def test_urls_that_differ_only_in_their_query_stay_two():
    one, two = conceal("https://host/get?id=1"), conceal("https://host/get?id=2")
    assert one != two
    assert (reveal(one), reveal(two)) == ("https://host/get?id=1", "https://host/get?id=2")
    assert conceal("https://host/get?id=2") == two
    assert name_of(two) == "get"


def test_texts_of_others_lose_secrets_wherever_they_stand():
    conceal("https://me:longword@host/x.pth?sig=abcdef0123")
    told = redact("403 for url='https://me:longword@host/x.pth?sig=abcdef0123' (signature abcdef0123, user me:longword)")
    assert told == "403 for url='https://host/x.pth' (signature ..., user ...)"


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(secrets, "_full", {})
    monkeypatch.setattr(secrets, "_MOST", 3)
    shown = [conceal(f"https://host/{n}.pth?signature=abcd{n}") for n in range(9)]
    assert len(secrets._full) == 3
    assert reveal(shown[-1]) == "https://host/8.pth?signature=abcd8"


def test_secrets_are_forgotten_when_a_new_command_line_begins():
    assert not holds_secrets()
    conceal("https://host/plain.pth")
    assert not holds_secrets()
    shown = conceal("https://me:word@host/x.pth")
    assert holds_secrets()
    assert reveal(shown) == "https://me:word@host/x.pth"
    forget()
    assert not holds_secrets()
    assert reveal(shown) == shown == "https://host/x.pth"
