"""A cache of file structures, so that a file with a known structure need not be parsed again.

Saves of one run are byte for byte the same except for tensor data, checksums, configs and progress; so are saves of two runs whose names have the
same length. Comparing the bytes takes a twentieth of the time of parsing the zip and the pickle, and is as reliable: everything that the parser looks
at is either equal or read again (see known_structure). So a folder of thousands of saves is listed in seconds. A longer name makes the pickle longer
and moves what follows; such a file is parsed. (Prune needs less, see commands/prune/known_beginning.)
"""

from __future__ import annotations

import threading

from gsvckpt.commands.inspect.breakdown import Account
from gsvckpt.commands.inspect.known_structure import Known, KnownStructure, apply_structure, find_structure
from gsvckpt.engine.examine import Examination
from gsvckpt.files.local import LocalSource
from gsvckpt.files.spans import Span, gather

_MOST = 48 << 20  # bytes of memory, about, for all structures; a crafted one may take five times what it seems to
_MOST_SEEN = 1_000  # sizes that came once
_TRIES = 16  # structures of one size that a file is compared with
_IN_VAIN = 4  # structures of one size that are kept before one of them is found again


class StructureCache:
    """The known structures, the most recently used last.

    One is kept when its size comes again, as that takes twice as long as reading, and no more where those of its size are never found again:
    Lightning counts batches all over its files, so no two of these are equal.
    """

    def __init__(self) -> None:
        self._known: list[KnownStructure] = []
        self._seen: dict[tuple[int, int], int] = {}  # by sizes of a file and its pickle: how many were kept since one was found again
        self._lock = threading.Lock()

    def get(self, source: LocalSource) -> Known | None:
        """What a file is whose structure is known. Raises GsvError for one that cannot be read, or not be examined."""
        with self._lock:
            possible = [known for known in reversed(self._known) if known.size == source.size]
        gathered: dict[tuple[Span, ...], bytearray] = {}
        tries = 0
        for known in possible:
            data = gathered.get(known.gaps) or gathered.setdefault(known.gaps, gather(source, known.gaps))
            if not known.has_length(data):
                continue
            if tries == _TRIES:
                break
            tries += 1
            found = apply_structure(known, source, data)
            if found is not None:
                self._prefer(known)
                return found
        return None

    def add(self, examination: Examination, counted: Account) -> None:
        """Keep the structure of a file that was read, if others can have it."""
        checkpoint = examination.checkpoint
        pickled = next((record.size for record in checkpoint.records if record.name.endswith("data.pkl")), 0)
        if not self._is_worth_it((checkpoint.source.size, pickled)):
            return
        known = find_structure(examination, counted)
        if known is None or known.weight > _MOST:
            return
        with self._lock:
            self._known.append(known)
            while sum(one.weight for one in self._known) > _MOST:
                del self._known[0]

    def _is_worth_it(self, sizes: tuple[int, int]) -> bool:
        """Whether these sizes came before, and what was kept of them is of use."""
        with self._lock:
            kept = self._seen.get(sizes)
            self._seen[sizes] = 0 if kept is None else min(kept + 1, _IN_VAIN)
            if len(self._seen) > _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            return kept is not None and kept < _IN_VAIN

    def _prefer(self, known: KnownStructure) -> None:
        sizes = known.size, known.pickle[1] - known.pickle[0]
        with self._lock:
            if sizes in self._seen:
                self._seen[sizes] = 0
            for number, one in enumerate(self._known):
                if one is known:
                    self._known.append(self._known.pop(number))
                    return
