"""Escape characters that hide text or change its direction: one rule for the screen and for every text file that is written.

A name like `gpj.exe` behind U+202E reads `exe.jpg`, and zero-width characters make two names look the same. Letters of all scripts stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# What str.isprintable lets through although nothing is seen: fillers, blanks and joiners (Unicode, Default_Ignorable_Code_Point).
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # one chooses the form of the letter before it; more of them only carry hidden bytes
# Compiled when they are first needed: names in ASCII alone need neither.
_SUSPECT = f"[{_UNSEEN}{_SELECTORS}]"
_CHOOSING = f"(?<=[^\x00-\x7f{_UNSEEN}{_SELECTORS}])[{_SELECTORS}]"
_LONGEST_SHORT = 0xFFFF


def is_plain(text: str) -> bool:
    """Whether nothing in a text turns or hides any of it, or controls a terminal."""
    return text.isprintable() and (text.isascii() or not re.search(_SUSPECT, re.sub(_CHOOSING, "", text)))


def escape(text: str, spell: Callable[[str], str]) -> str:
    """The text with every such character as `spell` writes it."""
    if text.isprintable() and (text.isascii() or not re.search(_SUSPECT, text)):
        return text
    chosen = {found.start() for found in re.finditer(_CHOOSING, text) if text[found.start() - 1].isprintable()}
    shown = (char.isprintable() and (place in chosen or not re.match(_SUSPECT, char)) for place, char in enumerate(text))
    return "".join(char if seen else spell(char) for char, seen in zip(text, shown, strict=True))


def escape_shown(text: str) -> str:
    """For a terminal, and wherever people read, as Python writes it."""
    return escape(text, lambda char: char.encode("unicode-escape").decode())


def escape_toml(document: str) -> str:
    """A TOML document whose keys and texts are bare or in double quotes; it says the same. What is no Unicode becomes the replacement character, as
    TOML cannot say it.
    """
    return "\n".join(escape(line, _spell_toml) for line in document.split("\n"))


def escape_json(document: str) -> str:
    """A JSON document; it says the same."""
    return "\n".join(escape(line, _spell_json) for line in document.split("\n"))


def escape_yaml(line: str) -> str:
    """A text in double quotes; it says the same."""
    return escape(line, lambda char: f"\\U{ord(char):08x}")


def _spell_toml(char: str) -> str:
    point = 0xFFFD if 0xD800 <= ord(char) <= 0xDFFF else ord(char)
    return f"\\u{point:04x}" if point <= _LONGEST_SHORT else f"\\U{point:08x}"


def _spell_json(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
