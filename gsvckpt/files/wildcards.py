"""Words of a command line that name files: wildcards, which Windows' shells leave to the program, and quotes that were pasted with a path."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from gsvckpt.errors import MissingError
from gsvckpt.files.paths import is_url

_MAGIC = frozenset("*?[")


def read_paths(words: Sequence[str], *, expands: bool = os.name == "nt") -> list[str]:
    """The paths that words stand for. A word that is there as it is written is never a pattern, whatever it holds, and nothing but `*?[` is one.

    `expands`: the shell has left wildcards to the program. Raises MissingError for a pattern that nothing matches.
    """
    found: list[str] = []
    for word in map(_unquoted, words):
        if not expands or is_url(word) or not _MAGIC.intersection(word) or os.path.lexists(word):
            found.append(word)
            continue
        matches = sorted(glob.glob(_pattern(word)))
        if not matches:
            raise MissingError("no file has such a name", path=word, hint="see the names that are there: gsvckpt inspect FOLDER")
        found += matches
    return found


def _unquoted(word: str) -> str:
    """Without the quotes that "Copy as path" puts around a path, where a program hands them on."""
    is_quoted = len(word) > 2 and word[0] == word[-1] == '"'
    return word[1:-1] if is_quoted and not os.path.lexists(word) else word


def _pattern(word: str) -> str:
    """A folder that is there as it is written is no pattern, even if its name has brackets."""
    folder, name = os.path.split(word)
    return os.path.join(glob.escape(folder), name) if folder and os.path.isdir(folder) else word
