"""Find the config of a SoVITS training file, which holds none itself."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError, MissingError, UsageError
from gsvckpt.files import toml
from gsvckpt.files.paths import is_url
from gsvckpt.hints import Hint
from gsvckpt.model import Opaque
from gsvckpt.sovits.config import find_config, simple_form
from gsvckpt.sovits.runs import LARGEST_CONFIG, find_config_file

NULLS = "# null, which TOML cannot say: "  # before the places of nulls, in what `gsvckpt inspect --config` prints
_MOST_VALUES = 20_000  # a config has about 100
_DEEPEST = 32


class FoundConfig(NamedTuple):
    """A config, and where it was found."""

    config: dict[str, object]
    path: str


def find(path: str, explicit: str | None) -> FoundConfig:
    """The config.json beside a training file or in a folder above it, or the file that was named.

    Raises MissingError where there is none, and UsageError for a named file that is no config.
    """
    if explicit is not None:
        return FoundConfig(_read(explicit), explicit)
    place = find_config_file(path)
    if place is not None:
        return FoundConfig(_read(place), place if os.path.isabs(path) else os.path.relpath(place))
    looked = "files beside a URL are not searched" if is_url(path) else "there is no config.json beside it or in the folders above"
    raise MissingError(
        f"a training file holds no config, and {looked}",
        where="config",
        hint="--config logs/EXPERIMENT/config.json, or --config with small weights of the same run",
    )


def _read(path: str) -> dict[str, object]:
    """A JSON object, a TOML document, or the config of a checkpoint, as nested dicts."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_CONFIG + 1)
    except OSError as error:
        raise MissingError(f"cannot be read: {error.strerror}", path=path, where="--config") from error
    is_json = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"  # editors on Windows put that mark in front
    found = _parse_json(path, data) if is_json else None if path.lower().endswith(".json") else _parse_toml(path, data)
    if found is None:
        return _of_checkpoint(path)
    config = _PlainValues(path).convert(found, 0)
    if not isinstance(config, dict):
        raise UsageError("is not a JSON object", where="config", path=path)
    return config


def _parse_json(path: str, data: bytes) -> object:
    try:
        return json.loads(data[:LARGEST_CONFIG].decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is not valid JSON ({str(error)[:80]})", where="config", path=path) from error


def _parse_toml(path: str, data: bytes) -> dict[str, object] | None:
    """What `gsvckpt inspect --config` prints, with its nulls; None for what is no TOML. A file of that name has its mistakes told."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        found = toml.parse(path, text) if len(data) <= LARGEST_CONFIG else {}
    except ValueError:
        return None
    except UsageError:
        if path.lower().endswith(".toml"):
            raise
        return None
    for line in text.splitlines():
        for place in line.removeprefix(NULLS).split(", ") if line.startswith(NULLS) else ():
            *sections, key = place.split(".")
            section: object = found
            for name in sections:
                section = section.get(name) if isinstance(section, dict) else None
            if isinstance(section, dict):
                section.setdefault(key, None)
    return found or None


def _of_checkpoint(path: str) -> dict[str, object]:
    try:
        with open_checkpoint(path) as checkpoint:
            config = _PlainValues(path).convert(find_config(checkpoint.root), 0)
    except UsageError:
        raise
    except GsvError as error:
        hint = Hint("writes the config of small weights", "gsvckpt inspect <WEIGHTS> --config")
        raise UsageError(f"is neither JSON nor TOML nor a checkpoint: {error.why}", where="--config", path=path, hint=hint) from error
    if not isinstance(config, dict):
        raise UsageError("holds no config", where="--config", path=path)
    return {str(key): value for key, value in config.items()}


class _PlainValues:
    """Nested HParams as nested dicts, and nothing but plain values: what a config brings along goes into the output's pickle."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._left = _MOST_VALUES

    def convert(self, value: object, depth: int) -> object:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise UsageError("has a config that is too large", where="--config", path=self._path)
        if isinstance(value, Opaque):
            value = simple_form(value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict) and all(type(key) is str for key in value):
            return {key: self.convert(part, depth + 1) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.convert(part, depth + 1) for part in value]
        name = str(value.name) if isinstance(value, Opaque) else type(value).__name__
        raise UsageError(f"holds a {name} in its config, which is not a plain value", where="--config", path=self._path)
