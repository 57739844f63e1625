"""Names that are data, and the forms in which their own libraries pickle them: arguments, state and items.

A harmless class is harmless only so: with other flags numpy.dtype makes NumPy follow pointers that a file chooses, and Fraction("1e999999999") never
ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from gsvckpt.formats.pickle import numpy_forms, torch_forms
from gsvckpt.formats.pickle.torch_names import ALLOWED, DTYPE_NAMES, STORAGE_CLASSES, TENSOR_CLASSES
from gsvckpt.model import Global, Opaque

Form = Callable[[Opaque], bool]

_LONGEST_NUMBER = 4_000  # digits: Python itself refuses to read more
_FRACTION = r"[-+]?[0-9]{1,4000}(/[0-9]{1,4000})?"
_TEXT_CODECS = frozenset("latin1 latin-1 ascii utf-8 utf8 utf-16 utf-32".split())
_OBJECT = (Global("builtins", "object"), Global("__builtin__", "object"))
_NONE_TYPES = (Global("builtins", "Ellipsis"), Global("builtins", "NotImplemented"))


def never(_: Opaque) -> bool:
    """Refuse any call: these names are never called."""
    return False


def _arguments(made: Opaque) -> tuple[object, ...] | None:
    """Positional arguments; None where there are others, or steps behind the call."""
    return made.args if made.how != "newobj_ex" and not made.steps and isinstance(made.args, tuple) else None


def _of(*kinds: type, most: int, least: int = 0) -> Form:
    """So many arguments, each of one of these types."""

    def fits(made: Opaque) -> bool:
        args = _arguments(made)
        return args is not None and least <= len(args) <= most and all(isinstance(arg, kinds) for arg in args)

    return fits


def _container(made: Opaque) -> bool:
    """`set([1, 2])`: from a list or tuple that stands in the pickle, as anything else could be endless."""
    args = _arguments(made)
    return args is not None and len(args) <= 1 and all(isinstance(arg, (list, tuple)) or _is_container(arg) for arg in args)


def _is_container(value: object) -> bool:
    return isinstance(value, Opaque) and value.name.name in ("set", "frozenset") and value.name.module in ("builtins", "__builtin__")


def _with_items(fits: Callable[[tuple[object, ...]], bool], step: str) -> Form:
    """Arguments that fit, then items of one kind and no state."""

    def check(made: Opaque) -> bool:
        return made.how != "newobj_ex" and isinstance(made.args, tuple) and fits(made.args) and all(done == step for done, _ in made.steps)

    return check


def _fits_dict(args: tuple[object, ...]) -> bool:
    return not args or (len(args) == 1 and (isinstance(args[0], dict) or _is_pairs(args[0])))


def _is_pairs(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)


def _fits_deque(args: tuple[object, ...]) -> bool:
    return not args or (len(args) <= 2 and isinstance(args[0], (list, tuple)) and (len(args) == 1 or args[1] is None or isinstance(args[1], int)))


def _fits_defaultdict(args: tuple[object, ...]) -> bool:
    return not args or (len(args) <= 2 and (args[0] is None or isinstance(args[0], Global)) and _fits_dict(args[1:]))


def _ordered(made: Opaque) -> bool:
    """An OrderedDict by NEWOBJ, with items and `_metadata`, which torch hangs on state dicts."""
    return (
        isinstance(made.args, tuple)
        and not made.args
        and all(step == "setitem" or (step == "build" and isinstance(state, dict) and set(state) == {"_metadata"}) for step, state in made.steps)
    )


def _plain(made: Opaque) -> bool:
    """An object whose state is its `__dict__`: names and values, one state at most."""
    args = made.args
    if made.how == "newobj_ex" or not isinstance(args, tuple) or args or len(made.steps) > 1:
        return False
    return all(step == "build" and isinstance(state, dict) and all(isinstance(key, str) for key in state) for step, state in made.steps)


def _reconstructed(made: Opaque) -> bool:
    """`copyreg._reconstructor(cls, object, None)`, as protocols 0 and 1 make an object of a class without a form of its own."""
    args = made.args
    if made.how != "reduce" or not isinstance(args, tuple) or len(args) != 3 or not isinstance(args[0], Global):
        return False
    if args[1] not in _OBJECT or args[2] is not None or FORMS.get(args[0], _plain) not in (_plain, _uuid):
        return False
    return FORMS.get(args[0], _plain)(Opaque(args[0], "newobj", (), made.steps))


def _encoded(made: Opaque) -> bool:
    """Text in a codec that Python has built in."""
    args = _arguments(made)
    if args is None or not 1 <= len(args) <= 3 or not isinstance(args[0], str):
        return False
    return all(isinstance(arg, str) for arg in args) and (len(args) == 1 or args[1] in _TEXT_CODECS)


def _bytes(made: Opaque) -> bool:
    """Bytes, or text with a codec; never a number, which is a size."""
    args = _arguments(made)
    if args is None or len(args) > 3:
        return False
    if len(args) <= 1:
        return all(isinstance(arg, (bytes, list)) or (isinstance(arg, Opaque) and arg.name == Global("_codecs", "encode")) for arg in args)
    return _encoded(made)


def _numeral(made: Opaque) -> bool:
    """A number, or its numeral of a sensible length."""
    args = _arguments(made)
    return args is not None and len(args) <= 1 and all(isinstance(arg, (int, float)) or _is_short(arg) for arg in args)


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NUMBER


def _text(made: Opaque) -> bool:
    args = _arguments(made)
    return args is not None and len(args) <= 1 and all(isinstance(arg, str) for arg in args)


def _slice(made: Opaque) -> bool:
    args = _arguments(made)
    return args is not None and 1 <= len(args) <= 3


def _type(made: Opaque) -> bool:
    """`type(None)` and its like, which have no name to be pickled by. With three arguments it makes classes."""
    args = _arguments(made)
    return args is not None and len(args) == 1 and (args[0] is None or args[0] in _NONE_TYPES)


def _fraction(made: Opaque) -> bool:
    """A numerator and a denominator; as text without an exponent, which could stand for a number of any length."""
    args = _arguments(made)
    if args is None or len(args) not in (1, 2):
        return False
    return all(type(arg) is int for arg in args) or (len(args) == 1 and isinstance(args[0], str) and re.fullmatch(_FRACTION, args[0]) is not None)


def _uuid(made: Opaque) -> bool:
    if made.how == "newobj_ex" or made.args != () or len(made.steps) != 1 or made.steps[0][0] != "build":
        return False
    state = made.steps[0][1]
    if not isinstance(state, dict) or not set(state) <= {"int", "is_safe"}:
        return False
    number = state.get("int")
    return type(number) is int and 0 <= number < 1 << 128


def _struct_time(made: Opaque) -> bool:
    args = _arguments(made)
    if args is None or not 1 <= len(args) <= 2 or not isinstance(args[0], tuple) or not 9 <= len(args[0]) <= 11:
        return False
    return all(part is None or isinstance(part, (int, str)) for part in args[0]) and (len(args) == 1 or isinstance(args[1], dict))


def _memory_file(kind: type) -> Form:
    """io.BytesIO or io.StringIO: `(contents, ..., position, attributes)`, the position inside."""

    def check(made: Opaque) -> bool:
        if made.how == "newobj_ex" or made.args != () or len(made.steps) > 1:
            return False
        return all(step == "build" and _is_memory_state(state, kind) for step, state in made.steps)

    return check


def _is_memory_state(state: object, kind: type) -> bool:
    if not isinstance(state, tuple) or len(state) != (3 if kind is bytes else 4) or not isinstance(state[0], kind):
        return False
    contents, position, attributes = state[0], state[-2], state[-1]
    return (
        isinstance(contents, (bytes, str))
        and type(position) is int
        and 0 <= position <= len(contents)
        and (attributes is None or isinstance(attributes, dict))
    )


def _moment(size: int, month: int | None) -> Form:
    """Datetime's own packed bytes (with a time zone behind them), with a month that is one, or plain numbers."""

    def check(made: Opaque) -> bool:
        args = _arguments(made)
        if args is None or not args:
            return False
        if isinstance(args[0], (bytes, str)):
            packed = args[0] if isinstance(args[0], bytes) else args[0].encode("latin-1", "replace")
            zones = args[1:]
            fits = len(packed) == size and (month is None or 1 <= packed[month] & 0x7F <= 12)
            return fits and len(zones) <= 1 and all(zone is None or (isinstance(zone, Opaque) and zone.name in _ZONES) for zone in zones)
        return len(args) <= 8 and all(type(arg) is int for arg in args)

    return check


