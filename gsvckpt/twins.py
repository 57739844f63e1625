"""Files that are the same as one that was read, byte for byte, but for tensor data, checksums, configs, and how far training had come.

Saves of one run are, and those of two runs whose names have the same length. To compare the bytes takes a twentieth of the time of reading them as
a zip and a pickle, and is as sure: whatever the reader looks at is equal, or is looked at again (resemblance). So a folder of thousands of saves is
seen in seconds. A longer name makes a longer pickle, and moves what follows; such a file is read. (Retention asks for less, see likeness.)
"""

from __future__ import annotations

import threading

from gsvckpt.accounting import Account
from gsvckpt.examination import Examination
from gsvckpt.files import LocalSource
from gsvckpt.resemblance import Known, Twin, learn, recognise
from gsvckpt.spans import Span, gather

_MOST_RECORDS = 16_000  # of all files that are remembered; 1 KB each
_TRIES = 16  # files of one size that a file is compared with


class Twins:
    """Files that were read, the last that had a twin last. A size is learnt when it comes again, as learning takes as long as reading."""

    def __init__(self) -> None:
        self._twins: list[Twin] = []
        self._sizes: set[int] = set()
        self._lock = threading.Lock()

    def recall(self, source: LocalSource) -> Known | None:
        """What a file is that has a twin among them. Raises GsvError for one that cannot be read, or not be examined."""
        with self._lock:
            alike = [twin for twin in reversed(self._twins) if twin.size == source.size]
        gathered: dict[tuple[Span, ...], bytearray] = {}
        for twin in alike[:_TRIES]:
            data = gathered.get(twin.gaps) or gathered.setdefault(twin.gaps, gather(source, twin.gaps))
            known = recognise(twin, source, data)
            if known is not None:
                self._prefer(twin)
                return known
        return None

    def keep(self, examination: Examination, counted: Account) -> None:
        """Remember a file that was read, if others can be its twins."""
        source = examination.checkpoint.source
        with self._lock:
            if source.size not in self._sizes:
                self._sizes.add(source.size)
                return
        twin = learn(examination, counted)
        if twin is None:
            return
        with self._lock:
            self._twins.append(twin)
            while len(self._twins) > 1 and sum(len(one.examination.checkpoint.records) for one in self._twins) > _MOST_RECORDS:
                del self._twins[0]

    def _prefer(self, twin: Twin) -> None:
        with self._lock:
            for number, one in enumerate(self._twins):
                if one is twin:
                    self._twins.append(self._twins.pop(number))
                    return
