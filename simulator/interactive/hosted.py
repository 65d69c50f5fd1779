"""The handle of a simulation: step it, break it, branch it, rewind it. Plain blocking calls, from any thread.

The run itself is in a process of its own (`host.py`). What stays here is its story: what was said, which faults were
injected and where exactly, and the checkpoints from which any moment of it can be had again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType
from typing import TypeAlias

from simulator.checkers import Record, record_of
from simulator.faults import Fault, check
from simulator.interactive.checkpoints import Checkpoint, Checkpoints
from simulator.interactive.comparison import Comparison, compare
from simulator.interactive.conversation import CLOSED, Conversation, HostLost, begun
from simulator.interactive.messages import (
    ENDLESS,
    Advance,
    Collect,
    Collected,
    Inject,
    Look,
    Moment,
    packed,
)
from simulator.interactive.node_view import NodeView
from simulator.kernel import SECOND
from simulator.report import Report, report_of
from simulator.rng import Choice
from simulator.scenario import Scenario
from simulator.simulation import Outcome
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import AnyEvent
from toolkit.core.timeline import Timeline, fold, fold_all
from toolkit.core.words import host_of, plural

#: real seconds after which the process that runs answers, whatever was reached: Ctrl-C waits for it so long
_SLICE_S = 0.2
#: a checkpoint may take no more than this share of the time
_CHECKPOINTS_SHARE = 0.05

Predicate: TypeAlias = Callable[[Timeline], bool]


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was injected.

    Args:
        fault: as it struck: `at_s` counts from the start of the run.
        place: where the run stood.
        data: the fault as it was given, on its way to the process.
    """

    fault: Fault
    place: Moment
    data: bytes


class _History:
    """One course of a run, from its start to where it stands; going back begins another one."""

    def __init__(
        self,
        talk: Conversation,
        checkpoints: Checkpoints,
        injected: tuple[Injected, ...] = (),
        ran_s: float = 0.0,
    ) -> None:
        self.talk = talk
        self.checkpoints = checkpoints
        self.injected = injected
        #: real seconds that it took
        self.ran_s = ran_s
        self._fork_s = 0.0

    def advance(
        self, *, events: int | None = None, steps: int | None = None, until_ns: int | None = None
    ) -> None:
        """Go on until one of these is reached or nothing more happens, and keep checkpoints on the way."""
        while True:
            answer = self.talk.ask(Advance(events, steps, until_ns, _SLICE_S))
            self.ran_s += answer.ran_s
            self.keep_checkpoint_if_due()
            if answer.result:
                return

    def keep_checkpoint_if_due(self) -> None:
        """By the time that was spent since the last one."""
        pause_s = max(self.checkpoints.spacing_s, self._fork_s / _CHECKPOINTS_SHARE)
        if self.ran_s - self.checkpoints.latest.ran_s >= pause_s:
            self.keep_checkpoint()

    def keep_checkpoint(self) -> None:
        """Of this moment."""
        began_s = monotonic()
        checkpoint = Checkpoint(self.talk.fork(), self.ran_s, len(self.injected))
        self._fork_s = monotonic() - began_s
        self.checkpoints.add(checkpoint)

    def inject(self, fault: Fault, data: bytes) -> None:
        """Let a fault strike, behind a checkpoint."""
        place = self.talk.state.moment
        latest = self.checkpoints.latest
        if (latest.conversation.state.moment, latest.injected) != (place, len(self.injected)):
            self.keep_checkpoint()
        self.strike(Injected(replace(fault, at_s=place.now_ns / SECOND + fault.at_s), place, data))

    def strike(self, injected: Injected) -> None:
        """Let it strike here."""
        self.injected = (*self.injected, injected)
        try:
            self.talk.ask(Inject(injected.data))
        except KeyboardInterrupt:
            self.talk.catch_up()
            raise
        finally:
            # Whether it has struck only the process knows.
            self.injected = self.injected[: self.talk.state.injected]

    def go_to(self, place: Moment) -> None:
        """On to where it stood exactly."""
        now = self.talk.state.moment
        if now.steps < place.steps:
            self.advance(steps=place.steps)
        if self.talk.state.moment != place and place.drained_ns is not None:
            self.advance(until_ns=None if place.drained_ns == ENDLESS else place.drained_ns)
        assert self.talk.state.moment == place, f"{self.talk.state.moment} is not {place}"

    def branch(self) -> _History:
        """Another one, the same up to here."""
        return _History(self.talk.fork(), self.checkpoints.shared(), self.injected, self.ran_s)

    def rewound(self, now_ns: int) -> _History:
        """Another one, the same up to a moment that was, and what was injected before that."""
        kept = [injected for injected in self.injected if injected.place.now_ns < now_ns]
        checkpoint = self.checkpoints.before(now_ns, len(kept))
        back = _History(
            checkpoint.conversation.fork(),
            self.checkpoints.shared(up_to=checkpoint),
            self.injected[: checkpoint.injected],
            checkpoint.ran_s,
        )
        try:
            for injected in kept[checkpoint.injected :]:
                back.go_to(injected.place)
                back.strike(injected)
            if back.talk.state.moment.now_ns < now_ns:
                back.advance(until_ns=now_ns)
        except BaseException:
            back.close()
            raise
        return back

    def close(self) -> None:
        """Its process ends, and the checkpoints that nobody else holds."""
        self.checkpoints.release()
        self.talk.close()


