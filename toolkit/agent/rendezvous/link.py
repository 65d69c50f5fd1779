"""One connection to the job's store that is made anew when it breaks, until the store has been silent for too long.

An operation that was broken off is tried again, and so is what was told before it and had no answer yet: a write that
was on its way is lost with the connection, and nobody says so. All those used here may be: sets, and compare-and-set of
values that are one of a kind, do the same twice; readers leave out what was appended twice; `add` may count twice,
which its callers allow for or forbid with `once`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from toolkit.core.errors import StoreError, StoreLostError
from toolkit.ports import Bell, Clock, Store, StoreConnector

_R = TypeVar("_R")

#: one attempt to connect, and the pause between two, in seconds
CONNECT_S, RETRY_S = 5.0, 0.25

#: a value that no key has
_NOTHING = b"\0nothing"


class Ambiguous(StoreError):
    """The connection broke under an operation that must not be done twice; whether it was done is not known."""


class Birth:
    """Which store it is: one that was started anew at the same address knows nothing of the job."""

    def __init__(self) -> None:
        #: a key that only the store of this job has; empty before this agent has come in
        self.mark = ""

    def is_that_of(self, store: Store) -> bool:
        """Whether this is the store that the agent came to first."""
        return not self.mark or store.check([self.mark])


class Link:
    """A connection for one task.

    Args:
        connector: makes connections.
        clock: of this node.
        pause: waits between two attempts; whoever wants the link to give up rings it.
        timeout_s: how long the store may be gone.
        birth: which store it is.
        given_up: whether nobody wants it any more.
        on_broken: called when the connection has broken, before it is made anew.
    """

    def __init__(
        self,
        connector: StoreConnector,
        clock: Clock,
        pause: Bell,
        timeout_s: float,
        birth: Birth,
        given_up: Callable[[], bool] = lambda: False,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._connector = connector
        self._clock = clock
        self._pause = pause
        self._timeout_s = timeout_s
        self._birth = birth
        self._given_up = given_up
        self._on_broken = on_broken
        self._store: Store | None = None
        #: told since the last answer, in that order: what a connection that breaks now takes with it
        self._untold: list[Callable[[Store], object]] = []
        #: counts the answers: who sees it stand knows that the store is silent
        self.answers = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._store is not None

    def call(self, operation: Callable[[Store], _R], *, once: bool = False) -> _R:
        """Do an operation that the store answers.

        Raises:
            StoreLostError: the store could not be reached for `timeout_s`.
            Ambiguous: it broke, and `once` forbids to try again.
        """
        answer = self._attempt(operation, once=once)
        if self._untold:
            self._untold.clear()
        self.answers += 1
        return answer

    def tell(self, operation: Callable[[Store], object], *, lasting: bool = True) -> None:
        """Do an operation that torch's stores don't answer (`set`, `multi_set`): done when a later one is answered.

        Args:
            lasting: whether to tell it again if the connection breaks before that; not what is told anew soon.
        """
        if lasting:
            self._untold.append(operation)
        try:
            if self._store is not None or not lasting:
                operation(self._connected(0.0))
            else:
                self._connected(0.0)  # tells it, too
        except StoreLostError:
            raise
        except (StoreError, RuntimeError, OSError):
            self._break()
            self._attempt((lambda store: None) if lasting else operation)

    def find(self, key: str) -> bytes | None:
        """The value of a key that need not be there. Never waits for it.

        `get` after `check` would, if the key is deleted in between: so it is compared with a value that no key has,
        which changes nothing. Not without the `check`: on a missing key that wakes who waits for it, for nothing (torch
        2.13 with libuv).
        """
        if not self.call(lambda store: store.check([key])):
            return None
        found = self.call(lambda store: store.compare_set(key, _NOTHING, _NOTHING))
        return None if found == _NOTHING else found

    def write(self, values: Mapping[str, bytes], *, lasting: bool = True) -> None:
        """Set several keys at once; see `tell`."""
        self.tell(lambda store: store.multi_set(list(values), list(values.values())), lasting=lasting)

    def _attempt(self, operation: Callable[[Store], _R], *, once: bool = False) -> _R:
        failing_since_ns: int | None = None
        failing_s = 0.0
        while True:
            tried = False
            try:
                store = self._connected(failing_s)
                tried = True
                return operation(store)
            except StoreLostError:
                raise
            # torch's stores raise RuntimeErrors.
            except (StoreError, RuntimeError, OSError) as error:
                self._break()
                if once and tried:
                    raise Ambiguous(f"the connection to {self._connector.where} broke: {error}") from error
                now_ns = self._clock.now_ns()
                failing_since_ns = now_ns if failing_since_ns is None else failing_since_ns
                failing_s = (now_ns - failing_since_ns) / 1e9
                self._heed_end(error, failing_s)
                self._pause.wait(RETRY_S)

    def _break(self) -> None:
        if self._store is not None:
            self._store = None
            self._on_broken()

    def _connected(self, failing_s: float) -> Store:
        if self._store is None:
            left_s = max(self._timeout_s - failing_s, RETRY_S)
            store = self._connector.connect(min(CONNECT_S, left_s))
            if not self._birth.is_that_of(store):
                raise StoreLostError(
                    f"the store of the job at {self._connector.where} was started anew and knows nothing of this job; "
                    "start the job anew, with an endpoint on a node that stays"
                )
            for told in self._untold:
                told(store)
            self._store = store
        return self._store

    def _heed_end(self, error: Exception, failing_s: float) -> None:
        if self._given_up():
            raise StoreLostError(f"the store at {self._connector.where} was given up") from error
        if failing_s >= self._timeout_s:
            raise StoreLostError(lost(self._connector.where, failing_s, _first_line(error))) from error


def lost(where: str, silent_s: float, why: str) -> str:
    """What is said of a store that is gone."""
    return (
        f"the store of the job at {where} can't be reached any more, tried for {silent_s:.0f} s ({why}); its host has "
        "ended or is cut off: start the job anew, with an endpoint on a node that stays"
    )


def _first_line(error: BaseException) -> str:
    # torch puts a C++ stack trace below it.
    return (str(error).splitlines() or [""])[0] or type(error).__name__
