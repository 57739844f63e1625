"""Print the one JSON document of a run, as results come."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from gsvckpt.engine.document import finite, head
from gsvckpt.report.output import LostOutput, printing


class _Document:
    """The JSON document of a run while it is printed. Where standard output takes no more of it, that is told at its end, and the work goes on."""

    files = 0
    lost: LostOutput | None = None

    def write(self, text: str) -> None:
        try:
            if self.lost is None:
                with printing():
                    sys.stdout.write(text)
                    sys.stdout.flush()  # who reads it may want to go on with each file
        except LostOutput as lost:
            self.lost = lost


_begun: list[_Document] = []  # the one that is not ended yet


def forget_document() -> None:
    """Forget the document of the last run, because a new run prints its own."""
    _begun.clear()


def begin_document(command: str, extra: Mapping[str, object] | None = None) -> None:
    """Begin the one JSON document of a run, on stdout; `print_document` ends it. `command` is empty where none was recognised."""
    _begun.append(_Document())
    _begun[0].write(f'{{{_members({**head(command), **(extra or {})})},\n  "files": [')


def add_file(file: Mapping[str, object]) -> None:
    """One file of the document that is begun."""
    document = _begun[0]
    document.write(f"{',' if document.files else ''}\n    {_dump(file, 4)}")
    document.files += 1


def print_document(command: str, exit_code: int, files: Iterable[Mapping[str, object]], extra: Mapping[str, object] | None = None) -> None:
    """End the one JSON document of a run, or print all of it where it is not begun. Its files go out one by one; the exit code stands last.

    Raises LostOutput.
    """
    if not _begun:
        begin_document(command)
    for file in files:
        add_file(file)
    document = _begun.pop()
    end = "\n  ]" if document.files else "]"
    document.write(f"{end},{_members({**(extra or {}), 'exit_code': exit_code})}\n}}\n")
    if document.lost is not None:
        raise document.lost


def _members(facts: Mapping[str, object]) -> str:
    return ",".join(f"\n  {_dump(key, 2)}: {_dump(value, 2)}" for key, value in facts.items())


def _dump(value: object, indent: int) -> str:
    """JSON whose later lines are indented by so many blanks more."""
    import json

    return json.dumps(finite(value), indent=2, allow_nan=False).replace("\n", "\n" + " " * indent)  # within texts, line ends are escaped
