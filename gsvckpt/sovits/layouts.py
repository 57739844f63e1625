"""Layouts: every tensor name and shape of each version, as GPT-SoVITS's own classes have them.

The data file spells each layout as parts, and each part as a tree whose numbered children may be a range (`layers.0-23`); `rank` stands for a
LoRA's rank. `-small` is what inference files hold: everything but `enc_q` (process_ckpt.py:45-48). v3 and v4 are equal, and so are the
discriminators of v1 and v2, and of v2Pro and v2ProPlus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

from gsvckpt.model import Tensor

Shape = tuple[int, ...]
ModelLayout = Mapping[str, tuple[str, Shape]]

_SMALL = frozenset({"v1", "v2", "v2Pro", "v2ProPlus"})  # the versions whose inference files leave something out
_GENERATORS = ("v1", "v2", "v2Pro", "v2ProPlus", "v3", "v4")


@dataclass(frozen=True, slots=True)
class LayoutDifference:
    """How a state dict departs from a layout. `wrong_shape` holds (name, shape found, shape expected)."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    wrong_shape: tuple[tuple[str, Shape, Shape], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.wrong_shape)

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.wrong_shape)


def names() -> tuple[str, ...]:
    """All layouts: gpt-v1, gpt-v2, sovits-<version>[-small], discriminator-<version>, lora-v3, lora-training-v3, vocoder-v4, ..."""
    return tuple(_data()["layouts"])


@lru_cache(maxsize=8)  # many files of one version are compared in a row
def layout(name: str, rank: int = 32) -> ModelLayout:
    """Name -> (dtype, shape), in upstream's order; dtype is the module's, small files are stored as float16. KeyError for an unknown name.

    `rank` sets the shapes of the LoRA layouts and means nothing to the others.
    """
    data = _data()
    dtype, parts = cast("str", data["dtype"]), cast("Mapping[str, Mapping[str, object]]", data["parts"])
    found: dict[str, tuple[str, Shape]] = {}
    for part in cast("list[str]", data["layouts"][name]):
        for tensor, shape in _expand(parts[part], ""):
            found[tensor] = dtype, tuple(rank if n == "rank" else cast("int", n) for n in shape)
    return found


def compare(state: Mapping[str, Tensor], reference: ModelLayout) -> LayoutDifference:
    """What a state dict lacks, has too much, and has in another shape; dtypes are free, as upstream casts on loading."""
    return LayoutDifference(
        tuple(name for name in reference if name not in state),
        tuple(name for name in state if name not in reference),
        tuple((name, state[name].shape, shape) for name, (_, shape) in reference.items() if name in state and state[name].shape != shape),
    )


def suitable(kind: str, version: str | None, *, lora: bool = False) -> tuple[str, ...]:
    """The layouts that a file of this kind and version may have; all of the kind where the version is unknown, none for other kinds."""
    if kind in ("gpt-weights", "gpt-training"):
        return _named("gpt-{}", version, ("v1", "v2"))
    if kind == "sovits-weights":
        return tuple(f"sovits-{v}-small" if v in _SMALL else f"sovits-{v}" for v in _versions(version, _GENERATORS))
    if kind == "sovits-lora":
        return _named("lora-{}", version, ("v3", "v4"))
    if kind in ("sovits-generator-training", "sovits-generator-base"):
        return _named("lora-training-{}", version, ("v3", "v4")) if lora else _named("sovits-{}", version, _GENERATORS)
    if kind in ("sovits-discriminator-training", "sovits-discriminator-base"):
        return _named("discriminator-{}", version, ("v2", "v2Pro") if version is None else ("v1", "v2", "v2Pro", "v2ProPlus"))
    return ("vocoder-v4",) if kind == "vocoder" and version == "v4" else ()


def closest(state: Mapping[str, Tensor], options: tuple[str, ...], rank: int = 32) -> tuple[str, LayoutDifference] | None:
    """The layout that differs least, the first of equals; None when there are no options."""
    compared = [(name, compare(state, layout(name, rank))) for name in options]
    return min(compared, key=lambda pair: pair[1].count, default=None)


def _versions(version: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    return known if version is None else tuple(v for v in known if v == version)


def _named(form: str, version: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form.format(v) for v in _versions(version, known))


@cache
def _data() -> Mapping[str, Mapping[str, object]]:
    import json
    from importlib.resources import files

    return cast("Mapping[str, Mapping[str, object]]", json.loads(files("gsvckpt.sovits").joinpath("data/layouts.json").read_text("utf-8")))


def _expand(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, list[object]]]:
    for label, value in tree.items():
        for name in _spell(label.split(".")):
            if isinstance(value, list):
                yield prefix + name, value
            else:
                yield from _expand(cast("Mapping[str, object]", value), f"{prefix}{name}.")


def _spell(parts: list[str]) -> Iterator[str]:
    """`["layers", "0-2", "weight"]` -> layers.0.weight, layers.1.weight, layers.2.weight."""
    if not parts:
        yield ""
        return
    first, _, last = parts[0].partition("-")
    for head in map(str, range(int(first), int(last) + 1)) if last else (parts[0],):
        for rest in _spell(parts[1:]):
            yield f"{head}.{rest}" if rest else head
