"""The plain value of an object, for --plain."""

from __future__ import annotations

from gsvckpt.model import Opaque
from gsvckpt.sovits.config import simple_form


def simple_value(value: Opaque) -> object:
    """The plain value of an object: of NumPy's arrays and numbers, of configs, paths and devices; the object itself for any other."""
    from gsvckpt.formats.pickle.numpy_values import plain_value  # only --plain needs it

    found = plain_value(value)
    return found if found is not value else simple_form(value)
