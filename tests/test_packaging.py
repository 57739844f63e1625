"""What is in the wheel and the source archive, built as pip builds them."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from gsvckpt import __version__

ROOT = Path(__file__).parent.parent
INFO = f"gsvckpt-{__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gsvckpt").rglob("*.py")}
    data = {"gsvckpt/py.typed", "gsvckpt/sovits/data/layouts.json"}
    presets = ("ddp", "gsv-tts-lite", "lightning", "torch-compile", "weight-norm-new", "weight-norm-old")
    data |= {f"gsvckpt/transforms/rules/presets/{name}.toml" for name in presets}
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert set(wheel.namelist()) == sources | data | about


def test_the_wheel_names_its_program_license_and_needs(wheel):
    assert "gsvckpt = gsvckpt.__main__:run" in wheel.read(f"{INFO}/entry_points.txt").decode()
    about = message_from_string(wheel.read(f"{INFO}/METADATA").decode())
    needs = {re.split("[^a-z-]", need)[0] for need in about.get_all("Requires-Dist", []) if "extra ==" not in need}
    assert (about["Version"], about["License-Expression"], about["Requires-Python"]) == (__version__, "Apache-2.0", ">=3.10")
    assert needs == {"typer", "rich", "safetensors", "numpy", "xxhash", "regex", "tomli", "tomli-w", "isal"}
    optional = [need for need in about.get_all("Requires-Dist", []) if "extra ==" in need]
    extras = {need.partition(";")[0].rstrip("0123456789.=>"): need.partition("extra == ")[2].strip("'") for need in optional}
    remote = dict.fromkeys(("fsspec[http]", "s3fs", "huggingface-hub"), "remote")
    assert extras == {"torch": "torch", "distributed": "dask", "tensorboard": "tensorboard", **remote}
    assert about["Description-Content-Type"] == "text/markdown"


def test_the_source_archive_can_be_built_and_tested(tmp_path):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/design.md",
        "docs/glossary.md",
        "gsvckpt/py.typed",
        "tests/test_packaging.py",
        "completions/_gsvckpt",
    }
    assert expected <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("demo/", "build/", ".venv/"))]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_no_large_file_is_tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    free = ("tests/data/", "gsvckpt/sovits/data/", "docs/")
    large = {name: size for name in listed if name and not name.startswith(free) and (size := (ROOT / name).stat().st_size) > 200_000}
    assert large == {}
