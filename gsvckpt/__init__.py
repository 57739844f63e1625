"""gsvckpt: a toolbox for GPT-SoVITS and plain PyTorch checkpoints.

`open` and `load_state_dict` are its Python side. Importing it imports neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsvckpt.loading import OpenCheckpoint as OpenCheckpoint
    from gsvckpt.loading import load_state_dict as load_state_dict
    from gsvckpt.loading import open_file as open

__version__ = "0.1.0"
__all__ = ["OpenCheckpoint", "__version__", "load_state_dict", "open"]

_PLACES = {"open": "open_file", "load_state_dict": "load_state_dict", "OpenCheckpoint": "OpenCheckpoint"}


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for (PEP 562), so that the command line starts without it."""
    if name in _PLACES:
        from gsvckpt import loading

        return getattr(loading, _PLACES[name])
    raise AttributeError(f"module 'gsvckpt' has no attribute {name!r}")