def _timezone(made: Opaque) -> bool:
    args = _arguments(made)
    if args is None or not 1 <= len(args) <= 2 or not isinstance(args[0], Opaque) or args[0].name != Global("datetime", "timedelta"):
        return False
    return all(isinstance(arg, str) for arg in args[1:])


_ZONES = frozenset([Global("datetime", "timezone"), Global("zoneinfo", "ZoneInfo"), Global("builtins", "getattr"), Global("__builtin__", "getattr")])


def _named(module: str, names: str | Iterable[str], form: Form) -> dict[Global, Form]:
    return {Global(module, name): form for name in (names.split() if isinstance(names, str) else names)}


_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_TYPING = (
    "Any Union Optional List Dict Tuple Set FrozenSet Sequence MutableSequence Mapping MutableMapping Callable Type Iterable Iterator Literal "
    "ClassVar Final Generic Hashable Sized Text AnyStr NoReturn DefaultDict OrderedDict Counter Deque NamedTuple"
)
_NUMPY_SCALARS = (
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp uintp float16 float32 float64 float128 longdouble complex64 complex128 "
    "str_ bytes_ object_ void datetime64 timedelta64 number generic integer floating"
)
_FORMATS = (
    "contiguous_format channels_last channels_last_3d preserve_format strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc jagged _mkldnn"
)
_RANDOM = "numpy.random._pickle"

