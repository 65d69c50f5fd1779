"""The process that holds one run, for an owner at the other end of a line; a branch of the run is a fork of it.

A run can be neither copied nor moved to another thread: its tasks are greenlets. So it has a process to itself, without
threads, which is forked where the run is to be branched. Above all of a family stands a keeper, a process without a
run, which lives as long as its owner: it takes over whoever's parent has ended, and ends all when the owner is gone.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import socket
import sys
import traceback
from array import array
from collections.abc import Callable

# The real clock: during a run the module's names raise.
from time import monotonic
from typing import Any

from simulator.checkers import checkers_named
from simulator.interactive.line import Line
from simulator.interactive.messages import (
    ENDLESS,
    Advance,
    Answer,
    Ask,
    Branch,
    Collect,
    Collected,
    Failed,
    Inject,
    Look,
    Moment,
    Nothing,
    Request,
    Start,
    State,
    pack_events,
    unpacked,
)
from simulator.interactive.node_view import view_of
from simulator.report import facts_of
from simulator.simulation import ScenarioRun
from simulator.subjects import subject_named
from toolkit.core.errors import ConfigurationError

#: steps between two looks at the clock
_LOOK_EVERY = 64
_PR_SET_CHILD_SUBREAPER = 36


class Host:
    """Answers requests until its owner is gone.

    Args:
        line: to the owner.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._run: ScenarioRun | None = None
        self._drained_ns: int | None = None
        self._injected = 0
        self._ran_s = 0.0

    def serve(self) -> None:
        """Until the line ends."""
        while True:
            try:
                message, descriptors = self._line.receive()
                request: Request = pickle.loads(message)
                self._ran_s = 0.0
                try:
                    result = self._result(request.ask, descriptors)
                except Exception as error:  # noqa: BLE001 - the edge of this process: the owner is told
                    result = Failed(type(error).__name__, str(error), traceback.format_exc())
                self._answer(request, result)
            except (EOFError, OSError):
                return

    def _answer(self, request: Request, result: Any) -> None:
        if isinstance(request.ask, Branch) and result is None:
            return  # this is the child, of which nobody has asked anything yet
        try:
            self._line.send(pickle.dumps(self._answer_to(request, result)))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - likewise
            failed = Failed(type(error).__name__, str(error), traceback.format_exc())
            self._line.send(pickle.dumps(Answer(request.number, self._state(), request.have, result=failed)))

    def _answer_to(self, request: Request, result: Any) -> Answer:
        if self._run is None:
            return Answer(request.number, self._state(), result=result)
        world, have = self._run.world, request.have
        return Answer(
            number=request.number,
            state=self._state(),
            have=have,
            events=pack_events(world.events[have:]),
            said_ns=array("q", (said.at_ns for said in world.said[have:])),
            ran_s=self._ran_s,
            result=result,
        )

    def _state(self) -> State:
        run = self._run
        if run is None:
            return State(pid=os.getpid())
        moment = Moment(run.kernel.now_ns, run.kernel.steps, self._drained_ns)
        return State(moment, run.over, run.outcome.finding, self._injected, os.getpid())

    def _result(self, ask: Ask, descriptors: list[int]) -> Any:
        if isinstance(ask, Start):
            return self._start(ask)
        run = self._run
        if run is None:
            raise ConfigurationError("no run has been started here; start one")
        match ask:
            case Advance():
                return self._advance(run, ask)
            case Inject():
                return self._inject(run, ask)
            case Look():
                return view_of(run, ask.node)
            case Branch():
                return self._branch(descriptors)
            case Collect():
                return _collected(run, ask.choices)
            case Nothing():
                return None

    def _start(self, ask: Start) -> None:
        scenario = unpacked(ask.scenario, "the scenario")
        checkers_named(scenario.checkers)
        self._run = ScenarioRun(scenario, subject_named(ask.subject), ask.seed)

    def _advance(self, run: ScenarioRun, ask: Advance) -> bool:
        reached = _target(run, ask)
        if run.done or reached():
            return True
        began_s = monotonic()
        drained = run.go_on(ask.until_ns, _pause(run, reached, began_s + ask.for_s))
        self._ran_s = monotonic() - began_s
        if drained:
            self._drained_ns = ENDLESS if ask.until_ns is None else ask.until_ns
        else:
            self._drained_ns = None
        return drained or run.done or reached()

    def _inject(self, run: ScenarioRun, ask: Inject) -> None:
        fault = unpacked(ask.fault, "the fault")
        self._drained_ns = None
        run.strike(fault)
        self._injected += 1

    def _branch(self, descriptors: list[int]) -> int | None:
        """Returns the pid of the child, and None in it."""
        (descriptor,) = descriptors
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(
                f"no more branches can be made: {error.strerror}; close some of those that there are"
            ) from error
        if pid:
            os.close(descriptor)
            return pid
        self._line.let_go()
        self._line = Line(socket.socket(fileno=descriptor))
        return None


def _target(run: ScenarioRun, ask: Advance) -> Callable[[], bool]:
    """Whether what was asked for is reached, save for the moment of virtual time."""
    kernel, said = run.kernel, run.world.events
    events = sys.maxsize if ask.events is None else ask.events
    steps = sys.maxsize if ask.steps is None else ask.steps
    return lambda: len(said) >= events or kernel.steps >= steps


def _pause(run: ScenarioRun, reached: Callable[[], bool], until_s: float) -> Callable[[], bool]:
    """Where to stop: when `reached` says so, or the clock does, and then right behind a step.

    What the kernel throws away between two steps is no step: a place among these could not be found again.
    """
    kernel = run.kernel
    seen, look_at = kernel.steps, kernel.steps + _LOOK_EVERY

    def pause() -> bool:
        nonlocal seen, look_at
        steps = kernel.steps
        if steps == seen:
            return False
        seen = steps
        if reached():
            return True
        if steps < look_at:
            return False
        look_at = steps + _LOOK_EVERY
        return monotonic() >= until_s

    return pause


def _collected(run: ScenarioRun, choices: bool) -> Collected:
    outcome = run.so_far()
    if not (run.over or outcome.finding):
        outcome.finding = f"looked at after {outcome.virtual_s:g} s, before it was over"
    return Collected(
        facts=facts_of(run, outcome),
        finding=outcome.finding,
        digest=outcome.digest,
        quiet_at_s=outcome.quiet_at_s,
        struck=outcome.struck,
        choices=outcome.choices if choices else (),
    )


# -- the family -----------------------------------------------------------------------------------------------


def main(line: int, life: int) -> None:
    """Be the keeper, with one host as a child.

    Args:
        line: descriptor of the host's line.
        life: descriptor of a socket that ends with the owner.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Who ends is gone at once; nobody has to be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _take_over_orphans()
    # Garbage is collected where the kernel says, so that finalisers run at the same step each time.
    gc.disable()
    first = os.fork()
    if first == 0:
        os.setpgid(0, 0)
        os.close(life)
        try:
            Host(Line(socket.socket(fileno=line))).serve()
        finally:
            # Nothing is unwound: what is left of the run ends as in a power cut.
            os._exit(0)
    os.close(line)
    _keep(life, first)


def _take_over_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _keep(life: int, group: int) -> None:
    """Wait for the owner's end, then end all of the group, and wait for that."""
    while os.read(life, 1):
        pass
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        # While one of them is there, no other group has that number.
        os.killpg(group, signal.SIGKILL)
    except (ChildProcessError, ProcessLookupError):
        pass  # nobody is left, or the first has not begun, and finds its line ended
    try:
        os.wait()
    except ChildProcessError:
        pass  # as it should be: all are gone
