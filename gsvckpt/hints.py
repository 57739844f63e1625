"""What to do next, as it is said beside an error or a finding: a command that can be pasted, a sentence, or both."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

_PARTS = r"""'[^']*'|"[^"]*"|<[A-Z-]+>"""  # of a command: what is quoted, and placeholders. A file may be called <FILE>, and is quoted then.


_PLAIN_ON_WINDOWS = r"[\w\\/:.+-]+"  # what neither shell has a meaning for


class HintJson(TypedDict):
    """The `hint` object of the JSON documents."""

    text: str
    command: str


@dataclass(frozen=True)
class Hint:
    """What to do next. `command` is a whole command line, in which `<...>` stands for what is not known; `text` says what it does, or advises alone.

    A hint of neither is false.
    """

    text: str = ""
    command: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.command)

    def __str__(self) -> str:
        """As it is printed: a POSIX shell takes the text behind a command for a comment, while cmd.exe has no comments there."""
        if not (self.command and self.text):
            return self.command or self.text
        return f"{self.text}: {self.command}" if os.name == "nt" else f"{self.command}  # {self.text}"

    def as_json(self) -> HintJson:
        """The `hint` object of the JSON documents: both keys, of which one or both may be empty."""
        return {"text": self.text, "command": self.command}

    def fill(self, words: Mapping[str, str]) -> Hint:
        """The hint with words, quoted already, for placeholders of its command that are known by now."""
        return replace(self, command=re.sub(_PARTS, lambda part: words.get(part[0], part[0]), self.command))


NO_HINT = Hint()
TRY_SALVAGE = Hint("writes what is whole; better get the file again", "gsvckpt migrate <SOURCE> --salvage")  # at a file that ends early


def quote_word(word: str, *, windows: bool = os.name == "nt") -> str:
    """A path or another word as the user's shell takes it: it runs nothing in it, and takes no file for an option.

    On Windows, for cmd.exe and PowerShell: quotes only where they are needed, and double ones, as cmd.exe knows no others. No name there holds one.
    """
    if windows:
        word = f".\\{word}" if word.startswith("-") else word
        return word if re.fullmatch(_PLAIN_ON_WINDOWS, word) else f'"{word}"'
    from shlex import quote  # hints are rare

    return quote(f"./{word}" if word.startswith("-") else word)