FORMS: Mapping[Global, Form] = {
    **{Global(module, name): never for module, names in ALLOWED.items() for name in names if module.startswith("torch")},  # most are only named
    **_named("torch", [*DTYPE_NAMES, *_FORMATS.split()], never),
    **{Global(module, name): never for classes in (STORAGE_CLASSES, TENSOR_CLASSES) for module, names in classes.items() for name in names},
    **_named("torch.storage", STORAGE_CLASSES["torch"], never),
    **_named("torch.nn.parameter", "Parameter Buffer", torch_forms.bare_parameter),
    **_named("torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3", torch_forms.view),
    **_named("torch._utils", "_rebuild_parameter _rebuild_parameter_with_state", torch_forms.parameter),
    **_named("torch._utils", "_rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy", torch_forms.moved),
    Global("torch._utils", "_rebuild_qtensor"): torch_forms.quantized,
    Global("torch._utils", "_rebuild_sparse_tensor"): torch_forms.sparse,
    Global("torch._utils", "_rebuild_sparse_csr_tensor"): torch_forms.sparse_csr,
    Global("torch._utils", "_rebuild_nested_tensor"): torch_forms.nested,
    Global("torch._utils", "_rebuild_meta_tensor_no_storage"): torch_forms.without_memory,
    Global("torch._utils", "_rebuild_wrapper_subclass"): never,  # a tensor without memory: honest only for classes that nobody knows here
    **_named("torch._tensor", "_rebuild_from_type _rebuild_from_type_v2", torch_forms.typed),
    Global("torch", "Size"): torch_forms.size,
    Global("torch", "device"): torch_forms.device,
    Global("torch.serialization", "_get_layout"): torch_forms.layout,
    **dict.fromkeys((Global("torch", "Generator"), Global("torch._C", "Generator")), torch_forms.generator),
    Global("torch.torch_version", "TorchVersion"): torch_forms.version,
    Global("numpy", "dtype"): numpy_forms.dtype,
    **_named("numpy", ["ndarray", *_NUMPY_SCALARS.split()], never),
    **{Global(f"numpy.{core}.multiarray", "_reconstruct"): numpy_forms.array for core in ("core", "_core")},
    **{Global(f"numpy.{core}.multiarray", "scalar"): numpy_forms.scalar for core in ("core", "_core")},
    **{Global(f"numpy.{core}.numeric", "_frombuffer"): numpy_forms.buffer for core in ("core", "_core")},
    Global(_RANDOM, "__bit_generator_ctor"): numpy_forms.bit_generator,
    **_named(_RANDOM, "__generator_ctor __randomstate_ctor", numpy_forms.generator),
    **{Global(f"numpy.random.{module}", name): never for name, module in numpy_forms.GENERATORS.items()},
    Global("numpy.random.bit_generator", "SeedSequence"): never,
    Global("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): numpy_forms.seed_sequence,
    **_named("builtins", "set frozenset list tuple", _container),
    Global("builtins", "dict"): _with_items(_fits_dict, "setitem"),
    **_named("builtins", "int float bool", _numeral),
    Global("builtins", "complex"): _of(int, float, most=2),
    Global("builtins", "str"): _text,
    **_named("builtins", "bytes bytearray", _bytes),
    Global("builtins", "slice"): _slice,
    Global("builtins", "range"): _of(int, most=3, least=1),
    Global("builtins", "object"): _of(most=0),
    Global("builtins", "type"): _type,
    **_named("builtins", "Ellipsis NotImplemented", never),
    Global("collections", "OrderedDict"): _ordered,
    Global("collections", "defaultdict"): _with_items(_fits_defaultdict, "setitem"),
    Global("collections", "Counter"): _with_items(_fits_dict, "setitem"),
    Global("collections", "deque"): _with_items(_fits_deque, "append"),
    **_named("collections", "UserDict UserList UserString", _plain),
    Global("UserDict", "IterableUserDict"): _plain,  # as protocols 0 to 2 call the one before
    Global("_codecs", "encode"): _encoded,
    Global("copyreg", "_reconstructor"): _reconstructed,
    **_named("pathlib", _PATHS, _of(str, most=1_000)),
    **_named("pathlib._local", _PATHS, _of(str, most=1_000)),  # where Python 3.13 pickles them from
    Global("datetime", "datetime"): _moment(10, 2),
    Global("datetime", "date"): _moment(4, 2),
    Global("datetime", "time"): _moment(6, None),
    Global("datetime", "timedelta"): _of(int, float, most=7),
    Global("datetime", "timezone"): _timezone,
    Global("decimal", "Decimal"): _numeral,
    Global("fractions", "Fraction"): _fraction,
    Global("uuid", "UUID"): _uuid,
    Global("uuid", "SafeUUID"): _of(int, type(None), most=1, least=1),
    **_named("ipaddress", "IPv4Address IPv6Address IPv4Network IPv6Network IPv4Interface IPv6Interface", _of(int, str, tuple, most=1, least=1)),
    Global("zoneinfo", "ZoneInfo"): never,
    Global("time", "struct_time"): _struct_time,
    **{Global(module, "BytesIO"): _memory_file(bytes) for module in ("io", "_io")},
    **{Global(module, "StringIO"): _memory_file(str) for module in ("io", "_io")},
    **_named("typing", _TYPING, never),
    **_named("enum", "Enum IntEnum StrEnum Flag IntFlag", never),
    **_named("numbers", "Number Complex Real Rational Integral", never),
    Global("argparse", "Namespace"): _plain,
    Global("types", "SimpleNamespace"): _plain,
    Global("utils", "HParams"): _plain,  # GPT-SoVITS's config class (GPT_SoVITS/utils.py)
}
