"""Small pickles that ask for much: memory, time or depth. Each ends at once, with our error or with a harmless tree."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from support.builders import Make, Name, Pid, Raw, Store, View, pickled, read, tensor, torch_stream, torch_zip

from gsvckpt.engine.write import lay_out
from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.formats.json_values import to_json
from gsvckpt.formats.pickle import scalars
from gsvckpt.formats.tree_json import decode
from gsvckpt.model import MAX_DEPTH, Global, Opaque, format_path, walk
from gsvckpt.sovits.config import plain
from gsvckpt.sovits.sections import state_tensors
from gsvckpt.transforms.plan import begin

from .payloads import text


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No test here may need more than 64 MiB, whatever its file announces."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def opened(opcodes: bytes) -> object:
    return read(torch_zip(b"\x80\x02" + opcodes + b".")).root


def test_memo_bomb() -> None:
    """Nine bytes that cost CPython's C unpickler 2 GiB."""
    assert opened(b"Nr" + struct.pack("<I", 0x7FFFFFFF)) is None


def test_a_memo_index_of_many_digits() -> None:
    assert opened(b"Np" + b"9" * 100 + b"\n") is None
    with pytest.raises(UnsupportedError, match=r"integer of 100,000 digits"):
        opened(b"Np" + b"9" * 100_000 + b"\n")


@pytest.mark.parametrize(
    ("opcode", "size"), [(b"X", 4), (b"B", 4), (b"T", 4), (b"\x8d", 8), (b"\x8e", 8), (b"\x96", 8)], ids=["X", "B", "T", "X8", "B8", "array"]
)
def test_lengths_beyond_the_pickle(opcode: bytes, size: int) -> None:
    with pytest.raises(DamagedError, match="bytes announced"):
        opened(opcode + b"\xff" * (size - 1) + b"\x7f")


def test_huge_integers() -> None:
    with pytest.raises(UnsupportedError, match=r"integer of 1,000,000 bytes"):
        opened(b"\x8b" + struct.pack("<I", 1_000_000) + b"\x7f" * 1_000_000)
    with pytest.raises(UnsupportedError, match="digits"):
        opened(b"L" + b"7" * 10_000 + b"L\n")


def test_the_largest_integer_that_is_read_can_be_printed() -> None:
    """Python writes no more than 4,300 digits."""
    count = scalars.MAX_LONG
    assert str(opened(b"\x8b" + struct.pack("<I", count) + b"\x7f" * count))


def test_colliding_integer_keys() -> None:
    """Multiples of 2**61 - 1 all have the hash 0, so filling a dict with them is quadratic."""
    many = b"".join(b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(1, 50))
    with pytest.raises(UnsupportedError, match="beyond 61 bits"):
        opened(b"}(" + many + b"u")


def colliding(count: int) -> list[tuple[int, int]]:
    """Pairs of numbers with one hash, for CPython since 3.8 on 64 bits (Objects/tupleobject.c)."""
    one, two, five, mask = 11400714785074694791, 14029467366897019727, 2870177450012600261, (1 << 64) - 1
    found: list[tuple[int, int]] = []
    for first in range(1 << 40, 1 << 50):
        lane = (five + first * two) & mask
        lane = (((lane << 31) | (lane >> 33)) * one) & mask
        second = ((12345678901234567 - lane) * pow(two, -1, 1 << 64)) & mask
        if second < 1 << 60:
            found.append((first, second))
        if len(found) == count:
            break
    assert len({hash(pair) for pair in found}) == 1
    return found


