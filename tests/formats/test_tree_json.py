"""Trees as JSON text: exactly the same tree comes back, other programs can read it, and no text does harm."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import tracemalloc
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Store, View, hparams, read, tensor, torch_zip
from support.oracle import SAMPLES

from gsvckpt.errors import DamagedError, RefusedError, UnsupportedError
from gsvckpt.formats.json_values import Json
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.tree_json import decode, encode
from gsvckpt.model import MAX_DEPTH, Global, Opaque, Storage, Tensor, walk

CLASS = Global("m", "C")
LEAVES = list(
    read(torch_zip({"w": tensor("float32", (2,)), "v": View(Store("int8", b"12"), (1,), (1,)), "s": Store("float16", b"1234")})).root.values()
)


def describe(leaf: Tensor | Storage) -> Json:
    return {"leaf": LEAVES.index(leaf)}


def resolve(json: Json) -> Tensor | Storage:
    if not isinstance(json, dict) or json.keys() != {"leaf"} or json["leaf"] not in [0, 1, 2]:
        raise DamagedError("no such leaf")
    return LEAVES[int(json["leaf"])]


def difference(one: object, two: object) -> str | None:
    return first_difference(one, two, lambda left, right: left is right)


def strictly(text: str) -> object:
    """As a parser that knows nothing of Python reads it."""

    def refuse(token: str) -> object:
        raise AssertionError(token)

    text.encode()
    return json.loads(text, parse_constant=refuse)


def assert_comes_back(tree: object) -> str:
    text = encode(tree, describe)
    back = decode(text, resolve)
    assert difference(tree, back) is None
    assert encode(back, describe) == text
    assert json.dumps(strictly(text), ensure_ascii=False) == text
    return text


def opaque(*steps: object, args: object = (), how: str = "newobj") -> Opaque:
    return Opaque(CLASS, how, args, list(steps))


def with_metadata(metadata: object, **entries: object) -> OrderedDict[str, object]:
    tree: OrderedDict[str, object] = OrderedDict(entries)
    tree._metadata = metadata
    return tree


def test_golden_voice() -> None:
    """The form is a promise: files in the world carry it."""
    config = hparams({"train": hparams({"epochs": 8, "learning_rate": 1e-4, "fp16_run": True, "betas": (0.8, 0.99)}), "speakers": ["声音", None]})
    weight = OrderedDict({"enc_p.weight": tensor("float32", (2, 3)), "dec.bias": tensor("float16", (2,))})
    root = read(torch_zip({"weight": weight, "config": config, "info": "8epoch_96iteration"})).root
    names = iter(["enc_p.weight", "dec.bias"])
    assert encode(root, lambda _: next(names)) == (
        '{"dict": {"weight": {"ordered": {"enc_p.weight": {"tensor": "enc_p.weight"}, "dec.bias": {"tensor": "dec.bias"}}}, '
        '"config": {"object": ["utils", "HParams"], "how": "newobj", "args": [], "steps": [["build", {"dict": {'
        '"train": {"object": ["utils", "HParams"], "how": "newobj", "args": [], "steps": [["build", {"dict": {'
        '"epochs": 8, "learning_rate": 0.0001, "fp16_run": true, "betas": {"tuple": [0.8, 0.99]}}}]]}, '
        '"speakers": ["声音", null]}}]]}, "info": "8epoch_96iteration"}}'
    )


SHARED: list[object] = [1]
CYCLE: dict[object, object] = {}
CYCLE["me"] = CYCLE


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (None, "null"),
        (-0.0, "-0.0"),
        (1e22, "1e+22"),
        ((1 << 53) - 1, "9007199254740991"),
        (1 << 53, '{"int": "9007199254740992"}'),
        (-(1 << 64), '{"int": "-18446744073709551616"}'),
        (math.nan, '{"float": "NaN"}'),
        (-math.inf, '{"float": "-Infinity"}'),
        (struct.unpack(">d", bytes.fromhex("fff8000000000abc"))[0], '{"float": "NaN", "bits": "fff8000000000abc"}'),
        ("a\n\x7f\u2028", '"a\\n\x7f\u2028"'),
        ("\\声\udc80\ud83d\ude00", '{"escaped": "\\\\\\\\声\\\\udc80\\\\ud83d\\\\ude00"}'),
        (b"", '{"bytes": ""}'),
        (b"\xff\0", '{"bytes": "/wA="}'),
        (Global("torch", "float16"), '{"name": ["torch", "float16"]}'),
        ((), '{"tuple": []}'),
        (((), ()), '{"tuple": [{"tuple": []}, {"tuple": []}]}'),
        ({"dict": {}}, '{"dict": {"dict": {"dict": {}}}}'),
        ({1: 2, "a": (3,)}, '{"dict": [[1, 2], ["a", {"tuple": [3]}]]}'),
        ({"\ud800": 1}, '{"dict": [[{"escaped": "\\\\ud800"}, 1]]}'),
        (OrderedDict({(1, CLASS): 2}), '{"ordered": [[{"tuple": [1, {"name": ["m", "C"]}]}, 2]]}'),
        (with_metadata({"": {"version": 1}}, a=1), '{"ordered": {"a": 1}, "metadata": {"dict": {"": {"dict": {"version": 1}}}}}'),
        ([SHARED, SHARED], '[{"list": [1], "id": 1}, {"same": 1}]'),
        (CYCLE, '{"dict": {"me": {"same": 1}}, "id": 1}'),
        ([LEAVES[0], LEAVES[2], LEAVES[0]], '[{"tensor": {"leaf": 0}, "id": 1}, {"storage": {"leaf": 2}}, {"same": 1}]'),
        (
            opaque(("append", [1, 2]), ("setitem", [("k", []), ([], 1)]), ("build", None), how="reduce"),
            '{"object": ["m", "C"], "how": "reduce", "args": [], "steps": [["append", [1, 2]], ["setitem", [["k", []], [[], 1]]], ["build", null]]}',
        ),
        (
            opaque(args=((1,), {"k": 2}), how="newobj_ex"),
            '{"object": ["m", "C"], "how": "newobj_ex", "args": [{"tuple": [1]}, {"dict": {"k": 2}}], "steps": []}',
        ),
    ],
    ids=range(26),
)
def test_golden(tree: object, text: str) -> None:
    assert assert_comes_back(tree) == text


def test_a_plain_config_reads_as_it_would_anywhere() -> None:
    config = {"text": ["a", "声"], "train": {"lr": 1e-4, "batch": 8, "run": True, "seed": None}}
    assert strictly(encode(config, describe)) == {"dict": {"text": ["a", "声"], "train": {"dict": config["train"]}}}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_torch_saves_comes_back(sample: str, protocol: int) -> None:
    file = io.BytesIO()
    torch.save(SAMPLES[sample](), file, pickle_protocol=protocol)
    root = read(file.getvalue()).root
    leaves = list(dict.fromkeys(leaf for _, leaf in walk(root) if isinstance(leaf, (Tensor, Storage))))
    text = encode(root, leaves.index)
    strictly(text)
    assert difference(root, decode(text, leaves.__getitem__)) is None


def test_the_args_of_two_objects_may_be_one_tuple() -> None:
    args = ("a", [])
    text = assert_comes_back([opaque(args=args), opaque(args=args)])
    assert '"args": {"tuple": ["a", []], "id": 1}' in text
    assert '"args": {"same": 1}' in text


def test_cycles_through_everything_that_can_be_changed() -> None:
    items: list[object] = []
    items.append((items,))
    assert_comes_back(items)
    thing = opaque()
    thing.steps.extend([("append", [thing]), ("setitem", [(thing, [thing])]), ("build", {thing: (thing,)})])
    assert_comes_back([thing])
    assert_comes_back(thing)
    state = with_metadata(None)
    state["x"], state._metadata = [state], state
    assert_comes_back(state)


def test_a_tensor_met_twice_is_made_once() -> None:
    one, two = LEAVES[:2]

    def copy(_: Json) -> Tensor:
        return Tensor(one.storage, one.dtype, one.shape, one.stride)

    back = decode(encode({"a": one, "b": [one], "c": two}, lambda _: None), copy)
    assert back["a"] is back["b"][0]
    assert back["a"] is not back["c"]


HALVES = st.text(st.one_of(st.characters(), st.sampled_from('\\"\ud800\udfff\0u')), max_size=6)
FLOATS = st.one_of(st.floats(), st.integers(0, (1 << 64) - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([sign * (1 << 53) + off for sign in (1, -1) for off in (-1, 0, 1)]),
    FLOATS,
    HALVES,
    st.binary(max_size=5),
    st.builds(Global, st.sampled_from(["m", "声"]), st.sampled_from(["C", "a.b"])),
    st.sampled_from(LEAVES),
    st.just(()),
)
MADE_FROM_ITSELF = "made from itself"


def is_key(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(not isinstance(part, (list, dict, tuple)) and (not isinstance(part, int) or abs(part) < 1 << 61) for part in parts)


@st.composite
def graphs(draw: st.DrawFn) -> object:
    """Nodes that refer to any nodes before them and, where they can be changed, to any at all."""
    nodes = draw(st.lists(SCALARS, min_size=1, max_size=5))
    pick = st.integers(0, 1 << 20).map(lambda number: nodes[number % len(nodes)])
    some = st.lists(pick, max_size=3)
    keys = st.one_of(HALVES, pick.filter(is_key))
    pairs = st.lists(st.tuples(keys, pick), max_size=3)

    def step() -> tuple[str, object]:
        kind = draw(st.sampled_from(["build", "append", "setitem"]))
        return kind, draw(pick) if kind == "build" else draw(some) if kind == "append" else [(draw(pick), draw(pick))]

    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["list", "tuple", "dict", "ordered", "object", "change"]))
        if kind in {"dict", "ordered"}:
            nodes.append({"dict": dict, "ordered": OrderedDict}[kind](draw(pairs)))
            if kind == "ordered" and draw(st.booleans()):
                nodes[-1]._metadata = draw(pick)
        elif kind == "object":
            how = draw(st.sampled_from(["reduce", "newobj", "newobj_ex"]))
            args = (tuple(draw(some)), dict(draw(pairs))) if how == "newobj_ex" else tuple(draw(some))
            nodes.append(opaque(*[step() for _ in range(draw(st.integers(0, 2)))], args=args, how=how))
        elif kind != "change":
            nodes.append({"list": list, "tuple": tuple}[kind](draw(some)))
        else:
            target = draw(pick)
            if isinstance(target, list):
                target.append(draw(pick))
            elif isinstance(target, dict):
                target[draw(keys)] = draw(pick)
            elif isinstance(target, Opaque):
                target.steps.append(step())
    return nodes if draw(st.booleans()) else nodes[-1]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(graphs())
def test_any_tree_comes_back(tree: object) -> None:
    try:
        assert_comes_back(tree)
    except UnsupportedError as error:
        assert MADE_FROM_ITSELF in error.why  # noqa: PT017 - most trees are no such thing


def inside_itself(kind: str) -> object:
    inner: list[object] = []
    outer = (inner,) if kind == "tuple" else opaque(args=(inner,))
    inner.append(outer)
    return outer


class Words(list):
    pass


class Twice:
    pair = ("k", 1)
    payload = [1]  # noqa: RUF012


def strange_dict() -> OrderedDict[str, object]:
    tree: OrderedDict[str, object] = OrderedDict()
    tree.extra = 1
    return tree


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "a set cannot"),
        (1j, "a complex cannot"),
        (bytearray(b"x"), "a bytearray cannot"),
        (Words(), "a Words cannot"),
        (type("Number", (int,), {})(3), "a Number cannot"),
        (type("Named", (tuple,), {})(), "a Named cannot"),
        (strange_dict(), "attributes that torch does not set"),
        (Global("m", "\ud800"), "characters that cannot be written"),
        (Opaque(Global("\ud800", "C"), "reduce", ()), "characters that cannot be written"),
        (1 << 20_000, "20,001 bits"),
        ({1 << 61: 0}, "beyond 61 bits"),
        ({((1,),): 0}, "a tuple as a key"),
        ({tuple(range(65)): 0}, "a tuple as a key"),
        (inside_itself("tuple"), "a tuple that is made from itself"),
        (inside_itself("object"), "a m.C that is made from itself"),
        (opaque(args=[]), "arguments that no pickle has"),
        (opaque(args=(1, 2), how="newobj_ex"), "arguments that no pickle has"),
        (opaque(("append", (1,))), "steps that no pickle has"),
        (opaque(("setitem", [1])), "steps that no pickle has"),
        ([opaque(("append", Twice.payload), ("append", Twice.payload))], "steps that no pickle has"),
        ([opaque(("setitem", [Twice.pair, Twice.pair]))], "steps that no pickle has"),
    ],
    ids=range(21),
)
def test_what_would_not_come_back_is_refused_with_its_place(value: object, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        encode({"outer": [1, {"inner": value}]}, describe)
    assert caught.value.where.startswith("outer/1/inner")


def test_fewer_digits_than_usual() -> None:
    usual = sys.get_int_max_str_digits()
    text = encode(10**1000, describe)
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(UnsupportedError, match="an integer"):
            encode(10**1000, describe)
        with pytest.raises(DamagedError):
            decode(text, resolve)
    finally:
        sys.set_int_max_str_digits(usual)


WRAPS = {
    "list": (1, lambda inner: [inner]),
    "tuple": (1, lambda inner: (inner,)),
    "dict": (1, lambda inner: {"k": inner}),
    "pairs": (1, lambda inner: {1: inner}),
    "ordered": (1, lambda inner: OrderedDict({(1,): inner})),
    "metadata": (1, with_metadata),
    "build": (1, lambda inner: opaque(("build", inner))),
    "args": (2, lambda inner: opaque(args=(inner,))),
    "append": (2, lambda inner: opaque(("append", [inner]))),
    "setitem": (3, lambda inner: opaque(("setitem", [(1, inner)]))),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_as_deep_as_a_tree_may_be_and_no_deeper(wrap: str) -> None:
    levels, around = WRAPS[wrap]
    tree: object = [opaque(args=(1, b"x")), b"y"]
    for _ in range((MAX_DEPTH - 1) // levels):
        tree = around(tree)
    text = assert_comes_back(tree)
    with pytest.raises(UnsupportedError, match="deeper than 256") as caught:
        encode([[tree]], describe)
    assert caught.value.where.endswith("/...")
    with pytest.raises(DamagedError, match="nested"):
        decode(f"[[{text}]]", resolve)


def test_what_the_walk_enters_is_what_can_be_written() -> None:
    tree: object = []
    for _ in range(MAX_DEPTH):
        tree = [tree]
    assert_comes_back(tree)
    with pytest.raises(UnsupportedError):
        encode([tree], describe)
    with pytest.raises(UnsupportedError):
        list(walk([tree]))


THING = '"how": "newobj", "args": [], "steps": []'

HOSTILE = {
    "empty": "",
    "cut off": '{"dict": {"a": 1',
    "two values": "1 2",
    "byte order mark": "\ufeff1",
    "NaN": "[NaN]",
    "Infinity": "-Infinity",
    "float beyond doubles": "1e999",
    "integer beyond doubles": "9007199254740993",
    "digits without end": "1" * 100_000,
    "tagged digits without end": '{"int": "' + "1" * 100_000 + '"}',
    "small tagged integer": '{"int": "7"}',
    "integer with a space": '{"int": " 9007199254740993"}',
    "integer of other digits": '{"int": "٩٠٠٧١٩٩٢٥٤٧٤٠٩٩٣"}',
    "integer that is one": '{"int": 7}',
    "finite tagged float": '{"float": "1.0"}',
    "float that is one": '{"float": 1.0}',
    "float of an array": '{"float": ["NaN"]}',
    "bits of a number": '{"float": "NaN", "bits": "3ff0000000000000"}',
    "bits of infinity": '{"float": "NaN", "bits": "7ff0000000000000"}',
    "bits of the usual NaN": '{"float": "NaN", "bits": "7ff8000000000000"}',
    "too few bits": '{"float": "NaN", "bits": "7ff8"}',
    "bits without hex": '{"float": "NaN", "bits": "xyz"}',
    "bits that are null": '{"float": "NaN", "bits": null}',
    "half a surrogate pair": '"\\ud800"',
    "half a pair as it is": '"\ud800"',
    "half a pair as a key": '{"dict": {"\\udc00": 1}}',
    "escaped for nothing": '{"escaped": "plain"}',
    "stray backslash": '{"escaped": "\\\\q\\\\ud800"}',
    "escaped letter": '{"escaped": "\\\\u0041\\\\ud800"}',
    "base64 without end": '{"bytes": "/wA"}',
    "base64 of other letters": '{"bytes": "声音=="}',
    "base64 with a space": '{"bytes": "/w A="}',
    "base64 with loose bits": '{"bytes": "/wB="}',
    "bytes of an array": '{"bytes": [1]}',
    "name of one": '{"name": ["m"]}',
    "name of numbers": '{"name": [1, 2]}',
    "name as text": '{"name": "mC"}',
    "name of half a pair": '{"name": ["m", "\\ud800"]}',
    "deep name": '{"name": [' + "[" * 400 + "]" * 400 + ", 1]}",
    "no tag": "{}",
    "unknown tag": '{"pickle": "gASVBAAAAAAAAABLAS4="}',
    "tag not first": '{"id": 1, "list": []}',
    "two tags": '{"list": [], "tuple": []}',
    "field too many": '{"tuple": [], "metadata": {"dict": {}}}',
    "scalar with an id": '{"int": "9007199254740993", "id": 1}',
    "key twice": '{"dict": {"a": 1, "a": 2}}',
    "key twice in pairs": '{"dict": [[1, 1], [1, 2]]}',
    "equal keys": '{"dict": [[1, 1], [true, 2]]}',
    "list as a key": '{"dict": [[[], 1]]}',
    "dict as a key": '{"dict": [[{"dict": {}}, 1]]}',
    "deep tuple as a key": '{"dict": [[{"tuple": [{"tuple": []}]}, 1]]}',
    "key that collides": f'{{"dict": [[{{"int": "{1 << 61}"}}, 1]]}}',
    "pair of three": '{"dict": [[1, 2, 3]]}',
    "pair of none": '{"dict": [1]}',
    "dict of text": '{"dict": "a"}',
    "tuple of a dict": '{"tuple": {"a": 1}}',
    "list of nothing": '{"list": null, "id": 1}',
    "same too early": '[{"same": 1}, {"list": [], "id": 1}]',
    "same of text": '[{"list": [], "id": 1}, {"same": "1"}]',
    "same of a list": '{"same": [1]}',
    "same of true": '[{"list": [], "id": 1}, {"same": true}]',
    "id twice": '[{"list": [], "id": 1}, {"list": [], "id": 1}]',
    "id of text": '{"list": [], "id": "1"}',
    "id of a float": '{"list": [], "id": 1.0}',
    "id of null": '{"list": [], "id": null}',
    "tuple in itself": '{"tuple": [[{"same": 1}]], "id": 1}',
    "object in its arguments": '{"object": ["m", "C"], "how": "newobj", "args": [{"same": 1}], "steps": [], "id": 1}',
    "object without how": '{"object": ["m", "C"], "args": [], "steps": []}',
    "object of another how": '{"object": ["m", "C"], "how": "call", "args": [], "steps": []}',
    "how is a list": '{"object": ["m", "C"], "how": ["newobj"], "args": [], "steps": []}',
    "object without args": '{"object": ["m", "C"], "how": "newobj", "steps": []}',
    "args are no tuple": '{"object": ["m", "C"], "how": "newobj", "args": {"dict": {}}, "steps": []}',
    "args without keywords": '{"object": ["m", "C"], "how": "newobj_ex", "args": [{"tuple": []}], "steps": []}',
    "object without steps": '{"object": ["m", "C"], "how": "newobj", "args": []}',
    "object without a name": '{"object": null, ' + THING + "}",
    "step of one": '{"object": ["m", "C"], "how": "newobj", "args": [], "steps": [["build"]]}',
    "unknown step": '{"object": ["m", "C"], "how": "newobj", "args": [], "steps": [["call", 1]]}',
    "step is a list": '{"object": ["m", "C"], "how": "newobj", "args": [], "steps": [[["build"], 1]]}',
    "append of one": '{"object": ["m", "C"], "how": "newobj", "args": [], "steps": [["append", 1]]}',
    "setitem of no pairs": '{"object": ["m", "C"], "how": "newobj", "args": [], "steps": [["setitem", [1]]]}',
    "storage as a tensor": '{"tensor": {"leaf": 2}}',
    "tensor as a storage": '{"storage": {"leaf": 0}}',
    "deep arrays": "[" * 100_000,
    "deep objects": '{"list": ' * 100_000,
    "too deep by one": "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_damage(name: str) -> None:
    with pytest.raises(DamagedError) as caught:
        decode(HOSTILE[name], resolve)
    assert (caught.value.where, caught.value.check) == ("metadata", "container.header")


def test_a_failure_to_resolve_is_passed_on() -> None:
    def fail(_: Json) -> Tensor:
        raise RefusedError("not this one")

    with pytest.raises(RefusedError, match="not this one"):
        decode('[{"tensor": null}]', fail)


@pytest.mark.parametrize(
    "text",
    [
        '[{"list": [' + "0," * 999 + '0], "id": 1}' + ',{"same": 1}' * 20_000 + "]",
        "[" + ",".join(['{"list":[0],"id":0}', *(f'{{"list":[{{"same":{n}}},{{"same":{n}}}],"id":{n + 1}}}' for n in range(5000))]) + "]",
        "[" + "[]," * 50_000 + "0]",
        "[" + '{"dict":{}},' * 20_000 + "0]",
        '{"dict":[' + ",".join(f"[{n << 32},0]" for n in range(20_000)) + "]}",
    ],
    ids=["one list often", "doubling", "small lists", "small dicts", "many keys"],
)
def test_memory_stays_in_proportion_to_the_text(text: str) -> None:
    decode("1", resolve)
    tracemalloc.start()
    try:
        decode(text, resolve)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(text)
    finally:
        tracemalloc.stop()


SAMPLE_ITEM: list[object] = [b"\xff\0", "\ud800", 1 << 60]
SAMPLE_TEXT = encode(
    {
        "config": opaque(("build", {"a": 1.5, "b": math.inf}), ("append", [1]), ("setitem", [(1, 2)])),
        "weight": with_metadata({"": SAMPLE_ITEM}, w=LEAVES[0], s=LEAVES[2]),
        "twice": [SAMPLE_ITEM, (1, SAMPLE_ITEM), {1: CLASS, ("k", 2): None}, opaque(args=((1,), {"k": 2}), how="newobj_ex")],
    },
    describe,
)
TOKENS = ["[", "]", "{", "}", ",", ":", '"', "0", "1", "null", "true", "NaN", "\\", "\ud800", "[]", '{"same": 1}', '"id": 1', ', "id": 2', '"a": 1, ']
WORDS = ["dict", "ordered", "list", "tuple", "object", "same", "id", "metadata", "bytes", "int", "float", "escaped", "name", "tensor", "storage"]


@settings(max_examples=800, deadline=None, derandomize=True)
@given(st.data())
def test_any_change_of_a_text_is_damage_or_another_tree(data: st.DataObject) -> None:
    text = SAMPLE_TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = at + data.draw(st.integers(0, 30))
        what = data.draw(st.sampled_from(["insert", "replace", "remove", "repeat", "word", "cut"]))
        if what == "word":
            text = text.replace(f'"{data.draw(st.sampled_from(WORDS))}"', f'"{data.draw(st.sampled_from(WORDS))}"', data.draw(st.integers(1, 3)))
        elif what == "cut":
            text = text[:at]
        else:
            middle = text[at:end] * 2 if what == "repeat" else data.draw(st.sampled_from(TOKENS)) * (what != "remove")
            text = text[:at] + middle + text[at if what == "insert" else end :]
    try:
        tree = decode(text, resolve)
    except DamagedError:
        return
    assert_comes_back(tree)


def test_every_part_of_a_text_taken_out_or_put_elsewhere() -> None:
    """Once for all values of the sample: each replaced by each other."""
    parts: list[object] = []

    def collect(json_value: object) -> None:
        parts.append(json_value)
        for part in json_value if isinstance(json_value, list) else json_value.values() if isinstance(json_value, dict) else ():
            collect(part)

    collect(json.loads(SAMPLE_TEXT))
    pieces = sorted({json.dumps(part, ensure_ascii=False) for part in parts})
    decoded = 0
    for old in pieces[:: max(1, len(pieces) // 40)]:
        for new in pieces:
            try:
                tree = decode(SAMPLE_TEXT.replace(old, new, 1), resolve)
            except DamagedError:
                continue
            decoded += 1
            assert_comes_back(tree)
    assert decoded > 50
