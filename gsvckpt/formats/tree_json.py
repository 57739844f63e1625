"""A tree as JSON text, and the way back: exact, readable by people and by other programs, without a pickle in it. Tensors are left to the caller.

Plain values are written as json_values says, a list is an array, and all else is an object whose first key says what it is:

    {"dict": {"key": value}}, or {"dict": [[key, value], ...]} where some key is no plain text
    {"ordered": as in dict, "metadata": value}: an OrderedDict and, where it has one, its `_metadata`
    {"tuple": [...]}  {"tensor": description}  {"storage": description}
    {"object": [module, name], "how": how, "args": [...], "steps": [["build", state], ["append", [...]], ["setitem", [[key, value], ...]]]}: an Opaque

What is reached more than once ends with "id": n where it is met first, a list as {"list": [...], "id": n}, and is {"same": n} from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from types import GeneratorType
from typing import Any, Literal, TypeAlias, TypeGuard

from gsvckpt.errors import UnsupportedError
from gsvckpt.files import budget
from gsvckpt.formats.json_values import PLAIN, Json, array_of, damaged, from_json, is_sound, key_fault, pairs_of, read_json, to_json, write_json
from gsvckpt.model import MAX_DEPTH, Global, Opaque, Path, Storage, Tensor, children, format_path, state_dict_metadata

_Work: TypeAlias = Generator[tuple[Path, Any], Any, Any]  # asks for children, each with what leads there, and returns what it made of the answers
_MOST_LETTERS = 1 << 25  # a pickle may spell a long text once and name it a million times
_NODES = (list, dict, tuple, Opaque, Tensor, Storage)  # what is shared by identity
_HOWS: Mapping[str, Literal["reduce", "newobj", "newobj_ex"]] = {"reduce": "reduce", "newobj": "newobj", "newobj_ex": "newobj_ex"}
_FIELDS: Mapping[str, set[str]] = {  # the first key -> what may follow
    "same": set(),
    **{tag: {"id"} for tag in ("tensor", "storage", "list", "tuple", "dict")},
    "ordered": {"metadata", "id"},
    "object": {"how", "args", "steps", "id"},
}


def encode(root: object, describe: Callable[[Tensor | Storage], Json]) -> str:
    """Return the text of `root`, the same for the same tree. `describe` tells tensors and storages in JSON whose integers are below 2**53.

    Raises UnsupportedError, naming the place in the tree, for what would not come back exactly and for trees deeper than MAX_DEPTH.
    """
    return write_json(_Encoder(root, describe).run(root))


def decode(text: str, resolve: Callable[[Json], Tensor | Storage]) -> object:
    """Return the tree that `encode` was given: values, types, order, float bits, and which nodes are shared. `resolve` undoes `describe`.

    Takes any text: raises DamagedError for what is not of this form, and memory stays in proportion.
    """
    return _Decoder(resolve).run(read_json(text))


class _Encoder:
    """From values to JSON."""

    def __init__(self, root: object, describe: Callable[[Tensor | Storage], Json]) -> None:
        self._describe = describe
        self._shared = _find_shared(root)
        self._numbers: dict[int, int] = {}  # id() of a shared node -> its "id"
        self._unmade: set[int] = set()  # tuples and objects that cannot exist before what is being written
        self._path: list[object] = []
        self._letters = 0

    def run(self, root: object) -> Any:
        try:
            return _run(root, self._enter, self._path)
        except UnsupportedError as error:
            error.where = error.where or format_path(tuple(self._path))
            raise

    def _enter(self, value: object) -> Json | _Work:
        if not isinstance(value, _NODES):
            self._letters += len(value) if isinstance(value, (str, bytes)) else 1
            if self._letters > _MOST_LETTERS:
                raise UnsupportedError(f"needs more than {_MOST_LETTERS:,} characters of text", where="tree")
            return to_json(value)
        me = id(value)
        if me in self._unmade:
            raise UnsupportedError(f"{_named(value)} that is made from itself cannot be written")
        if me in self._numbers:
            return {"same": self._numbers[me]}
        if me in self._shared:
            self._numbers[me] = len(self._numbers) + 1
        if isinstance(value, (Tensor, Storage)):
            return self._numbered(value, {"tensor" if isinstance(value, Tensor) else "storage": self._describe(value)})
        if len(self._path) > MAX_DEPTH:
            raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels", where=format_path(tuple(self._path[:4])) + "/...")
        return self._container(value)

    def _container(self, value: object) -> _Work:
        if type(value) is list:
            items = yield from _each(value)
            return self._numbered(value, {"list": items}) if id(value) in self._shared else items
        if isinstance(value, Opaque):
            made = yield from self._object(value)
        elif isinstance(value, dict) and type(value) in {dict, OrderedDict}:
            made = yield from self._dict(value)
        elif type(value) is tuple:
            self._unmade.add(id(value))
            made = {"tuple": (yield from _each(value))}
            self._unmade.remove(id(value))
        else:
            raise UnsupportedError(f"{_named(value)} cannot be written as JSON")
        return self._numbered(value, made)

    def _numbered(self, value: object, made: dict[str, Json]) -> Json:
        number = self._numbers.get(id(value))
        return made if number is None else made | {"id": number}

    def _dict(self, value: dict[object, object]) -> _Work:
        ordered = isinstance(value, OrderedDict)
        if ordered and not vars(value).keys() <= {"_metadata"}:
            raise UnsupportedError("an OrderedDict with attributes that torch does not set")
        texts: dict[str, Json] = {}
        pairs: list[Json] = []
        plain = all(type(key) is str and is_sound(key) for key in value)
        for key, item in value.items():
            if plain:
                texts[str(key)] = yield (key,), item
            elif fault := key_fault(key):
                raise UnsupportedError(fault)
            else:
                pairs.append([(yield (key,), key), (yield (key,), item)])
        made: dict[str, Json] = {"ordered" if ordered else "dict": texts if plain else pairs}
        metadata = state_dict_metadata(value)
        return made if metadata is None else made | {"metadata": (yield ("<metadata>",), metadata)}

    def _object(self, value: Opaque) -> _Work:
        if not _is_call(value.args, value.how):
            raise UnsupportedError(f"{_named(value)} with arguments that no pickle has cannot be written")
        name = yield ("<name>",), value.name
        self._unmade.add(id(value))
        args = (yield ("<args>",), value.args) if id(value.args) in self._shared else (yield from _each(value.args, "<args>"))
        self._unmade.remove(id(value))
        steps: list[Json] = []
        for step, payload in value.steps:
            if step == "build":
                steps.append([step, (yield ("<build>",), payload)])
            elif self._known_once(payload, step):
                steps.append([step, (yield from (_each(payload, "<append>") if step == "append" else _each_pair(payload)))])
            else:
                raise UnsupportedError(f"{_named(value)} with steps that no pickle has cannot be written")
        return {"object": name["name"], "how": value.how, "args": args, "steps": steps}

    def _known_once(self, payload: object, step: str) -> TypeGuard[list[Any]]:
        """Whether what a step adds is a list, or a list of pairs, to which nothing else refers: the only kind that reading a pickle makes."""
        if type(payload) is not list or id(payload) in self._shared:
            return False
        return step == "append" or all(type(pair) is tuple and len(pair) == 2 and id(pair) not in self._shared for pair in payload)


class _Decoder:
    """From JSON to values."""

    def __init__(self, resolve: Callable[[Json], Tensor | Storage]) -> None:
        self._resolve = resolve
        self._made: dict[int, object] = {}  # "id" -> what has it
        self._path: list[object] = []
        self._comparisons = budget.Comparisons()
        self._containers = 0

    def run(self, tree: Json) -> object:
        return _run(tree, self._enter, self._path)

    def _enter(self, json: Json) -> object:
        fields: Json = {"list": json} if isinstance(json, list) else json
        if not isinstance(fields, dict) or next(iter(fields), "") in PLAIN:
            return from_json(fields)
        tag = next(iter(fields), "")
        if tag not in _FIELDS or not fields.keys() <= {tag} | _FIELDS[tag]:
            raise damaged(f"has an object of no known form that begins with {tag[:40]!r}")
        if tag == "same":
            number = fields["same"]
            if type(number) is not int or number not in self._made:
                raise damaged("refers to something that is not made yet")
            return self._made[number]
        if tag in {"tensor", "storage"}:
            found = self._resolve(fields[tag])
            if not isinstance(found, Tensor if tag == "tensor" else Storage):
                raise damaged(f"calls something else a {tag}")
            return self._keep(fields, found)
        self._containers += 1
        if self._containers > budget.MOST_CONTAINERS:
            raise budget.too_much("lists and dicts", budget.MOST_CONTAINERS, where="metadata")
        if len(self._path) > MAX_DEPTH:
            raise damaged(f"is nested deeper than {MAX_DEPTH} levels")
        return self._object(fields) if tag == "object" else self._container(tag, fields)

    def _container(self, tag: str, fields: dict[str, Json]) -> _Work:
        if tag == "tuple":
            return self._keep(fields, tuple((yield from _each(array_of(fields[tag])))))
        made = self._keep(fields, {"list": list, "dict": dict, "ordered": OrderedDict}[tag]())
        content = fields[tag]
        if tag == "list":
            made.extend((yield from _each(array_of(content))))
        elif isinstance(content, dict):
            for name, item in content.items():
                made[name] = yield (name,), item
        else:
            for first, second in pairs_of(content):
                key = yield (None,), first
                if fault := key_fault(key):
                    raise damaged(f"has {fault}")
                self._comparisons.count(key, made)
                if key in made:
                    raise damaged("has a key twice")
                made[key] = yield (None,), second
        if "metadata" in fields:
            made._metadata = yield (None,), fields["metadata"]  # noqa: SLF001 - torch's own, set as the reader of pickles sets it
        return made

    def _object(self, fields: dict[str, Json]) -> _Work:
        name, how, given = from_json({"name": fields["object"]}), fields.get("how"), fields.get("args")
        args = tuple((yield from _each(given, "<args>"))) if isinstance(given, list) else (yield (None,), given)
        if not isinstance(name, Global) or not isinstance(how, str) or how not in _HOWS or not _is_call(args, how):
            raise damaged("has an object that is made in no known way")
        made = Opaque(name, _HOWS[how], args)
        self._keep(fields, made)
        for step, payload in pairs_of(fields.get("steps")):
            if step == "build":
                made.steps.append(("build", (yield (None,), payload)))
            elif step == "append":
                made.steps.append(("append", (yield from _each(array_of(payload), "<append>"))))
            elif step == "setitem":
                made.steps.append(("setitem", [(key, value) for key, value in (yield from _each_pair(pairs_of(payload)))]))
            else:
                raise damaged("has an object with a step of no known kind")
        return made

    def _keep(self, fields: dict[str, Json], made: Any) -> Any:
        if "id" in fields and not (type(number := fields["id"]) is int and self._made.setdefault(number, made) is made):
            raise damaged("has an id that is no number or stands twice")
        return made


def _run(root: Any, enter: Callable[[Any], Any], path: list[object]) -> Any:
    """What `enter` makes of `root`; for a container it returns a generator that asks for the children. Depth costs no recursion."""
    levels: list[tuple[_Work, int]] = []
    answer = enter(root)
    while levels or isinstance(answer, GeneratorType):
        if isinstance(answer, GeneratorType):
            levels.append((answer, len(path)))
            answer = None
        work, depth = levels[-1]
        del path[depth:]
        try:
            step, value = work.send(answer)
        except StopIteration as done:
            levels.pop()
            answer = done.value
        else:
            path.extend(step)
            answer = enter(value)
    return answer


def _each(values: Iterable[Any], *above: str) -> _Work:
    made = []
    for index, value in enumerate(values):
        made.append((yield (*above, index), value))
    return made


def _each_pair(pairs: Iterable[Any]) -> _Work:
    made = []
    for index, (key, value) in enumerate(pairs):
        made.append([(yield ("<setitem>", index, 0), key), (yield ("<setitem>", index, 1), value)])
    return made


def _find_shared(root: object) -> set[int]:
    """The id() of each node that is reached more than once. The empty tuple is one object everywhere, so it does not count."""
    met, shared = {id(root)}, set()
    waiting = [root]
    while waiting:
        for pair in children(waiting.pop()):
            for node in pair:
                if isinstance(node, _NODES) and node != ():
                    if id(node) in met:
                        shared.add(id(node))
                    else:
                        met.add(id(node))
                        waiting.append(node)
    return shared


def _is_call(args: object, how: str) -> TypeGuard[tuple[object, ...]]:
    """Whether `args` are what model.Opaque says of `how`."""
    return type(args) is tuple and (how != "newobj_ex" or [type(part) for part in args] == [tuple, dict])


def _named(value: object) -> str:
    return f"a {value.name}" if isinstance(value, Opaque) else f"a {type(value).__name__}"
