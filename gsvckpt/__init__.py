"""gsvckpt: a toolbox for GPT-SoVITS and plain PyTorch checkpoints.

`open`, `load_state_dict`, `verify` and `record` are its Python side. Importing it imports neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsvckpt.version import __version__ as __version__

if TYPE_CHECKING:
    from gsvckpt.commands.verify.after import record_file as record
    from gsvckpt.commands.verify.file import verify_file as verify
    from gsvckpt.engine.load import OpenCheckpoint as OpenCheckpoint
    from gsvckpt.engine.load import load_state_dict as load_state_dict
    from gsvckpt.engine.load import open_file as open

__all__ = ["OpenCheckpoint", "__version__", "load_state_dict", "open", "record", "verify"]

_PLACES = {
    "open": ("engine.load", "open_file"),
    "load_state_dict": ("engine.load", "load_state_dict"),
    "OpenCheckpoint": ("engine.load", "OpenCheckpoint"),
    "verify": ("commands.verify.file", "verify_file"),
    "record": ("commands.verify.after", "record_file"),
}


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for (PEP 562), so that the command line starts without it."""
    if name in _PLACES:
        from importlib import import_module

        module, attribute = _PLACES[name]
        return getattr(import_module(f"gsvckpt.{module}"), attribute)
    raise AttributeError(f"module 'gsvckpt' has no attribute {name!r}")
