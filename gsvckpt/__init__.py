"""gsvckpt: a toolbox for GPT-SoVITS and plain PyTorch checkpoints.

`open`, `load_state_dict`, `verify` and `record` are its Python side. Importing it imports neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsvckpt.keeping import record_file as record
    from gsvckpt.loading import OpenCheckpoint as OpenCheckpoint
    from gsvckpt.loading import load_state_dict as load_state_dict
    from gsvckpt.loading import open_file as open
    from gsvckpt.verification import verify_file as verify

__version__ = "0.1.0"
__all__ = ["OpenCheckpoint", "__version__", "load_state_dict", "open", "record", "verify"]

_PLACES = {
    "open": ("loading", "open_file"),
    "load_state_dict": ("loading", "load_state_dict"),
    "OpenCheckpoint": ("loading", "OpenCheckpoint"),
    "verify": ("verification", "verify_file"),
    "record": ("keeping", "record_file"),
}


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for (PEP 562), so that the command line starts without it."""
    if name in _PLACES:
        from importlib import import_module

        module, attribute = _PLACES[name]
        return getattr(import_module(f"gsvckpt.{module}"), attribute)
    raise AttributeError(f"module 'gsvckpt' has no attribute {name!r}")
