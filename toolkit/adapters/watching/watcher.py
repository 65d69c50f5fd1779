"""The thread beside the agent that looks every few seconds whether the workers still move.

Rule: it never raises into the agent and never holds it up. It tells of what it finds by events; whom to kill it tells
the agent's loop, which does it. While its lock is held it says nothing and looks at nothing.
"""

from __future__ import annotations

import os
import platform
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from toolkit.adapters.watching.evidence import Dumper, Evidence
from toolkit.adapters.watching.looking import Looking, name_of, where_in_kernel
from toolkit.adapters.watching.shared import SharedNotes
from toolkit.adapters.watching.timers import TIMER_FILE, TimerPipe, check_place
from toolkit.core import events as ev
from toolkit.core import hang_report
from toolkit.core.hangs import (
    CLOSE_LOOK_S,
    LOOK_S,
    Condemned,
    HangSettings,
    Judge,
    Verdict,
    WatchedWorker,
)
from toolkit.core.stacks import Answer, Target, grouped
from toolkit.ports import Bell, SayWhile

#: what kills a worker that hangs
_SIGKILL = 9
#: how long the agent's loop may not answer, in seconds; torch gives its health check so much
_LOOP_S = 60.0


@dataclass(slots=True)
class _Group:
    """The workers of one incarnation that run."""

    incarnation: int
    workers: Mapping[int, WatchedWorker]
    alone: bool
    say: SayWhile
    bell: Bell
    notes: SharedNotes
    timers: TimerPipe | None
    judge: Judge
    looking: Looking
    evidence: Evidence
    started_wall_ns: int
    wake_fd: int
    over: bool = False
    #: who was told to hang, by local rank, and as what
    told: dict[int, str] = field(default_factory=dict)
    answers: Mapping[int, Answer] = field(default_factory=dict)
    condemned: dict[int, Condemned] = field(default_factory=dict)

    def runs(self) -> bool:
        return not self.over


