"""What to do next, as it is said beside an error or a finding: a command that can be pasted, a sentence, or both."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

_PARTS = r"""'[^']*'|"[^"]*"|<[A-Z-]+>"""  # of a command: what is quoted, and placeholders. A file may be called <FILE>, and is quoted then.


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
        """As it is printed: a shell takes the text behind a command for a comment."""
        return f"{self.command}  # {self.text}" if self.command and self.text else self.command or self.text

    def as_json(self) -> HintJson:
        """The `hint` object of the JSON documents: both keys, of which one or both may be empty."""
        return {"text": self.text, "command": self.command}

    def fill(self, words: Mapping[str, str]) -> Hint:
        """The hint with words, quoted already, for placeholders of its command that are known by now."""
        return replace(self, command=re.sub(_PARTS, lambda part: words.get(part[0], part[0]), self.command))


NO_HINT = Hint()
TRY_SALVAGE = Hint("writes what is whole; better get the file again", "gsvckpt migrate <SOURCE> --salvage")  # at a file that ends early


def quote_word(word: str) -> str:
    """A path or another word as a shell takes it: it runs nothing in it, and takes no file for an option."""
    if os.name == "nt":
        return f'"{word}"'  # no file name on Windows holds a quote
    from shlex import quote  # hints are rare

    return quote(f"./{word}" if word.startswith("-") else word)