class HostedRun:
    """A simulation that one steps, breaks, branches and rewinds. Blocks; needs no event loop; safe in threads.

    Its process is started afresh and ends with `close`, with this object, or with the process that made it. Ctrl-C
    while it goes on leaves it at a moment from which it can go on.

    Args:
        scenario: what to run.
        seed: draws whatever the scenario leaves open.
        subject: with whom: "rally", "torch" or "rally-over-c10d".

    Raises:
        ConfigurationError: this can't be run.
        HostLost: its process could not be started.
    """

    def __init__(self, scenario: Scenario, seed: int = 0, subject: str = "rally") -> None:
        if not isinstance(scenario, Scenario):
            raise ConfigurationError(
                f"{scenario!r} is no scenario; give a Scenario, or one of simulator.scenarios by its name"
            )
        self.scenario = scenario
        self.seed = seed
        self.subject = subject
        talk = begun(packed(scenario, f"scenario {scenario.name!r}"), subject, seed)
        try:
            checkpoints = Checkpoints(scenario.nodes)
            checkpoints.add(Checkpoint(talk.fork(), 0.0, 0))
        except BaseException:
            talk.close()
            raise
        self._has(_History(talk, checkpoints))

    def _has(self, history: _History) -> None:
        self._history = history
        self._lock = threading.RLock()
        self._folded: tuple[int, Timeline] = 0, Timeline()

    # -- where it stands --------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Virtual time, in seconds."""
        return self._history.talk.state.moment.now_ns / SECOND

    @property
    def steps(self) -> int:
        """Steps of the kernel."""
        return self._history.talk.state.moment.steps

    @property
    def over(self) -> bool:
        """Whether nothing more happens: the job is over, or it is stuck or at a limit, which `finding` says then."""
        state = self._history.talk.state
        return state.over or bool(state.finding)

    @property
    def finding(self) -> str:
        """Why the job can't come to an end: a limit, or who waits for what for ever; empty if it can, or has."""
        return self._history.talk.state.finding

    @property
    def pid(self) -> int:
        """Of the process that holds the run; another one after `rewind`."""
        return self._history.talk.state.pid

    @property
    def events(self) -> Sequence[AnyEvent]:
        """What the agents have said, in the order of the world. Grows as the run goes on."""
        return self._history.talk.events

    @property
    def said_s(self) -> list[float]:
        """The virtual time of each event, in seconds, `[events]`."""
        return [at_ns / SECOND for at_ns in self._history.talk.said_ns]

    def events_since(self, count: int) -> list[AnyEvent]:
        """The events after the first `count`."""
        return self._history.talk.events[max(count, 0) :]

    @property
    def timeline(self) -> Timeline:
        """All events folded."""
        with self._lock:
            events, (count, timeline) = self._history.talk.events, self._folded
            if count > len(events):
                count, timeline = 0, Timeline()
            if count < len(events):
                timeline = fold_all(events[count:], timeline)
            self._folded = len(events), timeline
            return timeline

    @property
    def injected(self) -> tuple[Fault, ...]:
        """The faults that were injected, in order; `at_s` counts from the start of the run."""
        return tuple(injected.fault for injected in self._history.injected)

    # -- on ---------------------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> list[AnyEvent]:
        """On to the next event that an agent says, or the next `count` of them.

        Returns:
            The events. What an agent says in one go is not torn apart, so that there may be more; and fewer if nothing
            more happens.

        Raises:
            ConfigurationError: `count` is below 1.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"a step of {count!r} events is none; give 1 or more")
        with self._going() as history:
            before = len(history.talk.events)
            history.advance(events=before + count)
            return history.talk.events[before:]

    def run(self, until: float | Predicate | None = None) -> None:
        """On to the end of the job; to a moment of virtual time; or until something holds.

        Args:
            until: seconds from the start of the run; or what is asked of the timeline after each event, in this
                process. What holds already stops it at once. None is the end.

        Raises:
            ConfigurationError: that moment has been, or is none.
        """
        with self._going() as history:
            if until is None:
                history.advance()
            elif callable(until):
                self._run_until(history, until)
            else:
                history.advance(until_ns=self._future_ns(until))

    def _future_ns(self, until_s: float) -> int:
        until_ns = _ns(until_s)
        now_ns = self._history.talk.state.moment.now_ns
        if until_ns < now_ns:
            raise ConfigurationError(
                f"it is {now_ns / SECOND:g} s already, which is after {until_s:g} s; rewind({until_s:g}) goes back"
            )
        return until_ns

    def _run_until(self, history: _History, holds: Predicate) -> None:
        timeline = self.timeline
        if holds(timeline):
            return
        while not self.over:
            before = len(history.talk.events)
            history.advance(events=before + 1)
            for event in history.talk.events[before:]:
                timeline = fold(timeline, event)
                before += 1
                self._folded = before, timeline
                if holds(timeline):
                    return

    @contextmanager
    def _going(self) -> Iterator[_History]:
        with self._lock:
            history = self._history
            try:
                yield history
            except KeyboardInterrupt:
                # The process answers within a slice of time, and stands still from there on.
                try:
                    history.talk.catch_up()
                except HostLost:
                    pass  # the next call says so
                raise

    # -- what it does otherwise --------------------------------------------------------------------------------

    def inject(self, fault: Fault) -> None:
        """Let a fault strike now, or `fault.at_s` seconds from now on.

        Raises:
            ConfigurationError: what it strikes isn't there, or the job is over.
        """
        if not isinstance(fault, Fault):
            raise ConfigurationError(
                f"{fault!r} is no fault; give one of simulator.faults, such as CrashNode('node1')"
            )
        check(fault, {name: self.scenario.workers_of(name) for name in self.scenario.node_names})
        data = packed(fault, f"the fault {fault.what()!r}")
        with self._going() as history:
            state = history.talk.state
            if state.over:
                raise ConfigurationError(
                    f"the job is over since {self.now_s:g} s, and {fault.target} can't be struck any more; "
                    "rewind to an earlier moment"
                )
            history.inject(fault, data)

    def node(self, name: str) -> NodeView:
        """A node as it is now: its power, its processes, what their tasks wait for and where.

        Raises:
            ConfigurationError: it isn't there.
        """
        with self._going() as history:
            view: NodeView = history.talk.ask(Look(name)).result
            told = [
                node for node in self.timeline.nodes.values() if (node.host or host_of(node.name)) == name
            ]
        if not told:
            return view
        return replace(view, state=told[-1].state, group_state=told[-1].group_state)

    def branch(self) -> HostedRun:
        """Another one that stands at this moment and goes its own way.

        Raises:
            ConfigurationError: this machine has no room for it.
        """
        with self._going() as history:
            other = HostedRun.__new__(HostedRun)
            other.scenario, other.seed, other.subject = self.scenario, self.seed, self.subject
            folded = self._folded
            other._has(history.branch())
            other._folded = folded
            return other

    def rewind(self, to_s: float) -> None:
        """Back to a moment of virtual time. What was said after it is gone, and the faults injected then or later, too.

        Raises:
            ConfigurationError: it has not been yet, or is none.
            HostLost: it is closed.
        """
        to_ns = _ns(to_s)
        with self._going() as history:
            if not history.talk.is_open:
                raise HostLost(CLOSED)
            now_ns = history.talk.state.moment.now_ns
            if to_ns > now_ns:
                there = "give less: the job is over" if self.over else f"run({to_s:g}) goes there"
                raise ConfigurationError(f"{to_s:g} s has not been yet, it is {now_ns / SECOND:g} s; {there}")
            # The old one goes only when the new one stands: Ctrl-C in between changes nothing.
            self._history = history.rewound(to_ns)
            self._folded = 0, Timeline()
            history.close()

    # -- what has come of it -----------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Of everything that has happened; equal for equal runs."""
        return self._collected().digest

    @property
    def choices(self) -> Sequence[Choice]:
        """The tape so far."""
        return self._collected(choices=True).choices

    def report(self) -> Report:
        """The verdict on what has happened; undetermined while the job is not over, unless a promise is broken."""
        with self._lock:
            collected = self._collected(choices=True)
            history = self._history
            outcome = Outcome(
                scenario=replace(self.scenario, faults=(*self.scenario.faults, *self.injected)),
                subject=self.subject,
                seed=self.seed,
                events=list(history.talk.events),
                virtual_s=self.now_s,
                steps=self.steps,
                digest=collected.digest,
                choices=collected.choices,
                finding=collected.finding,
                quiet_at_s=collected.quiet_at_s,
                struck=list(collected.struck),
            )
            return report_of(outcome, collected.facts, wall_s=history.ran_s, command=self._command())

    def _command(self) -> str:
        """The line that runs it again; what was injected can't be said in one."""
        if not self._history.injected:
            return ""
        return f"no command says it: {plural(len(self._history.injected), 'fault')} injected by hand"

    def record(self) -> Record:
        """The events in order, with what the simulator knows besides: what checkers and comparisons read."""
        with self._lock:
            return record_of(list(self._history.talk.events), self._collected().facts)

    def compare(self, other: HostedRun | Report | Sequence[AnyEvent]) -> Comparison:
        """Where this run and another one part, and what came of each.

        Args:
            other: a simulation, the report of one, or events.
        """
        match other:
            case HostedRun():
                theirs = other.record()
            case Report():
                theirs = other.record
            case Sequence():
                theirs = record_of(list(other))
            case _:
                raise ConfigurationError(
                    f"{other!r} is nothing to compare with; give a simulation, the report of one, or events"
                )
        return compare(self.record(), theirs)

    def _collected(self, choices: bool = False) -> Collected:
        with self._going() as history:
            found: Collected = history.talk.ask(Collect(choices)).result
            return found

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Its processes end; branches go on. May be called again, and while another thread waits for it."""
        self._history.close()

    def __enter__(self) -> HostedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self.scenario.name!r}, seed {self.seed}, {self.subject}"
        at = f"{'over' if self.over else 'stands'} at {self.now_s:.3f} s"
        return f"HostedRun({what}: {at}, {plural(len(self.events), 'event')})"


def _ns(moment_s: float) -> int:
    if not (isinstance(moment_s, int | float) and math.isfinite(moment_s) and moment_s >= 0):
        raise ConfigurationError(f"{moment_s!r} is no moment; give seconds from the start of the run")
    return round(moment_s * SECOND)
