"""Which workers hang: from looks at their processes, their output and their steps to verdicts. Pure.

What a worker is judged by:

* stopped: one of its processes is in state T for `STOPPED_S`. Nothing in a job stops itself for so long.
* traced: a debugger holds one of them. That is somebody's wish and no hang: it is told, and nobody is killed
  meanwhile.
* stuck: one of them is in uninterruptible sleep (D), without a tick of CPU time, for `HangSettings.stuck_s`.
* standing: it has called `toolkit.progress`, and has not again for the timeout or for `STEPS_MISSED` of its usual
  steps, whichever is longer. Such a worker is judged by nothing softer: it may be silent while it makes progress.
* silent: it never did, and for the timeout it has used next to no CPU and written nothing. A worker that spins, as
  NCCL's do while they wait, is busy: only its steps could tell.

Only what was seen counts (`core/liveness.py`): an agent that was held up itself has seen nothing meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from toolkit.core.hanging.watched import HangSettings
from toolkit.core.liveness import Standstill, gap_max_ns

Kind = Literal["stopped", "traced", "stuck", "standing", "silent", "timer"]
#: between two looks, in seconds; and while something looks as if it might hang
LOOK_S, CLOSE_LOOK_S = 5.0, 1.0
#: for so long a worker may be stopped or held before that is told: shells and debuggers do it for moments
STOPPED_S = 5.0
#: a step may take so many times as long as the last ones did
STEPS_MISSED = 10
#: steps whose times are remembered
_STEPS_KEPT = 32
#: CPU, as a share of a core, from which on a worker is busy: what NCCL's and Python's own idle threads need is below
BUSY_SHARE = 0.02
#: who has been still for this share of the timeout is waited for, so that one report has all that stand still
_NEARLY = 0.8


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """One process of a worker at one moment.

    Args:
        state: the letter in /proc/PID/stat; empty where nobody tells.
        cpu_s: CPU time so far, with that of children that it has reaped.
        tracer: process id of its debugger, or 0.
    """

    pid: int
    state: str
    cpu_s: float
    tracer: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """One worker at one moment.

    Args:
        processes: its own first, then those that it has started. Not empty.
        written: changes when it writes.
        step: that it told last; None if it never did.
        told_ns: when, by its monotonic clock. Changes with each call, also with the same step.
    """

    local_rank: int
    processes: tuple[ProcessLook, ...]
    written: Hashable = None
    step: int | None = None
    told_ns: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A worker that hangs.

    Args:
        for_s: how long already, as far as it was seen.
        pid: of the process that is stopped, held or stuck; of the worker otherwise.
        step: that it stands at, if it has told any.
        tracer: process id of the debugger, or 0.
        timer: name of the timer that expired, or empty.
        signum: that the timer asked for.
    """

    local_rank: int
    kind: Kind
    for_s: float
    pid: int
    step: int | None = None
    tracer: int = 0
    timer: str = ""
    signum: int = 0


class Judge:
    """Looks at the workers of one incarnation again and again.

    Args:
        settings: what counts as a hang.
    """

    def __init__(self, settings: HangSettings) -> None:
        self._settings = settings
        self._workers: dict[int, _Watched] = {}
        self._looked_ns: int | None = None
        self._declared: set[int] = set()
        #: whether something is odd enough to look again soon
        self.alarmed = False

    def look(self, looks: Sequence[Look], now_ns: int) -> list[Verdict]:
        """See them once more. Returns who hangs, by local rank; those that are not in `looks` have ended."""
        gap_ns = gap_max_ns(LOOK_S)
        elapsed_s = min(now_ns - self._looked_ns, gap_ns) / 1e9 if self._looked_ns is not None else 0.0
        self._looked_ns = now_ns
        found: list[Verdict] = []
        soft: list[tuple[Look, _Still]] = []
        before, self._workers = self._workers, {}
        self.alarmed = False
        for look in sorted(looks, key=lambda look: look.local_rank):
            worker = before.get(look.local_rank) or _Watched()
            self._workers[look.local_rank] = worker
            held = worker.held(look, now_ns, gap_ns, self._settings.stuck_s)
            self.alarmed = self.alarmed or bool(worker.states)
            if held is not None:
                # It is not its own fault that it does nothing meanwhile.
                worker.forget_stillness()
                found.append(held)
            else:
                soft.append((look, worker.still(look, now_ns, gap_ns, elapsed_s, self._settings.timeout_s)))
        found += self._softly(soft)
        return sorted(found, key=lambda verdict: verdict.local_rank)

    def _softly(self, soft: Sequence[tuple[Look, _Still]]) -> list[Verdict]:
        """Those that have been still for too long; new ones once nobody else is just about to be."""
        wait = any(still.limit_s * _NEARLY <= still.for_s < still.limit_s for _, still in soft)
        found = [
            Verdict(look.local_rank, still.kind, still.for_s, look.processes[0].pid, look.step)
            for look, still in soft
            if still.for_s >= still.limit_s and (not wait or look.local_rank in self._declared)
        ]
        self._declared = {verdict.local_rank for verdict in found}
        return found


