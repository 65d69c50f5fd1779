"""The choice tape: every random decision of a run, by label, recorded and repeatable.

A seed only fills the tape. Draws are addressed by their label, so that leaving out one fault does not move the draws of
another. A replay reads a recorded tape and stops at the first decision that does not fit.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import eq
from typing import NamedTuple, overload

from toolkit.core.errors import RallyError


class Choice(NamedTuple):
    """One decision: `value` in `range(bound)` for what `label` names."""

    label: str
    value: int
    bound: int


class _Decisions(Sequence[Choice]):
    """What is on a tape, up to now."""

    def __init__(self, labels: list[str], values: array[int], bounds: array[int]) -> None:
        self._labels, self._values, self._bounds = labels, values, bounds
        self._length = len(labels)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Choice]:
        return islice(map(Choice, self._labels, self._values, self._bounds), self._length)

    @overload
    def __getitem__(self, at: int) -> Choice: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Choice]: ...

    def __getitem__(self, at: int | slice) -> Choice | Sequence[Choice]:
        if isinstance(at, slice):
            return list(self)[at]
        index = range(self._length)[at]
        return Choice(self._labels[index], self._values[index], self._bounds[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class TapeMismatch(RallyError):
    """A replay asked for another decision than the tape holds at that place."""


class Tape:
    """Answers every question of a run that has several answers.

    Args:
        seed: fills the tape where nothing is recorded.
        recorded: decisions to repeat, in their order; with `strict` the run must ask exactly these.
        strict: a decision that does not fit raises TapeMismatch; otherwise the rest of the tape is dropped and the seed
            goes on, which is what shrinking needs.
    """

    def __init__(self, seed: int, recorded: Sequence[Choice] = (), *, strict: bool = True) -> None:
        self.seed = seed
        # Side by side: a run makes millions of choices, and as tuples they would take four times the memory.
        self._labels: list[str] = []
        self._values, self._bounds = array("q"), array("q")
        self._recorded = recorded
        self._next = 0
        self._strict = strict
        #: set at the first decision that did not fit; whoever asked may have swallowed the error
        self.mismatch: TapeMismatch | None = None
        #: by label, what gives random bits
        self._streams: dict[str, Callable[[int], int]] = {}
        self._drawers: dict[str, Callable[[int], int]] = {}

    @property
    def choices(self) -> Sequence[Choice]:
        """All decisions so far. Each is made when it is looked at: there are millions, and mostly nobody looks."""
        return _Decisions(self._labels, self._values, self._bounds)

    def draw(self, label: str, bound: int) -> int:
        """A number in `range(bound)`; the same one for the same seed, label and count of draws of that label.

        Args:
            label: names the decision.
            bound: of 63 bits at most.

        Raises:
            TapeMismatch: the recorded tape has another decision here, or has ended.
        """
        assert bound > 0, f"{label}: a choice needs at least one possibility, not {bound}"
        value = self._replayed(label, bound) if self._recorded else None
        if value is None:
            # What `random.randrange` does, without its checks: this is hot, and the numbers are its own.
            draw_bits = self._streams.get(label) or self._stream(label)
            bits = bound.bit_length()
            value = draw_bits(bits)
            while value >= bound:
                value = draw_bits(bits)
        self._labels.append(label)
        self._values.append(value)
        self._bounds.append(bound)
        return value

    def drawer(self, label: str) -> Callable[[int], int]:
        """`draw` for one label that is drawn very often: a third faster, and the same numbers."""
        if label not in self._drawers:
            self._drawers[label] = self._new_drawer(label)
        return self._drawers[label]

    def _new_drawer(self, label: str) -> Callable[[int], int]:
        draw_bits = self._streams.get(label) or self._stream(label)
        add_label, add_value, add_bound = self._labels.append, self._values.append, self._bounds.append

        def draw(bound: int) -> int:
            if self._recorded or bound <= 0:
                return self.draw(label, bound)
            bits = bound.bit_length()
            value = draw_bits(bits)
            while value >= bound:
                value = draw_bits(bits)
            add_label(label)
            add_value(value)
            add_bound(bound)
            return value

        return draw

    def _replayed(self, label: str, bound: int) -> int | None:
        if self._next >= len(self._recorded):
            if self._strict:
                raise self._misfit(
                    f"the tape ends after {len(self._recorded)} decisions, and the run asks for {label!r} "
                    f"(of {bound}); it was recorded with another scenario or version"
                )
            return None
        choice = self._recorded[self._next]
        if (choice.label, choice.bound) != (label, bound):
            if self._strict:
                raise self._misfit(
                    f"decision {self._next} of the tape is {choice.label!r} of {choice.bound}, and the run asks for "
                    f"{label!r} of {bound}; it was recorded with another scenario or version"
                )
            self._recorded = ()
            return None
        self._next += 1
        return choice.value

    def _misfit(self, words: str) -> TapeMismatch:
        self.mismatch = self.mismatch or TapeMismatch(words)
        return self.mismatch

    def _stream(self, label: str) -> Callable[[int], int]:
        digest = hashlib.blake2b(f"{self.seed}/{label}".encode(), digest_size=16).digest()
        stream = self._streams[label] = random.Random(int.from_bytes(digest, "big")).getrandbits
        return stream

    def between(self, label: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.draw(label, high - low + 1)

    def fraction(self, label: str) -> float:
        """A number in [0, 1), in steps of 2**-32."""
        return self.draw(label, 1 << 32) / (1 << 32)

    def one_of(self, label: str, options: Sequence[object]) -> object:
        """One of the options."""
        return options[self.draw(label, len(options))]
