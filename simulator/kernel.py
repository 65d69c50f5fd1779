"""Virtual time and tasks: blocking code runs in greenlets under one hub, and time jumps to the next happening.

Nothing here polls: a task that waits is parked until somebody wakes it or its time is over. Happenings of one moment
are taken in an order that the choice tape draws, so that races are explored, and found again.
"""

from __future__ import annotations

import contextvars
import gc
import hashlib
import heapq
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import greenlet

from simulator.rng import Tape
from toolkit.core.errors import RallyError

SECOND = 1_000_000_000

#: steps between two collections of garbage, at fixed places so that finalisers run at the same step each time
_COLLECT_EVERY = 50_000
#: steps between two updates of the digest; divides the other
_HASH_EVERY = 200

#: stands where other happenings have the wait that they end: a timer is for whichever wait there is by then
_TIMER = -1


class LimitReached(RallyError):
    """The run took more steps, time or tasks than it may."""


class TaskKilled(BaseException):
    """Thrown into what is left of a task when the run is over. Not an Exception: nobody catches it by accident."""


class Owner(Protocol):
    """What tasks belong to: a node that can be paused or cut off from power."""

    @property
    def paused(self) -> bool: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a run may go on.

    Args:
        steps: happenings.
        time_ns: virtual nanoseconds.
        tasks: tasks that exist at one time.
    """

    steps: int = 5_000_000
    time_ns: int = 7 * 24 * 3600 * SECOND
    tasks: int = 200_000


class Task:
    """Blocking code on a stack of its own.

    Args:
        number: counts the tasks of a run.
        name: for the trace.
        owner: whose it is; None for the world's own.
    """

    __slots__ = (
        "number",
        "name",
        "owner",
        "greenlet",
        "waits_for",
        "since_ns",
        "token",
        "deadline_ns",
        "timers",
        "done",
        "killed",
        "timed_out",
        "on_done",
    )

    def __init__(self, number: int, name: str, owner: Owner | None) -> None:
        self.number = number
        self.name = name
        self.owner = owner
        self.greenlet: Any = None
        self.waits_for = "its start"
        self.since_ns = 0
        #: counts the parks; a wake-up for an earlier one is stale
        self.token = 0
        #: when the park ends by itself; None for never
        self.deadline_ns: int | None = None
        #: when its timers go off that are in the heap, the next one last. Most parks have no timer of their own: an
        #: earlier one serves, and is set again if it goes off too early.
        self.timers: list[int] = []
        self.done = False
        self.killed = False
        self.timed_out = False
        self.on_done: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"Task({self.name}, waits for {self.waits_for})"


class TraceEntry(NamedTuple):
    """One step: when, which, what and whose."""

    at_ns: int
    step: int
    what: str


class Kernel:
    """The hub.

    Args:
        tape: draws the order of what happens at the same moment.
        limits: where the run is stopped.
        trace_length: steps that `trace` keeps, the latest ones.
    """

    def __init__(self, tape: Tape, limits: Limits = Limits(), trace_length: int = 2_000) -> None:
        self.now_ns = 0
        self.steps = 0
        self.tape = tape
        self.tasks: dict[int, Task] = {}
        self.crashes: list[tuple[Task, BaseException]] = []
        # Plain tuples that are not put into words yet: few are ever looked at.
        self._trace: deque[tuple[int, int, str, str, str]] = deque(maxlen=trace_length)
        self._limits = limits
        self._times: list[int] = []
        self._due: dict[int, list[tuple[str, Task | None, int, Callable[[], None] | None]]] = {}
        #: what came for the tasks of an owner while it was paused, by the task's number: the wait, and what ends it
        self._deferred: dict[Owner, dict[int, tuple[int, str]]] = {}
        self._hub = greenlet.getcurrent()
        #: the task that runs now; None in the hub
        self.current: Task | None = None
        self._spawned = 0
        #: of what happened, and of when
        self._hashes = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        #: steps that the hashes have not taken yet: many at once cost less
        self._unhashed: list[str] = []
        self._unhashed_ns = array("q")
        #: the next step at which there is something to do for the count
        self._look_at = 0
        self._stop = ""
        self._closing = False

    # -- what tasks call ------------------------------------------------------------------------------------

    def park(self, why: str, timeout_ns: int | None = None) -> bool:
        """Wait until `wake`, or for `timeout_ns` nanoseconds at the most. Only inside a task.

        Returns:
            True if woken, False if the time was over.
        """
        task = self.current
        assert task is not None, f"only a task can wait ({why})"
        if self._closing:
            raise TaskKilled
        task.token += 1
        task.waits_for, task.since_ns, task.timed_out = why, self.now_ns, False
        if timeout_ns is None:
            task.deadline_ns = None
        else:
            task.deadline_ns = at_ns = self.now_ns + (timeout_ns if timeout_ns > 0 else 0)
            if not task.timers or at_ns < task.timers[-1]:
                self._set_timer(task, at_ns)
        self._hub.switch()
        return not task.timed_out

    def sleep(self, duration_ns: int, why: str = "sleep") -> None:
        """Let virtual time pass for the calling task."""
        self.park(why, duration_ns)

    # -- what anybody calls ---------------------------------------------------------------------------------

    def spawn(self, run: Callable[[], Any], name: str, owner: Owner | None = None, after_ns: int = 0) -> Task:
        """Start a task.

        Raises:
            LimitReached: too many tasks.
        """
        if len(self.tasks) >= self._limits.tasks:
            raise LimitReached(f"more than {self._limits.tasks} tasks exist at one time")
        self._spawned += 1
        task = Task(self._spawned, name, owner)

        def body(*_: Any) -> None:
            try:
                run()
            except TaskKilled:
                return
            except Exception as error:  # noqa: BLE001 - the edge of a task: a finding, with who and what
                self.crashes.append((task, error))
            finally:
                task.done = True
                self.tasks.pop(task.number, None)
                if task.on_done is not None and not task.killed:
                    task.on_done()

        task.greenlet = greenlet.greenlet(body, self._hub)
        task.greenlet.gr_context = contextvars.copy_context()
        self.tasks[task.number] = task
        self._put(self.now_ns + after_ns, "start", task, task.token, None)
        return task

    def wake(self, task: Task, delay_ns: int = 0) -> None:
        """Let a parked task go on. Does nothing if it has gone on since, or is done."""
        if not task.done and not task.killed:
            self._put(self.now_ns + delay_ns, "wake", task, task.token, None)

    def go_on(self, task: Task) -> None:
        """Let a parked task go on at once: the last thing that a happening does. Costs half of a `wake`."""
        assert self.current is None, f"{task.name} can go on at once only out of a happening"
        if task.done or task.killed:
            return
        if task.owner is not None and task.owner.paused:
            self._defer(task, "wake")
        else:
            task.timed_out = False
            task.token += 1
            self.current = task
            task.greenlet.switch()
            self.current = None

    def call_at(self, at_ns: int, what: str, happen: Callable[[], None]) -> None:
        """Have `happen` called in the hub at a moment; it must not block."""
        self._put(max(at_ns, self.now_ns), what, None, 0, happen)

    def call_after(self, delay_ns: int, what: str, happen: Callable[[], None]) -> None:
        """The same, from now."""
        self._put(self.now_ns + (delay_ns if delay_ns > 0 else 0), what, None, 0, happen)

    def kill(self, task: Task) -> None:
        """Cut a task off for ever: it never runs again, and nothing of its clean-up does while the run goes on."""
        task.killed = True

    @property
    def trace(self) -> list[TraceEntry]:
        """The latest steps, as many as are kept."""
        return [
            TraceEntry(at_ns, step, f"{what} {name}: {wait}" if name else what)
            for at_ns, step, what, name, wait in self._trace
        ]

    def keep_trace(self, length: int) -> None:
        """Keep so many steps from now on."""
        self._trace = deque(self._trace, maxlen=length)

    def resume(self, owner: Owner) -> None:
        """Let the tasks of an owner that was paused go on, each with what came first for it."""
        for number, (token, what) in self._deferred.pop(owner, {}).items():
            task = self.tasks.get(number)
            if task is not None:
                self._put(self.now_ns, what, task, token, None)

    def stop(self, why: str) -> None:
        """End the run before its next step, with LimitReached. Safe in a signal handler."""
        self._stop = why

    def digest(self) -> str:
        """A fingerprint of everything that has happened."""
        self._take_into_hash()
        return hashlib.blake2b(b"".join(part.digest() for part in self._hashes), digest_size=16).hexdigest()

    def _take_into_hash(self) -> None:
        self._unhashed.append("")  # ends what came before, so that it is no matter when this is called
        what, when = self._hashes
        what.update("\n".join(self._unhashed).encode())
        when.update(self._unhashed_ns)
        self._unhashed.clear()
        del self._unhashed_ns[:]

    # -- the hub --------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] = lambda: False, until_ns: int | None = None) -> bool:
        """Let things happen until `until` says so, or nothing is left to happen by `until_ns`.

        Returns:
            Whether `until` was reached.

        Raises:
            LimitReached: the run takes more than its limits, or was told to stop.
            TapeMismatch: it asks for other decisions than the recorded tape holds.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            while not until():
                if not self._times or (until_ns is not None and self._times[0] > until_ns):
                    if until_ns is not None:
                        self.now_ns = max(self.now_ns, until_ns)
                    return until()
                self._step()
            return True
        finally:
            self.current = None
            if collecting:
                gc.enable()

    def _step(self) -> None:
        # The hottest code there is: each line is some percent of a simulation.
        at_ns = self._times[0]
        due = self._due[at_ns]
        if len(due) > 1:
            # Swap and pop: the order within one moment means nothing anyway.
            index = self.tape.draw("schedule", len(due))
            due[index], due[-1] = due[-1], due[index]
            what, task, token, happen = due.pop()
        else:
            what, task, token, happen = due[0]
            heapq.heappop(self._times)
            del self._due[at_ns]
        if task is not None:
            if task.killed or task.done:
                return
            if token == _TIMER:
                if task.timers.pop() != task.deadline_ns:
                    self._went_off_early(task, at_ns)
                    return
            elif task.token != token:
                return  # stale: it went on for another reason
        self.now_ns = at_ns
        self.steps = step = self.steps + 1
        if task is None:
            self._trace.append((at_ns, step, what, "", ""))
            self._unhashed.append(what)
        else:
            self._trace.append((at_ns, step, what, task.name, task.waits_for))
            self._unhashed += (what, task.name, task.waits_for)
        self._unhashed_ns.append(at_ns)
        if step >= self._look_at or at_ns > self._limits.time_ns or self._stop:
            self._keep_count()
        if task is None:
            happen()  # type: ignore[misc]  # what is no task is a happening
        elif task.owner is not None and task.owner.paused:
            self._defer(task, what)
        else:
            task.timed_out = what == "timeout"
            task.token += 1
            self.current = task
            task.greenlet.switch()
            self.current = None
        if self.tape.mismatch is not None:
            raise self.tape.mismatch  # also if the code that asked for the decision took it for its own error

    def _defer(self, task: Task, what: str) -> None:
        assert task.owner is not None, "who belongs to nobody is never paused"
        # Whatever comes after it for the same wait is stale.
        self._deferred.setdefault(task.owner, {}).setdefault(task.number, (task.token, what))

    def _set_timer(self, task: Task, at_ns: int) -> None:
        task.timers.append(at_ns)
        self._put(at_ns, "timeout", task, _TIMER, None)

    def _went_off_early(self, task: Task, at_ns: int) -> None:
        """The wait that there is now ends later than the timer that served for it, or never."""
        due_ns = task.deadline_ns
        if due_ns is not None and due_ns > at_ns and (not task.timers or due_ns < task.timers[-1]):
            self._set_timer(task, due_ns)

    def _keep_count(self) -> None:
        """What is due at some steps only.

        Raises:
            LimitReached: the run takes more than its limits, or was told to stop.
        """
        step, limits = self.steps, self._limits
        if step > limits.steps or self.now_ns > limits.time_ns or self._stop:
            raise LimitReached(self._why_to_stop())
        if step % _HASH_EVERY == 0:
            self._take_into_hash()
            if step % _COLLECT_EVERY == 0:
                gc.collect(0)
        self._look_at = min(step - step % _HASH_EVERY + _HASH_EVERY, limits.steps + 1)

    def _why_to_stop(self) -> str:
        if self._stop:
            return self._stop
        if self.steps > self._limits.steps:
            return f"the run takes more than {self._limits.steps} steps"
        return f"the run takes more than {self._limits.time_ns / SECOND:.0f} s of virtual time"

    def _put(
        self, at_ns: int, what: str, task: Task | None, token: int, happen: Callable[[], None] | None
    ) -> None:
        due = self._due.get(at_ns)
        if due is None:
            self._due[at_ns] = [(what, task, token, happen)]
            heapq.heappush(self._times, at_ns)
        else:
            due.append((what, task, token, happen))

    def waiting(self) -> list[Task]:
        """Tasks that wait and could still go on."""
        return [task for task in self.tasks.values() if not task.killed and not task.done]

    def close(self) -> None:
        """End the run: what is left of tasks is unwound. Whatever their clean-up calls must be dead by then."""
        self._closing = True
        for task in list(self.tasks.values()):
            if task.greenlet:
                task.killed = True
                self.current = task
                try:
                    task.greenlet.throw(TaskKilled)
                except TaskKilled:
                    pass
                finally:
                    self.current = None
        self.tasks.clear()
        self._times.clear()
        self._due.clear()