@dataclass(frozen=True, slots=True)
class _Still:
    kind: Kind
    for_s: float
    limit_s: float


@dataclass(slots=True)
class _Watched:
    """What is known of one worker."""

    #: by process id: how long it has been in a state that it should not be in
    states: dict[int, Standstill] = field(default_factory=dict)
    #: of a count that goes up when it does something
    activity: Standstill | None = None
    active: int = 0
    cpu_s: Mapping[int, float] = field(default_factory=dict)
    written: Hashable = None
    told: Standstill | None = None
    step: int | None = None
    told_ns: int = 0
    step_times_s: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS_KEPT))

    def held(self, look: Look, now_ns: int, gap_ns: int, stuck_s: float) -> Verdict | None:
        """Whether somebody or something holds one of its processes; who was held longest."""
        before, self.states = self.states, {}
        worst: Verdict | None = None
        for process in look.processes:
            kind = _holding(process)
            if kind is None:
                continue
            value = (kind, process.cpu_s)
            known = before.get(process.pid) or Standstill(value, now_ns)
            self.states[process.pid] = known
            for_s = known.look(value, now_ns, gap_ns) / 1e9
            if for_s >= (stuck_s if kind == "stuck" else STOPPED_S) and (
                worst is None or for_s > worst.for_s
            ):
                worst = Verdict(look.local_rank, kind, for_s, process.pid, look.step, process.tracer)
        return worst

    def forget_stillness(self) -> None:
        """It may stand still anew from here."""
        self.activity = self.told = None

    def still(self, look: Look, now_ns: int, gap_ns: int, elapsed_s: float, timeout_s: float) -> _Still:
        """For how long it has not moved, and how long it may."""
        self._note_activity(look, elapsed_s)
        if self.activity is None:
            self.activity = Standstill(self.active, now_ns)
        silent_s = self.activity.look(self.active, now_ns, gap_ns) / 1e9
        if look.step is None:
            return _Still("silent", silent_s, timeout_s)
        self._note_step(look)
        if self.told is None:
            self.told = Standstill(look.told_ns, now_ns)
        stood_s = self.told.look(look.told_ns, now_ns, gap_ns) / 1e9
        return _Still("standing", stood_s, max(timeout_s, STEPS_MISSED * self._step_time_s()))

    def _note_activity(self, look: Look, elapsed_s: float) -> None:
        # By process: one that ends takes its CPU time to its parent, which then seems to have used it just now.
        used = {process.pid: process.cpu_s for process in look.processes}
        spent_s = sum(cpu_s - self.cpu_s[pid] for pid, cpu_s in used.items() if pid in self.cpu_s)
        new = used.keys() - self.cpu_s.keys()
        if elapsed_s > 0 and (new or spent_s >= BUSY_SHARE * elapsed_s or look.written != self.written):
            self.active += 1
        self.cpu_s, self.written = used, look.written

    def _note_step(self, look: Look) -> None:
        assert look.step is not None, "asked by the caller"
        if self.step is not None and look.step > self.step and look.told_ns > self.told_ns:
            self.step_times_s.append((look.told_ns - self.told_ns) / (look.step - self.step) / 1e9)
        self.step, self.told_ns = look.step, look.told_ns

    def _step_time_s(self) -> float:
        times = self.step_times_s
        return sum(times) / len(times) if times else 0.0


def _holding(process: ProcessLook) -> Kind | None:
    """What holds a process at this moment."""
    if process.state == "t" or (process.state == "T" and process.tracer):
        return "traced"
    if process.state == "T":
        return "stopped"
    return "stuck" if process.state == "D" else None
