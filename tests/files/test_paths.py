"""What may be shown of a URL, and the parts of paths that are URLs."""

from __future__ import annotations

import os

import pytest

from gsvckpt.files import paths
from gsvckpt.files.paths import below, conceal, folder_of, forget, holds_secrets, is_folder, is_url, join, name_of, redact, reveal


@pytest.mark.parametrize("path", ["s3://bucket/a.pth", "https://host/a", "hf://user/repo/a.pth", "memory://a", "abfs+x://a", "S3://bucket/a"])
def test_urls(path):
    assert is_url(path)


@pytest.mark.parametrize("path", ["a.pth", "/a/b.pth", "C:/voices/a.pth", "C://voices/a.pth", "s3:/a", "://a", "epoch=1://", "", "a b://c"])
def test_no_urls(path):
    assert not is_url(path)


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


def test_parts():
    assert name_of("s3://bucket/logs/G_1.pth") == "G_1.pth"
    assert name_of("s3://bucket/logs/") == "logs"
    assert folder_of("s3://bucket/logs/G_1.pth") == "s3://bucket/logs"
    assert join("s3://bucket/logs/", "G_1.pth") == join("s3://bucket/logs", "G_1.pth") == "s3://bucket/logs/G_1.pth"
    assert folder_of("memory://out.pth") == "memory://"
    assert join("memory://", "out.pth") == "memory://out.pth"
    assert join("logs", "G_1.pth") == os.path.join("logs", "G_1.pth")
    assert below("s3://bucket/logs/", "s3://bucket/logs/a/G_1.pth") == "a/G_1.pth"


def test_folders(tmp_path):
    assert is_folder("s3://bucket/logs/")
    assert not is_folder("s3://bucket/logs")
    assert is_folder(str(tmp_path))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(paths, "_full", {})
    monkeypatch.setattr(paths, "_MOST", 3)
    shown = [conceal(f"https://host/{n}.pth?signature=abcd{n}") for n in range(9)]
    assert len(paths._full) == 3
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
