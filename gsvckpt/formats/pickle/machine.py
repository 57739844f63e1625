"""A pickle virtual machine that never runs anything: names stay names, calls become recipes.

It understands every opcode of protocols 0 to 5 (CPython `Lib/pickletools.py`) except extension codes and out-of-band buffers. CPython's C unpickler
is not used: it allocates by memo index (nine bytes can cost 2 GiB) and runs `find_class` results. Here opcodes and what they make are counted against
the limits in `budget`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.formats.pickle import frames
from gsvckpt.formats.pickle.calls import tell_calls
from gsvckpt.formats.pickle.objects import OBJECTS
from gsvckpt.formats.pickle.scalars import SCALARS
from gsvckpt.formats.pickle.state import MAX_DOUBTS, EndOfPickle, Handler, Persist, Reduce, State
from gsvckpt.model import Call, Doubt, Global

_ROUND = 1 << 16  # opcodes between two looks at the stack
_STOP = 0x2E


def _refuse_persistent(_: object) -> NoReturn:
    raise DamagedError("refers to an object outside the pickle")


class Machine:
    """One run over one pickle.

    `reduce(name, args)` may turn a call into a value of ours and returns None to keep it as an Opaque; `persist(pid)` resolves persistent ids. After
    `run`, `position` is the first byte behind the pickle. `globals` holds every name met, also when `run` failed. `max_opcodes` lowers the limit, for
    data that may be no pickle at all; `executed` is how many were run, rounded down to rounds of _ROUND. `memo` is what is remembered already.
    `doubts` are the places that readers may read differently, or that no pickler writes so.
    """

    def __init__(
        self,
        data: bytes,
        *,
        reduce: Reduce,
        persist: Persist = _refuse_persistent,
        position: int = 0,
        max_opcodes: int | None = None,
        memo: dict[int, object] | None = None,
    ) -> None:
        self.data = data
        self.position = position
        self._limit = budget.MOST_OPCODES if max_opcodes is None else min(max_opcodes, budget.MOST_OPCODES)
        self.executed = 0
        self._stop: int | None = None
        self.doubts: tuple[Doubt, ...] = ()
        self._start = position
        self._state = State(data, reduce, persist, position)
        if memo is not None:
            self._state.memo = memo

    @property
    def globals(self) -> dict[Global, Global]:
        return self._state.globals

    @property
    def calls(self) -> tuple[Call, ...]:
        """Which of the names were called, and how; also when `run` failed."""
        return tell_calls(self._state.made, self._state.called)

    @property
    def is_clean(self) -> bool:
        """Whether the pickle left no other object on the stack, and copied nothing (see State.charge)."""
        return not self._state.stack and not self._state.copied

    @property
    def latin1(self) -> int:
        """How many byte strings of Python 2 are no UTF-8. They are read as Latin-1, and so are all others of this pickle then."""
        return self._state.latin1

    def run(self) -> object:
        """Return the pickled value. Raises DamagedError (EndOfPickle at the end of the data) or UnsupportedError with the byte in `where`."""
        root = self._run_once()
        if not (self._state.latin1 and self._state.utf8):
            return root
        before, self.doubts, self.position = self._state, (), self._start
        self._state = State(self.data, before.reduce, before.persist, self._start, all_latin1=True)
        return self._run_once()

    def _run_once(self) -> object:
        try:
            return self._run()
        finally:
            state = self._state
            self.doubts = (*self.doubts, *state.doubts)
            if state.frames and not self.doubts and self._stop is None:  # others may get further, by what the frames say
                begin, _ = state.frames[-1]
                self.doubts = (Doubt(f"pickle byte {begin:,}", "a frame in a damaged pickle"),)

    def _run(self) -> object:
        data, position, state = self.data, self.position, self._state
        try:
            for done in range(0, self._limit, _ROUND):
                self.executed = done
                for _ in range(min(_ROUND, self._limit - done)):
                    code = data[position]
                    if code == _STOP:
                        return self._finish(position)
                    position = _TABLE[code](state, position + 1)
                state.look_around()
            self.executed = self._limit
            raise budget.too_much("opcodes", self._limit, check="pickle.bomb")
        except (DamagedError, UnsupportedError) as error:
            error.where = error.where or f"pickle byte {position:,}"
            if isinstance(error, DamagedError) and error.check == error.usual_check:
                error.check = "pickle.damaged"
            raise
        except (IndexError, struct.error) as error:
            ended = position >= len(data) - 9  # no fixed-size operand is longer than 8 bytes
            failure, why = (
                (EndOfPickle, "the pickle ends early") if ended else (DamagedError, "the pickle takes more from its stack than it put there")
            )
            raise failure(why, where=f"pickle byte {position:,}", check="pickle.damaged") from error
        except (KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, AttributeError) as error:
            why = f"the pickle is damaged ({type(error).__name__}: {str(error)[:80]})"
            raise DamagedError(why, where=f"pickle byte {position:,}", check="pickle.damaged") from error

    def _finish(self, position: int) -> object:
        self.position = position + 1
        self._stop = position
        if self._state.frames:
            self.doubts = tuple(frames.find_doubts(self.data, self._state.frames, position))[:MAX_DOUBTS]
        self._state.look_around()
        if self._state.marks:
            raise DamagedError("stops inside an unfinished container")
        return self._state.stack.pop()


class PickleFragment(NamedTuple):
    """What opcodes from the middle of a pickle make: one object, the names in it in order of first use, and the numbers by which parts of it are
    remembered.
    """

    value: object
    globals: tuple[Global, ...]
    memo: frozenset[int]


class _Memo(dict[int, object]):
    """What is remembered, of which only a part is known."""

    def __len__(self) -> int:
        raise KeyError("how much is remembered by now")


def run_fragment(data: bytes, texts: Mapping[int, str], reduce: Reduce) -> PickleFragment | None:
    """Run opcodes as they would run where they stand, if that is certain.

    None unless they make one object out of nothing but themselves and the remembered `texts`, all of which they leave, and copy nothing. No limit on
    the whole pickle is looked at: the caller must know that they cannot matter.
    """
    memo = _Memo(texts)
    machine = Machine(data + b".", reduce=reduce, memo=memo)
    try:
        value = machine.run()
    except (DamagedError, UnsupportedError):
        return None
    if (
        machine.position != len(data) + 1
        or not machine.is_clean
        or machine.doubts
        or machine.latin1
        or _is_odd(machine)
        or any(memo[number] is not text for number, text in texts.items())
    ):
        return None
    return PickleFragment(value, tuple(machine.globals), frozenset(memo.keys() - texts.keys()))


def _is_odd(machine: Machine) -> bool:
    """Whether it calls anything so that the verdict on it hangs on the arguments."""
    return any(call.oddity or call.reached for call in machine.calls)


def _unknown(state: State, position: int) -> int:
    raise DamagedError(f"0x{state.data[position - 1]:02x} is not a pickle opcode")


def _unsupported(_state: State, _position: int) -> int:
    raise UnsupportedError("uses extension codes or out-of-band buffers, which no checkpoint does")


_UNSUPPORTED = dict.fromkeys((0x82, 0x83, 0x84, 0x97, 0x98), _unsupported)  # EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER
_KNOWN: dict[int, Handler] = {**SCALARS, **OBJECTS, **_UNSUPPORTED}
_TABLE: list[Handler] = [_KNOWN.get(code, _unknown) for code in range(256)]
