"""Files that are the same as one that was read, byte for byte, but for tensor data, checksums, configs, and how far training had come.

Saves of one run are, and those of two runs whose names have the same length. To compare the bytes takes a twentieth of the time of reading them as
a zip and a pickle, and is as sure: whatever the reader looks at is equal, or is looked at again (resemblance). So a folder of thousands of saves is
seen in seconds. A longer name makes a longer pickle, and moves what follows; such a file is read. (Retention asks for less, see likeness.)
"""

from __future__ import annotations

import threading

from gsvckpt.commands.inspect.breakdown import Account
from gsvckpt.commands.inspect.structure_cache import Known, Twin, learn, recognise
from gsvckpt.engine.examine import Examination
from gsvckpt.files.local import LocalSource
from gsvckpt.files.spans import Span, gather

_MOST = 48 << 20  # bytes of memory, about, for all files that are remembered; a crafted one may take five times what it seems to
_MOST_SEEN = 1_000  # sizes that came once
_TRIES = 16  # files of one size that a file is compared with


class Twins:
    """Files that were read, the last that had a twin last. A size is learnt when it comes again, as learning takes twice as long as reading."""

    def __init__(self) -> None:
        self._twins: list[Twin] = []
        self._seen: dict[tuple[int, int], None] = {}  # a set in order: sizes of files and of their pickles
        self._lock = threading.Lock()

    def recall(self, source: LocalSource) -> Known | None:
        """What a file is that has a twin among them. Raises GsvError for one that cannot be read, or not be examined."""
        with self._lock:
            alike = [twin for twin in reversed(self._twins) if twin.size == source.size]
        gathered: dict[tuple[Span, ...], bytearray] = {}
        tries = 0
        for twin in alike:
            data = gathered.get(twin.gaps) or gathered.setdefault(twin.gaps, gather(source, twin.gaps))
            if not twin.is_alike(data):
                continue
            if tries == _TRIES:
                break
            tries += 1
            known = recognise(twin, source, data)
            if known is not None:
                self._prefer(twin)
                return known
        return None

    def keep(self, examination: Examination, counted: Account) -> None:
        """Remember a file that was read, if others can be its twins."""
        checkpoint = examination.checkpoint
        pickled = next((record.size for record in checkpoint.records if record.name.endswith("data.pkl")), 0)
        with self._lock:
            if (checkpoint.source.size, pickled) not in self._seen:
                self._seen[checkpoint.source.size, pickled] = None
                if len(self._seen) > _MOST_SEEN:
                    del self._seen[next(iter(self._seen))]
                return
        twin = learn(examination, counted)
        if twin is None or twin.weight > _MOST:
            return
        with self._lock:
            self._twins.append(twin)
            while sum(one.weight for one in self._twins) > _MOST:
                del self._twins[0]

    def _prefer(self, twin: Twin) -> None:
        with self._lock:
            for number, one in enumerate(self._twins):
                if one is twin:
                    self._twins.append(self._twins.pop(number))
                    return
