"""Paths of this machine and URLs: their parts, and what leads to a folder."""

from __future__ import annotations

import os

import pytest

from gsvckpt.files.paths import below, folder_of, is_folder, is_url, join, name_of


@pytest.mark.parametrize("path", ["s3://bucket/a.pth", "https://host/a", "hf://user/repo/a.pth", "memory://a", "abfs+x://a", "S3://bucket/a"])
def test_urls(path):
    assert is_url(path)


@pytest.mark.parametrize("path", ["a.pth", "/a/b.pth", "C:/voices/a.pth", "C://voices/a.pth", "s3:/a", "://a", "epoch=1://", "", "a b://c"])
def test_no_urls(path):
    assert not is_url(path)


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
