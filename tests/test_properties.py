"""What must hold for every tree and every file, tried on many that hypothesis makes."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Store, View, hparams, read, row_major, safetensors, storage_bytes, tensor, torch_stream, torch_zip

from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine, lay_out
from gsvckpt.errors import GsvError
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.torch_zip import lay_out as zip_of
from gsvckpt.model import REMOVED, Storage, Tensor, walk
from gsvckpt.transforms.cast import cast, select
from gsvckpt.transforms.plan import begin
from gsvckpt.transforms.strip import strip

many = settings(max_examples=60, deadline=None, derandomize=True)

STORES = [
    Store("float32", bytes(range(48))),
    Store("int64", bytes(range(80))),
    Store("bool", b"\1\0\1\1\0\1\0\1\1\1\0\1"),
    Store("float8_e5m2", bytes(range(12))),
    Store("float16", b""),
]
VIEWS = st.sampled_from(STORES).flatmap(
    lambda store: st.sampled_from(
        [View(store, (store.numel,), (1,)), View(store, (store.numel // 4, 2), (2, 1)), View(store, (2, store.numel // 4), (1, 2)), store]
        + [View(store, (), (), min(2, store.numel - 1)), View(store, (3, 5), (0, 0), 1, True)] * bool(store.numel)
    )
)
LEAVES = st.one_of(VIEWS, st.none(), st.integers(-(1 << 66), 1 << 66), st.floats(), st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
KEYS = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.integers(0, 99))
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(KEYS, inner, max_size=4),
            st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
            st.lists(inner, min_size=1, max_size=4).map(tuple),
            st.dictionaries(st.text(st.sampled_from("abc"), max_size=3), inner, max_size=3).map(hparams),
        ),
        max_leaves=15,
    ),
    max_size=6,
)
CONTAINERS = st.sampled_from([torch_zip, torch_stream])


def same_bytes(one: Tensor | Storage, two: Tensor | Storage) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        facts = [(leaf.shape, leaf.stride, leaf.start, leaf.dtype, leaf.requires_grad) for leaf in (one, two)]
        one, two = one.storage, two.storage
        if facts[0] != facts[1]:
            return False
    return (one.dtype, one.numel, one.location) == (two.dtype, two.numel, two.location) and storage_bytes(one) == storage_bytes(two)


@many
@given(TREES, CONTAINERS)
def test_open_after_write_is_identity(tree: dict[object, object], container: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.pth"), Path(folder, "out.pth")
        source.write_bytes(container(tree))
        with open_checkpoint(source) as checkpoint:
            size = lay_out(begin(checkpoint)).size
            outcome = Engine().write(begin(checkpoint), str(target), overwrite=False)
        assert target.stat().st_size == size == outcome.layout.size
        with open_checkpoint(source) as checkpoint, open_checkpoint(target) as written:
            assert first_difference(checkpoint.root, written.root, same_bytes) is None


@many
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), VIEWS, max_size=6), st.booleans())
def test_predicted_sizes_hold_for_casts_too(tree: dict[str, object], clamp: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in.pth").write_bytes(torch_zip(tree))
        with open_checkpoint(Path(folder, "in.pth")) as checkpoint:
            weights = {name: leaf for name, leaf in checkpoint.root.items() if isinstance(leaf, Tensor)}
            chosen = select(checkpoint.root, weights, DTYPES["float16"]).chosen
            plan = cast(begin(checkpoint), chosen, DTYPES["float16"], clamp=clamp)
            outcome = Engine(device=Host()).write(plan, folder + "/out.pth", overwrite=False)
        assert Path(folder, "out.pth").stat().st_size == outcome.layout.size
        if clamp:
            assert outcome.layout.size == lay_out(plan).size


@many
@given(TREES, st.sets(KEYS, max_size=4))
def test_stripping_twice_is_stripping_once(tree: dict[object, object], keys: set[object]) -> None:
    checkpoint = read(torch_zip(tree))
    wanted = {key: REMOVED if index % 2 else None for index, key in enumerate([*keys, *list(tree)[::2]])}
    once = strip(begin(checkpoint), wanted)
    twice = strip(once, wanted)
    assert twice is once or first_difference(once.root, twice.root, lambda one, two: one is two) is None
    assert lay_out(once).size == lay_out(twice).size
    assert first_difference(checkpoint.root, read(torch_zip(tree)).root, same_bytes) is None  # the source's tree is left alone


@many
@given(TREES)
def test_the_same_tree_gives_the_same_bytes(tree: dict[object, object]) -> None:
    pieces = []
    for data in (torch_zip(tree), torch_zip(tree, prefix="other", head=b"05"), torch_stream(tree)):
        layout = zip_of(read(data).root, lambda storage: storage.dtype)
        pieces.append((layout.size, layout.texts, layout.close(dict.fromkeys(dict(layout.storages), 7))))
    assert pieces[0] == pieces[1] == pieces[2]


SAMPLE = {"weight": OrderedDict(a=tensor("float32", (4, 3), range(12)), b=tensor("int8", (5,), range(5))), "config": hparams({"v": "v2"}), "n": 7}
FILES = {
    "zip": torch_zip(SAMPLE),
    "headed": torch_zip(SAMPLE, head=b"06", flags=0x0800),
    "stream": torch_stream(SAMPLE),
    "safetensors": safetensors({"a": ("F32", (2, 2), bytes(16)), "b": ("I8", (3,), b"123")}, {"k": "v"}),
}


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_damage_opens_or_is_our_error(kind: str, data: st.DataObject) -> None:
    raw = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1)) if raw else 0
        what = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "repeat"]))
        if what == "flip" and raw:
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "set":
            raw[at : at + 4] = data.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\0\0\0\x80", b"\1\0\0\0"]))
        elif what == "cut":
            del raw[at:]
        elif what == "insert":
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=6))
        elif what == "remove":
            del raw[at : at + data.draw(st.integers(1, 80))]
        else:
            raw[at:at] = raw[at : at + 50]
    with suppress(GsvError):
        checkpoint = read(bytes(raw))
        for _, leaf in walk(checkpoint.root):
            if isinstance(leaf, Tensor):
                storage_bytes(leaf.storage)
        lay_out(begin(checkpoint))


@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_byte_opens_or_is_our_error(kind: str) -> None:
    """Once over the whole file, so that no byte is left to chance."""
    raw = bytearray(FILES[kind])
    for at in range(len(raw)):
        for value in (0xFF, 0x80):
            raw[at] ^= value
            with suppress(GsvError):
                lay_out(begin(read(bytes(raw))))
            raw[at] ^= value


def test_the_samples_are_sound() -> None:
    for data in FILES.values():
        assert read(data).root
    assert row_major((2, 0, 3)) == (3, 3, 1)
