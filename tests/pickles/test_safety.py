"""The verdict on names. Whole files with payloads are judged in tests/hostile."""

from __future__ import annotations

import sys

import pytest

from gsvckpt.model import DTYPES, Global
from gsvckpt.pickles.safety import judge, judge_all


def verdict(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    return judge(Global(module, name))


@pytest.mark.parametrize(
    "name",
    [
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
        "torch.storage.UntypedStorage",
        "torch.float16",
        "torch.Size",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "utils.HParams",
        "__builtin__.set",
        "builtins.set",
        "_codecs.encode",
        "numpy.dtype",
        "numpy._core.multiarray.scalar",
    ],
)
def test_safe(name: str) -> None:
    assert verdict(name) == "safe"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_safe(dtype: str) -> None:
    assert verdict(f"torch.{dtype}") == "safe"


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval", "builtins.getattr", "sys.exit"),
        *(
            "importlib.import_module",
            "marshal.loads",
            "pickle.loads",
            "_pickle.loads",
            "shutil.rmtree",
            "pathlib.Path.unlink",
            "operator.methodcaller",
        ),
        *("functools.partial", "types.FunctionType", "types.CodeType", "commands.getoutput", "asyncio.run", "webbrowser.open", "ctypes.CDLL"),
        *("torch.load", "torch.serialization.load", "torch.storage._load_from_bytes", "torch.hub.load", "torch.jit.load", "numpy.load"),
        *("dill.loads", "cloudpickle.loads", "joblib.load", "pip.main", "torch.utils.cpp_extension.load_inline", "collections.abc.Callable"),
    ],
)
def test_unsafe(name: str) -> None:
    assert verdict(name) == "unsafe"


@pytest.mark.parametrize("name", ["lightning.Thing", "utils.something", "torch.nn.Linear", "HParams", "", "torch.\n.x", "my_os.system"])
def test_unknown(name: str) -> None:
    assert verdict(name) == "unknown"


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("torch", "serialization.os.system", "unsafe"),
        ("torch", "hub.load", "unsafe"),
        ("collections", "OrderedDict.fromkeys", "unsafe"),
        ("numpy", "os.system", "unsafe"),
        ("lightning", "fabric.Thing", "unknown"),
        ("os.path", "join", "unsafe"),
    ],
)
def test_names_that_reach_through_attributes(module: str, name: str, expected: str) -> None:
    assert judge(Global(module, name)) == expected


def test_no_module_of_the_standard_library_is_unknown() -> None:
    assert {judge(Global(module, "anything")) for module in sys.stdlib_module_names} == {"unsafe"}


def test_the_worst_name_decides() -> None:
    safe, unknown, unsafe = Global("torch", "Size"), Global("a", "b"), Global("os", "system")
    assert judge_all([]).verdict == "safe"
    assert judge_all([safe]).verdict == "safe"
    assert judge_all([safe, unknown]).verdict == "unknown"
    assert judge_all([unsafe, unknown, safe]).verdict == judge_all([safe, unknown, unsafe]).verdict == "unsafe"
    assert judge_all([safe, unsafe]).globals == (("torch.Size", "safe"), ("os.system", "unsafe"))