def test_many_tuples_of_numbers_as_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a tuple of integers is no secret, either."""
    monkeypatch.setattr("gsvckpt.files.budget.MOST_COMPARISONS", 60)
    tree = dict.fromkeys(colliding(12))
    with pytest.raises(UnsupportedError, match="comparisons of keys that collide"):
        read(torch_zip(tree))
    assert len(read(torch_zip({(n, str(n)): None for n in range(1000)})).root) == 1000


def test_one_list_made_into_many_dicts() -> None:
    """Three opcodes copy a list of any length; repeated, they fill memory quadratically."""
    pairs = b"](" + b"".join(b"K%cN\x86" % (n % 256) for n in range(2000)) + b"eq\x00"
    with pytest.raises(UnsupportedError, match="copies more than it holds"):
        opened(pairs + b"ccollections\nOrderedDict\nq\x010" + b"](" + b"h\x01h\x00\x85R" * 2000 + b"e")


def test_one_text_made_into_many_bytes() -> None:
    with pytest.raises(UnsupportedError, match="copies more than it holds"):
        opened(b"c_codecs\nencode\nq\x000" + text("x" * 50_000) + b"q\x010](" + (b"h\x00h\x01" + text("latin1") + b"\x86R") * 2000 + b"e")


@pytest.mark.parametrize(
    ("start", "end"), [(b"]", b"a"), (b"}N", b"s"), (b"(", b"t"), (b"ccopy\nx\n", b"\x85R")], ids=["list", "dict", "tuple", "call"]
)
def test_deep_nesting(start: bytes, end: bytes) -> None:
    depth = 50_000
    root = opened(start * depth + b"N" + end * depth)
    with pytest.raises(UnsupportedError, match=f"deeper than {MAX_DEPTH}"):
        list(walk(root))


@pytest.mark.parametrize("depth", [150, MAX_DEPTH - 10, 5_000])
def test_trees_too_deep_to_write_are_refused(depth: int) -> None:
    checkpoint = read(torch_zip(b"\x80\x02" + b"]" * depth + b"N" + b"a" * depth + b"."))
    try:
        lay_out(begin(checkpoint))
    except UnsupportedError as error:
        assert error.where.endswith("/...")  # noqa: PT017 - depends on how deep pytest's own stack is
        assert depth > 150


def test_deep_tuples_as_keys() -> None:
    """Hashing them recurses in C without a guard."""
    with pytest.raises(UnsupportedError, match="a tuple as a key"):
        opened(b"}(" + b"(" * 50_000 + b"N" + b"t" * 50_000 + b"Nu")


def laughs(levels: int) -> bytes:
    """Lists of two, each holding the one before twice: 2**levels paths."""
    return b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (n, n, n + 1) for n in range(levels)) + b"h%c" % levels


def test_billion_laughs() -> None:
    assert list(walk(opened(laughs(60)))) == []
    assert lay_out(begin(read(torch_zip(b"\x80\x02" + laughs(60) + b".")))).size


def test_keys_that_are_objects_show_their_names_alone() -> None:
    weights = tensor("float32", (1,))
    root = read(torch_zip({Make(Name("utils", "HParams"), ()): weights})).root
    (key,) = root
    assert isinstance(key, Opaque)
    crafted = Opaque(key.name, "reduce", (opened(laughs(60)),))  # its repr would not end
    assert format_path(("a", crafted, (crafted, 1), root[key])) == "a/<utils.HParams>/(<utils.HParams>, 1)/<Tensor>"


def test_a_legacy_protocol_number_of_endless_laughs() -> None:
    """It used to be shown in the message."""
    with pytest.raises(DamagedError, match="does not begin with"):
        read(pickled(0x1950A86A20F9469CFC6C) + b"\x80\x02" + laughs(60) + b"." + pickled({}) * 3)


def test_a_long_list_at_great_depth() -> None:
    """It used to take a path of 200 keys for each of its items."""
    root = opened(b"".join(b"}" + text("x") for _ in range(200)) + b"](" + b"N" * 200_000 + b"e" + b"s" * 200)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    assert list(walk(root)) == []
    assert tracemalloc.get_traced_memory()[1] - before < 1 << 20


def test_one_long_key_in_many_names() -> None:
    """A key is spelt once, and would stand in each tensor's name."""
    weights = {text("k" * 10_000).decode("latin-1"): {str(n): tensor("int8", (1,)) for n in range(20)}}
    assert len(state_tensors(read(torch_zip(weights)).root, ())) == 20
    (inner,) = read(torch_zip(weights)).root.values()
    crowd = {"k" * 100_000: {f"{n}": inner["0"] for n in range(1_000)}}
    with pytest.raises(UnsupportedError, match="characters in names of tensors"):
        state_tensors(crowd, ())


