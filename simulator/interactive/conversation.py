"""One process that holds a run, as its owner talks to it: a question, an answer; and all that the run has said so far.

Ctrl-C may strike at any moment. Answers are numbered, and those that nobody waits for any more are passed over; each
question tells how many events are here, so that those of a lost answer come with the next one.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import weakref
from array import array
from dataclasses import replace

from simulator.interactive.keeper import Keeper
from simulator.interactive.line import Line, LineError
from simulator.interactive.messages import (
    Answer,
    Ask,
    Branch,
    Failed,
    Nothing,
    Request,
    Start,
    State,
    unpack_events,
)
from simulator.kernel import LimitReached
from simulator.rng import TapeMismatch
from simulator.tripwire import RealWorldTouched
from toolkit.core.errors import ConfigurationError, RallyError
from toolkit.core.events import AnyEvent

CLOSED = "this simulation is closed; start another one"
_KINDS: dict[str, type[RallyError]] = {
    kind.__name__: kind
    for kind in (ConfigurationError, LimitReached, LineError, RealWorldTouched, TapeMismatch)
}


class HostError(RallyError):
    """The process that holds a run has failed: an error of the simulator, with its traceback as a note."""


class HostLost(HostError):
    """The process that holds a run is gone, or was told to go."""


class Conversation:
    """With one process. Safe in threads; one question at a time.

    Args:
        end: our end of its line.
        keeper: of its family.
        like: the conversation with whose process it shares all that was said; None for the first one.
    """

    def __init__(self, end: socket.socket, keeper: Keeper, like: Conversation | None = None) -> None:
        self._line = Line(end)
        self._keeper = keeper
        self._lock = threading.RLock()
        self._asked = 0
        self.state: State = State() if like is None else like.state
        #: what agents said, in the order of the world, and when each was said
        self.events: list[AnyEvent] = [] if like is None else list(like.events)
        self.said_ns: array[int] = array("q") if like is None else like.said_ns[:]
        keeper.joined()
        self._close = weakref.finalize(self, _close, self._line, keeper, os.getpid())

    def ask(self, ask: Ask, descriptors: tuple[int, ...] = ()) -> Answer:
        """Ask, and wait for the answer; take the state and the events that come with it.

        Raises:
            ConfigurationError: what was asked for can't be done.
            HostLost: nobody answers.
            HostError: the process has failed.
        """
        with self._lock:
            self._asked += 1
            answer = self._answer_to(Request(self._asked, len(self.events), ask), descriptors)
            self.state = answer.state
            self._take(answer)
        if isinstance(answer.result, Failed):
            raise _error_of(answer.result)
        return answer

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._close.alive

    def _answer_to(self, request: Request, descriptors: tuple[int, ...]) -> Answer:
        try:
            self._line.send(pickle.dumps(request), descriptors)
            while True:
                answer: Answer = pickle.loads(self._line.receive()[0])
                if answer.number == request.number:
                    return answer
        except (EOFError, OSError) as error:
            if not self.is_open:
                raise HostLost(CLOSED) from error
            raise HostLost(
                f"the process that holds this simulation ({self.state.pid or self._keeper.pid}) has ended, "
                "perhaps for want of memory; rewind it, or start another one"
            ) from error

    def _take(self, answer: Answer) -> None:
        new = unpack_events(answer.events) if answer.events else []
        # Whatever half of an earlier answer is here goes first.
        del self.events[answer.have :], self.said_ns[answer.have :]
        self.said_ns.extend(answer.said_ns)
        self.events.extend(new)

    def catch_up(self) -> None:
        """Pass over what nobody waited for, and learn where the run stands now."""
        self.ask(Nothing())

    def fork(self) -> Conversation:
        """A conversation with a process of its own, in which the run stands where it stands here.

        Raises:
            ConfigurationError: this machine has no room for it.
            HostLost: nobody answers.
        """
        with self._lock:
            ours, theirs = socket.socketpair()
            try:
                pid = self.ask(Branch(), (theirs.fileno(),)).result
                made = Conversation(ours, self._keeper, self)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        made.state = replace(self.state, pid=pid)
        return made

    def close(self) -> None:
        """The process ends. May be called again."""
        self._close()


def begun(scenario: bytes, subject: str, seed: int) -> Conversation:
    """Start a process with a run in it.

    Raises:
        ConfigurationError: there can't be such a run.
        HostLost: the process could not be started.
    """
    ours, theirs = socket.socketpair()
    try:
        conversation = Conversation(ours, Keeper(theirs))
    except OSError as error:
        ours.close()
        raise HostLost(
            f"the process for a simulation can't be started: {sys.executable}: {error.strerror}; "
            "is that a Python, and is there room for one more process?"
        ) from error
    except BaseException:
        ours.close()
        raise
    try:
        conversation.ask(Start(scenario, subject, seed))
    except BaseException:
        conversation.close()
        raise
    return conversation


def _close(line: Line, keeper: Keeper, owner: int) -> None:
    if os.getpid() != owner:
        line.let_go()  # a fork of the owner has no say in it
        return
    line.close()
    keeper.left()


def _error_of(failed: Failed) -> RallyError:
    kind = _KINDS.get(failed.kind)
    if kind is not None:
        return kind(failed.words)
    error = HostError(f"the simulation failed with {failed.kind}: {failed.words}")
    error.add_note(failed.traceback)
    return error