class WorkerWatcher:
    """Implements `toolkit.ports.Watch`.

    Args:
        settings: what is done about workers that hang.
        dumper: reads stacks from outside; None is py-spy.
        note: takes a sentence for people about timers that can't be; must not raise.

    Raises:
        ConfigurationError: the pipe for torch's timers can't be where it is to be.
    """

    def __init__(
        self,
        settings: HangSettings,
        dumper: Dumper | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if settings.timers and settings.timer_file:
            check_place(settings.timer_file)
        self._settings = settings
        self._dumper = dumper
        self._note = note
        self._noted = False
        self._lock = threading.Lock()
        self._notes: SharedNotes | None = None
        self._timers: TimerPipe | None = None
        self._group: _Group | None = None
        self._bell: Bell | None = None
        self._asked_s: float | None = None

    # -- in the thread of the agent -------------------------------------------------------------------------

    def prepare(self, local_world_size: int) -> Sequence[Mapping[str, str]]:
        """Make what the workers share with this agent."""
        self.end()
        if self._notes is not None:
            self._notes.close()
        self._notes = SharedNotes(local_world_size)
        self._timers = self._timer_pipe()
        more = {TIMER_FILE: self._timers.path} if self._timers is not None else {}
        return [{**variables, **more} for variables in self._notes.variables()]

    def _timer_pipe(self) -> TimerPipe | None:
        if not self._settings.timers:
            return None
        try:
            return TimerPipe(self._settings.timer_file)
        except Exception as error:  # noqa: BLE001 - out of descriptors, or the folder has gone
            self._note(f"no timers of torch's for these workers: {error}")
            return None

    def begin(
        self, incarnation: int, workers: Sequence[WatchedWorker], *, alone: bool, say: SayWhile, bell: Bell
    ) -> None:
        """Look at them from now on, in a thread of their own."""
        self._bell = bell
        local = [worker for worker in workers if worker.pid > 0]
        if self._notes is None or not local or (self._settings.action == "off" and self._timers is None):
            return
        try:
            wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            self._note("out of descriptors: nobody looks whether these workers hang (ulimit -n)")
            return
        group = _Group(
            incarnation,
            {worker.local_rank: worker for worker in local},
            alone,
            say,
            bell,
            self._notes,
            self._timers,
            Judge(self._settings),
            Looking(local),
            Evidence(self._notes, self._dumper),
            time.time_ns(),
            wake_fd,
        )
        with self._lock:
            self._group = group
        threading.Thread(target=self._run, args=(group,), name="rally-watch", daemon=True).start()

    def condemned(self) -> Sequence[Condemned]:
        """Workers that the agent is to kill."""
        self._asked_s = None  # the loop lives
        with self._lock:
            return () if self._group is None else tuple(self._group.condemned.values())

    def steps(self) -> Mapping[int, int]:
        """The step that each worker has told last."""
        notes = self._notes
        return {} if notes is None else {rank: step for rank, (step, _) in notes.notes().items()}

    def end(self) -> None:
        """Look no more. The thread ends by itself, within moments."""
        self._bell = self._asked_s = None
        with self._lock:
            group, self._group = self._group, None
            timers, self._timers = self._timers, None
            if group is not None:
                group.over = True
                os.eventfd_write(group.wake_fd, 1)
        if timers is not None:
            timers.remove()
        if group is not None:
            group.evidence.close()
        elif timers is not None:
            timers.close()

    def loop_lives(self) -> bool:
        """Whether the agent's loop answers its bell while workers run; otherwise it does something else, and lives.

        Safe in any thread. The loop is asked by this, and may have answered by the next call.
        """
        bell, asked_s = self._bell, self._asked_s
        if bell is None:
            return True
        if asked_s is None:
            self._asked_s = time.monotonic()
            bell.ring()
            return True
        return time.monotonic() - asked_s < _LOOP_S

    # -- in the thread --------------------------------------------------------------------------------------

    def _run(self, group: _Group) -> None:
        try:
            self._watch(group)
        finally:
            with self._lock:
                group.over = True
                os.close(group.wake_fd)
                if self._group is group:
                    self._group = None
            if group.timers is not None:
                group.timers.close()

    def _watch(self, group: _Group) -> None:
        poller = select.poll()
        poller.register(group.wake_fd, select.POLLIN)
        if group.timers is not None:
            poller.register(group.timers.fd, select.POLLIN)
        looks = self._settings.action != "off"
        due_s = time.monotonic() + LOOK_S
        while True:
            poller.poll(_patience_ms(group, due_s if looks or group.condemned else None))
            if group.over:
                return
            due = time.monotonic() >= due_s
            with suppress(Exception):  # the edge of the thread: one look is not worth a job
                if group.timers is not None:
                    self._heed_timers(group, group.timers)
                if due and looks:
                    self._look(group)
                if due and group.condemned:
                    group.bell.ring()
            if due:
                close = group.judge.alarmed or group.condemned
                due_s = time.monotonic() + (CLOSE_LOOK_S if close else LOOK_S)

    def _look(self, group: _Group) -> None:
        looks = group.looking.look(group.notes.notes())
        verdicts = group.judge.look(looks, time.monotonic_ns())
        steps = {look.local_rank: look.step for look in looks}
        now = {verdict.local_rank: verdict.kind for verdict in verdicts}
        moved = [rank for rank in group.told if rank not in now and rank in steps]
        if moved:
            ranks = sorted(group.workers[rank].global_rank for rank in moved)
            group.say(group.runs, ev.WorkersRecovered, incarnation=group.incarnation, global_ranks=ranks)
        news = any(group.told.get(rank) != kind for rank, kind in now.items())
        group.told = dict(now)
        if verdicts:
            self._deal_with(group, verdicts, steps, news=news)

    def _heed_timers(self, group: _Group, timers: TimerPipe) -> None:
        timers.read()
        if timers.next_s() == 0:
            steps = {look.local_rank: look.step for look in group.looking.look(group.notes.notes())}
            verdicts = [
                Verdict(rank, "timer", timer.ago_s, timer.pid, steps.get(rank), 0, timer.scope, timer.signum)
                for rank, timer in sorted(timers.expired(group.looking.families).items())
                if rank not in group.condemned
            ]
            if verdicts:
                self._deal_with(group, verdicts, steps, news=True)
        if timers.malformed and not self._noted:
            self._noted = True
            self._note(f"{timers.path} got what is no timer of a worker here; that is ignored")

    def _deal_with(
        self, group: _Group, verdicts: Sequence[Verdict], steps: Mapping[int, int | None], *, news: bool
    ) -> None:
        """Tell of workers that hang, and condemn those that are to be killed."""
        if news:
            group.answers = self._stacks(group, verdicts, steps)
        found = hang_report.suspects(verdicts, steps, group.answers)
        chosen = hang_report.condemned(verdicts, found, self._settings, alone=group.alone)
        new = {verdict.local_rank: verdict for verdict in chosen if verdict.local_rank not in group.condemned}
        if news or new:
            self._tell(group, verdicts, steps, found, sorted(new))
        if new and group.runs():
            doomed = {rank: self._doomed(group, verdict, found, steps) for rank, verdict in new.items()}
            with self._lock:
                group.condemned.update(doomed)
            group.bell.ring()

    def _stacks(
        self, group: _Group, verdicts: Sequence[Verdict], steps: Mapping[int, int | None]
    ) -> Mapping[int, Answer]:
        """Of all that run: also those that do not hang tell where the others should be."""
        host = platform.node()
        targets = [
            Target(worker.global_rank, host, worker.pid, group.started_wall_ns, "", rank)
            for rank, worker in group.workers.items()
            if rank in steps
        ]
        return group.evidence.take(targets)

    def _tell(
        self,
        group: _Group,
        verdicts: Sequence[Verdict],
        steps: Mapping[int, int | None],
        found: hang_report.Suspects,
        kills: list[int],
    ) -> None:
        by_rank = {rank: worker.global_rank for rank, worker in group.workers.items()}
        workers = hang_report.hung_workers(verdicts, found, by_rank, _details(verdicts))
        global_steps = {by_rank[rank]: step for rank, step in steps.items()}
        groups = grouped((by_rank[rank], answer) for rank, answer in group.answers.items() if rank in steps)
        group.say(
            group.runs,
            ev.WorkersHung,
            incarnation=group.incarnation,
            workers=workers,
            why=hang_report.headline(workers, global_steps, len(steps)),
            stacks=hang_report.stacks_text(groups),
            odd=[by_rank[rank] for rank in found.odd if rank in by_rank],
            kills=kills,
        )

    def _doomed(
        self, group: _Group, verdict: Verdict, found: hang_report.Suspects, steps: Mapping[int, int | None]
    ) -> Condemned:
        by_rank = {rank: worker.global_rank for rank, worker in group.workers.items()}
        global_steps = {by_rank[rank]: step for rank, step in steps.items()}
        (worker,) = hang_report.hung_workers([verdict], found, by_rank, _details([verdict]))
        why = hang_report.cause(worker, global_steps, len(steps))
        return Condemned(verdict.local_rank, verdict.signum or _SIGKILL, why)


def _patience_ms(group: _Group, due_s: float | None) -> float | None:
    waits = [] if due_s is None else [max(0.0, due_s - time.monotonic())]
    timer_s = group.timers.next_s() if group.timers is not None else None
    if timer_s is not None:
        waits.append(timer_s)
    # Rounded up: a wait that ends too early is a wait more.
    return int(min(waits) * 1000) + 1 if waits else None


def _details(verdicts: Sequence[Verdict]) -> dict[int, str]:
    """What else is known of the processes."""
    stuck = {v.pid: where_in_kernel(v.pid) for v in verdicts if v.kind == "stuck"}
    return stuck | {v.tracer: name_of(v.tracer) for v in verdicts if v.tracer}
