"""A toolbox for GPT-SoVITS and plain PyTorch checkpoints.

From Python: the commands as functions, and `open`, `load_state_dict` and `record`. Importing it imports neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsvckpt.version import __version__ as __version__

if TYPE_CHECKING:
    from gsvckpt.commands.python.convert_fp16 import convert_fp16 as convert_fp16
    from gsvckpt.commands.python.inspect import inspect as inspect
    from gsvckpt.commands.python.migrate import migrate as migrate
    from gsvckpt.commands.python.prune import prune as prune
    from gsvckpt.commands.python.strip_optimizer import strip_optimizer as strip_optimizer
    from gsvckpt.commands.python.verify import verify as verify
    from gsvckpt.commands.verify.after import record_file as record
    from gsvckpt.engine.load import OpenCheckpoint as OpenCheckpoint
    from gsvckpt.engine.load import load_state_dict as load_state_dict
    from gsvckpt.engine.load import open_file as open
    from gsvckpt.errors import GsvError as GsvError

_PLACES = {
    "inspect": ("commands.python.inspect", "inspect"),
    "convert_fp16": ("commands.python.convert_fp16", "convert_fp16"),
    "strip_optimizer": ("commands.python.strip_optimizer", "strip_optimizer"),
    "verify": ("commands.python.verify", "verify"),
    "prune": ("commands.python.prune", "prune"),
    "migrate": ("commands.python.migrate", "migrate"),
    "open": ("engine.load", "open_file"),
    "load_state_dict": ("engine.load", "load_state_dict"),
    "OpenCheckpoint": ("engine.load", "OpenCheckpoint"),
    "record": ("commands.verify.after", "record_file"),
    "GsvError": ("errors", "GsvError"),
}

__all__ = [
    "GsvError", "OpenCheckpoint", "__version__", "convert_fp16", "inspect", "load_state_dict", "migrate", "open", "prune", "record",
    "strip_optimizer", "verify",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for (PEP 562), so that the command line starts without it."""
    if name in _PLACES:
        from importlib import import_module

        module, attribute = _PLACES[name]
        return getattr(import_module(f"gsvckpt.{module}"), attribute)
    raise AttributeError(f"module 'gsvckpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]