def test_names_made_of_objects_do_not_show_what_these_hold() -> None:
    crafted = Opaque(Global("m", "C"), "reduce", (opened(laughs(60)),))
    found = read(torch_zip({"w": tensor("int8", (1,))})).root["w"]
    assert list(state_tensors({"model": {crafted: found}}, ("model",))) == ["<m.C>"]


@pytest.mark.parametrize(
    "code",
    [
        b"]q\x020(" + b"".join(b"cm\nC\n)R}" + text("a") + b"Nsb" for _ in range(50)) + b"l",
        b"cm\nC\n)Rq\x02(" + b"h\x01N" * 20_000 + b"u0](" + b"h\x02" * 20_000 + b"e",
    ],
    ids=["many objects", "one long object many times"],
)
def test_settings_that_take_long_to_gather(code: bytes) -> None:
    """The file is small, and so is the answer."""
    state = b"}(" + b"".join(text(str(n)) + b"N" for n in range(5_000)) + b"uq\x000" + text("k") + b"q\x010"
    root = opened(state + code)
    started = time.process_time()
    assert plain(root) is not None
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "code",
    [
        b"cm\nC\n)R" + b"h\x00b" * 20_000,
        b"cpathlib\nPosixPath\nq\x020(" + b"h\x01" * 20_000 + b"tq\x030](" + b"h\x02h\x03R" * 10_000 + b"e",
    ],
    ids=["one state many times", "many long paths"],
)
def test_copies_that_come_to_more_than_the_file(code: bytes) -> None:
    state = b"}(" + b"".join(text(str(n)) + b"N" for n in range(5_000)) + b"uq\x000" + text("k") + b"q\x010"
    started = time.process_time()
    with pytest.raises(UnsupportedError, match="copies more than it holds"):
        opened(state + code)
    assert time.process_time() - started < 2


def test_a_list_that_contains_itself() -> None:
    root = opened(b"]q\x00h\x00a")
    assert root[0] is root
    assert list(walk(root)) == []
    assert lay_out(begin(read(torch_zip(b"\x80\x02]q\x00h\x00a.")))).size


@pytest.mark.parametrize("opcodes", [b"]q\x00h\x00\x85q\x01a0h\x01", b"]q\x00cm\nC\nh\x00\x85Rq\x01a0h\x01"], ids=["tuple", "object"])
def test_what_is_made_from_itself_is_read_but_not_written(opcodes: bytes) -> None:
    checkpoint = read(torch_zip(b"\x80\x02" + opcodes + b"."))
    assert list(walk(checkpoint.root)) is not None
    with pytest.raises(UnsupportedError, match="contains itself"):
        lay_out(begin(checkpoint))


# --- shapes -----------------------------------------------------------------------------------------------------------------------------------


def test_four_tebibytes_in_a_small_file() -> None:
    bomb = View(Store("float32", b"\0" * 4), (1 << 20, 1 << 20), (0, 0))
    checkpoint = read(torch_zip({"w": bomb}))
    found = checkpoint.root["w"]
    assert (found.nbytes, found.storage.nbytes, found.extent) == (4 << 40, 4, 1)
    assert lay_out(begin(checkpoint)).size < 8192


