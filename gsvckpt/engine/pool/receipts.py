"""What a process leaves behind before it publishes an output, so that nothing is done twice where it dies before it can tell.

A receipt says what stood at the output's place before, and what the result is. Where something else of the right size stands there afterwards, the
output was published, and the next process that is asked for it hands the result on. It lies beside the output under the name of a temporary file,
until whoever asked for the result has it. It is JSON: nothing of it is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from gsvckpt.files.temporary import unlink

_Identity = list[int]  # size, time and number; that of the device differs from machine to machine


class Receipt(NamedTuple):
    """The receipt called `token`, a temporary file's name, in `folder`."""

    token: str
    folder: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.token)

    def keep(self, output: str, size: int, result: Mapping[str, object]) -> None:
        """Leave the receipt for an output of `size` bytes that is about to be published. That of an earlier attempt stays. Raises OSError."""
        if os.path.exists(self.path):
            return
        text = json.dumps({"output": output, "before": _identify(output), "size": size, "result": result})
        try:
            with open(self._part, "w", encoding="utf-8", errors="surrogatepass") as file:
                file.write(text)
            os.replace(self._part, self.path)
        except BaseException:  # Ctrl-C, too
            self.remove()
            raise

    def find(self) -> dict[str, Any] | None:
        """The result that was left, if its output was published; None where there is none or it was not."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            with open(self.path, encoding="utf-8", errors="surrogatepass") as file:
                left = json.load(file)
            now = _identify(left["output"])
            if now is not None and now != left["before"] and (os.path.isdir(left["output"]) or now[0] == left["size"]):
                result = left["result"]
                return result if isinstance(result, dict) else None
        return None

    def remove(self) -> None:
        """The result has arrived, or none will."""
        for path in (self.path, self._part):
            with suppress(OSError):
                unlink(path)

    @property
    def _part(self) -> str:
        """What becomes the receipt, so that it is there whole or not at all."""
        return f"{self.path}.part"


def _identify(path: str) -> _Identity | None:
    with suppress(OSError):
        facts = os.stat(path)
        return [facts.st_size, facts.st_mtime_ns, facts.st_ino]
    return None