@pytest.mark.parametrize(
    ("shape", "stride", "start"),
    [
        ((1 << 62, 4), (0, 0), 0),
        ((1 << 61, 1 << 61), (0, 0), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((1,), (1,), 1 << 62),
        ((1 << 70,), (0,), 0),
        ((1,), (1, 1), 0),
        ((1,) * 65, (1,) * 65, 0),
    ],
    ids=range(11),
)
def test_impossible_shapes(shape: tuple[int, ...], stride: tuple[int, ...], start: int) -> None:
    with pytest.raises(DamagedError, match=r"impossible sizes|reaches outside its storage"):
        read(torch_zip({"w": View(Store("float32", bytes(16)), shape, stride, start)}))


def test_a_size_that_is_no_number() -> None:
    call = Make(Name("torch._utils", "_rebuild_tensor_v2"), (Store("int8", b"1"), 0, ("1",), (1,), False, Make(Name("collections", "OrderedDict"))))
    with pytest.raises(DamagedError, match="impossible sizes"):
        read(torch_zip({"w": call}))


# --- BUILD and friends on what is no object ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (Raw(b"cos\nsystem\n}b"), DamagedError, "sets attributes on os.system"),
        (Raw(b"ccollections\nOrderedDict\n}b"), DamagedError, "sets attributes on collections.OrderedDict"),
        (Raw(b"}}b"), DamagedError, "sets attributes on a dict"),
        (Raw(b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb"), UnsupportedError, "attributes that torch does not set"),
        (Raw(b"ccollections\nOrderedDict\n)RNb"), UnsupportedError, "attributes that torch does not set"),
        (Raw(b"cos\nsystem\nNa"), DamagedError, "appends to os.system"),
        (Raw(b"cos\nsystem\nNNs"), DamagedError, "sets items of os.system"),
        (Raw(b"](K\x01u"), DamagedError, "a key without a value"),
        (Raw(b"](K\x01\x90"), DamagedError, "not a set"),
        (Raw(b"cos\nsystem\n)R)R"), UnsupportedError, "calls the result of another call"),
        (Raw(b"cos\nsystem\n]R"), DamagedError, "arguments that are not a tuple"),
        (Raw(b"N)\x81"), DamagedError, "something that is not a class"),
        (Raw(b"K\x01K\x02\x93"), DamagedError, "by something that is not text"),
        (Raw(b"}]Ns"), UnsupportedError, "a list as a key"),
        (Raw(b"}}Ns"), UnsupportedError, "a dict as a key"),
        (Raw(b"\x82\x01"), UnsupportedError, "extension codes"),
        (Raw(b"\x97"), UnsupportedError, "out-of-band"),
        (Raw(b"\x80\x09"), UnsupportedError, "protocol 9"),
        (Raw(b"h\x07"), DamagedError, "KeyError"),
        (Raw(b"t"), DamagedError, "takes more from its stack"),
        (Raw(b"\xff"), DamagedError, "0xff is not a pickle opcode"),
        (Raw(b"X\x01\0\0\0\xff"), DamagedError, "UnicodeDecodeError"),
        (Raw(b"S'x\n"), DamagedError, "without quotes"),
        (Raw(b"("), DamagedError, "unfinished container|no pickle"),
    ],
    ids=range(24),
)
def test_opcodes_on_the_wrong_value(value: Raw, error: type[GsvError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read(torch_zip(pickled(value)[:-1] + b"N" * 20 + b"."))  # far from the end, which has its own message
    assert caught.value.exit_code == 3
    assert caught.value.where.startswith("pickle byte")


def test_build_on_a_tensor() -> None:
    """BUILD in front of the list's end finds the tensor on the stack."""
    with pytest.raises(DamagedError, match="sets attributes on a Tensor"):
        read(torch_zip([tensor("int8", (1,)), Raw(b"}b")]))


@pytest.mark.parametrize(
    ("pid", "message"),
    [
        ("storage", "not a storage"),
        ((), "not a storage"),
        (("module", Name("torch", "FloatStorage"), "0", "cpu", 1), "not a storage"),
        (("storage", Name("torch", "EvilStorage"), "0", "cpu", 1), "unknown type torch.EvilStorage"),
        (("storage", Name("os", "FloatStorage"), "0", "cpu", 1), "unknown type os.FloatStorage"),
        (("storage", "FloatStorage", "0", "cpu", 1), "unknown type"),
        (("storage", Name("torch", "FloatStorage"), 0, "cpu", 1), "wrong type"),
        (("storage", Name("torch", "FloatStorage"), "0", None, 1), "wrong type"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", -1), "wrong type"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", True), "wrong type"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", 1 << 70), "wrong type"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", 1, ("v", 0, 1)), "record is missing"),
        (("storage", Name("torch", "FloatStorage"), "../data.pkl", "cpu", 1), "record is missing"),
        (("storage", Name("torch", "FloatStorage"), "7", "cpu", 1), "record is missing"),
    ],
    ids=range(14),
)
def test_wrong_persistent_ids(pid: object, message: str) -> None:
    with pytest.raises(DamagedError, match=message):
        read(torch_zip({"w": Pid(pid)}))


def test_a_storage_described_twice() -> None:
    store = Store("float32", bytes(8))
    other = Pid(("storage", Name("torch", "IntStorage"), "0", "cpu", 2))
    with pytest.raises(DamagedError, match="described twice, as 2 float32 and as 2 int32"):
        read(torch_zip([store, other]))
    with pytest.raises(DamagedError, match="described twice"):
        read(torch_stream([store, other]))


def test_persistent_ids_in_a_bare_pickle_are_not_resolved() -> None:
    with pytest.raises(UnsupportedError, match="bare pickle"):
        read(b"\x80\x02ctorch\nload\nX\x01\0\0\0xQ.")


def test_colliding_keys_are_counted_over_all_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_COMPARISONS", 60)
    one = dict.fromkeys(colliding(8))
    assert read(torch_zip({"a": one, "b": one})).root == {"a": one, "b": one}
    with pytest.raises(UnsupportedError, match="comparisons of keys"):
        read(torch_zip({"a": one, "b": one, "c": one}))
    with pytest.raises(UnsupportedError, match="comparisons of keys"):
        decode(json.dumps([{"dict": [[{"tuple": [to_json(part) for part in pair]}, None] for pair in one]}] * 3), lambda _: None)


def test_floats_that_collide_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float keeps its hash when it is multiplied by 2**61."""
    monkeypatch.setattr("gsvckpt.files.budget.MOST_COMPARISONS", 60)
    assert len(read(torch_zip({n / 7: None for n in range(1000)})).root) == 1000
    with pytest.raises(UnsupportedError, match="comparisons of keys"):
        read(torch_zip({3.0 * 2.0 ** (61 * n): None for n in range(12)}))


@pytest.mark.parametrize("form", [b"h%c", b"h%c\x85"], ids=["text", "tuple"])
def test_equal_long_keys_spelled_twice(monkeypatch: pytest.MonkeyPatch, form: bytes) -> None:
    """Each time one is set where the other stands, all of their letters are compared."""
    monkeypatch.setattr("gsvckpt.files.budget.MOST_COMPARISONS", 60_000)
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    spelled = text + b"q\x010" + text + b"q\x020}"
    again = b"".join(form % number + b"Ns" for number in (1, 2))
    assert opened(spelled + again) is not None
    with pytest.raises(UnsupportedError, match="comparisons of keys"):
        opened(spelled + again * 3)


BOMBS = {
    "classes": ("MOST_CLASSES", b"".join(b"cm\nC%d\n0" % n for n in range(40)) + b"N", "different classes"),
    "memo": ("MOST_REMEMBERED", b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(1 << 17)), "objects remembered"),
    "lists": ("MOST_CONTAINERS", b"](" + b"]" * 40 + b"e", "lists and dicts"),
    "dicts": ("MOST_CONTAINERS", b"](" + b"}" * 40 + b"e", "lists and dicts"),
    "tuples": ("MOST_TUPLES", b"](" + b"N\x85" * 20 + b"(Nt" * 20 + b"e", "tuples"),
    "letters": ("MOST_LETTERS", b"X\x00\x20\x00\x00" + b"x" * (1 << 13), "characters in long texts"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_pickle_makes_is_counted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    limit, code, what = BOMBS[name]
    opened(code)
    monkeypatch.setattr(f"gsvckpt.files.budget.{limit}", 30)
    with pytest.raises(UnsupportedError, match=f"too much for a checkpoint: more than 30 {what}") as caught:
        opened(code)
    assert caught.value.check == "pickle.bomb"


def test_tensors_over_one_storage_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tensor("float32", (8,), range(8))
    tree = {str(n): View(whole.store, (1,), (1,), n) for n in range(8)}
    assert len(read(torch_zip(tree)).root) == 8
    monkeypatch.setattr("gsvckpt.files.budget.MOST_TENSORS", 7)
    with pytest.raises(UnsupportedError, match="more than 7 tensors"):
        read(torch_zip(tree))
    with pytest.raises(UnsupportedError, match="more than 7 storages"):
        read(torch_zip([tensor("uint8", (n + 1,), b"x" * (n + 1)).store for n in range(9)]))


def test_a_name_of_a_class_beyond_measure() -> None:
    with pytest.raises(DamagedError, match="names a class by 5,001 characters"):
        opened(b"cm\n" + b"x" * 5_000 + b"\n")
