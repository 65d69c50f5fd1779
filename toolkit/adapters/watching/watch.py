"""The watch over one group of workers: looks every few seconds, hears timers, tells of hangs, condemns. One thread."""

from __future__ import annotations

import platform
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from toolkit.adapters.watching.evidence import Dumper, Evidence
from toolkit.adapters.watching.group import WatchedGroup
from toolkit.adapters.watching.looking import Looking, name_of, where_in_kernel
from toolkit.adapters.watching.timers import TimerPipe
from toolkit.core import events as ev
from toolkit.core.hanging import hang_report
from toolkit.core.hanging.hangs import CLOSE_LOOK_S, LOOK_S, Judge, Verdict
from toolkit.core.hanging.watched import Condemned, HangSettings
from toolkit.core.stacks import Answer, Target, grouped

#: what kills a worker that hangs
_SIGKILL = 9


class Watch:
    """Watches until the group is over. What goes wrong in one look costs that look.

    Args:
        settings: what is done about workers that hang.
        dumper: reads stacks from outside; None is py-spy.
        note: takes a sentence for people; must not raise.
    """

    def __init__(
        self, group: WatchedGroup, settings: HangSettings, dumper: Dumper | None, note: Callable[[str], None]
    ) -> None:
        self._group = group
        self._settings = settings
        self._note = note
        self._noted = False
        self._judge = Judge(settings)
        self._looking = Looking(list(group.workers.values()))
        self._evidence = Evidence(group.notes, dumper)
        #: who was told to hang, by local rank, and as what
        self._told: dict[int, str] = {}
        self._answers: Mapping[int, Answer] = {}
        self._doomed: dict[int, Condemned] = {}
        group.when_over(self._evidence.close)

    def run(self) -> None:
        """Watch. Returns once the group is over."""
        group = self._group
        poller = select.poll()
        poller.register(group.wake_fd, select.POLLIN)
        if group.timers is not None:
            poller.register(group.timers.fd, select.POLLIN)
        looks = self._settings.action != "off"
        due_s = time.monotonic()
        while True:
            poller.poll(_patience_ms(group, due_s if looks or self._doomed else None))
            if not group.runs():
                return
            due = time.monotonic() >= due_s
            with suppress(Exception):  # the edge of the thread: one look is not worth a job
                if group.timers is not None:
                    self._heed_timers(group.timers)
                if due and looks:
                    self._look()
                if due and self._doomed:
                    group.bell.ring()
            if due:
                close = self._judge.alarmed or self._doomed
                due_s = time.monotonic() + (CLOSE_LOOK_S if close else LOOK_S)

    def _look(self) -> None:
        looks = self._looking.look(self._group.notes.notes())
        verdicts = self._judge.look(looks, time.monotonic_ns())
        steps = {look.local_rank: look.step for look in looks}
        now = {verdict.local_rank: verdict.kind for verdict in verdicts}
        moved = [rank for rank in self._told if rank not in now and rank in steps]
        if moved:
            ranks = sorted(self._group.workers[rank].global_rank for rank in moved)
            self._group.say(
                self._group.runs, ev.WorkersRecovered, incarnation=self._group.incarnation, global_ranks=ranks
            )
        news = any(self._told.get(rank) != kind for rank, kind in now.items())
        self._told = dict(now)
        if verdicts:
            self._deal_with(verdicts, steps, news=news)

    def _heed_timers(self, timers: TimerPipe) -> None:
        timers.read()
        if timers.next_s() == 0:
            steps = {
                look.local_rank: look.step
                for look in self._looking.look(self._group.notes.notes(), search=True)
            }
            verdicts = [
                Verdict(rank, "timer", timer.ago_s, timer.pid, steps.get(rank), 0, timer.scope, timer.signum)
                for rank, timer in sorted(timers.expired(self._looking.families).items())
                if rank not in self._doomed
            ]
            if verdicts:
                self._deal_with(verdicts, steps, news=True)
        if timers.malformed and not self._noted:
            self._noted = True
            self._note(f"{timers.path} got what is no timer of a worker here; that is ignored")

    def _deal_with(self, verdicts: Sequence[Verdict], steps: Mapping[int, int | None], *, news: bool) -> None:
        """Tell of workers that hang, and condemn those that are to be killed."""
        if news:
            self._answers = self._stacks(verdicts, steps)
        found = hang_report.suspects(verdicts, steps, self._answers)
        chosen = hang_report.condemned(verdicts, found, self._settings, alone=self._group.alone)
        new = {verdict.local_rank: verdict for verdict in chosen if verdict.local_rank not in self._doomed}
        if news or new:
            self._tell(verdicts, steps, found, sorted(new))
        if new and self._group.runs():
            doomed = {rank: self._sentence(verdict, found, steps) for rank, verdict in new.items()}
            self._doomed.update(doomed)
            self._group.condemn(doomed)

    def _stacks(self, verdicts: Sequence[Verdict], steps: Mapping[int, int | None]) -> Mapping[int, Answer]:
        """Of all that run: also those that do not hang tell where the others should be."""
        host = platform.node()
        targets = [
            Target(worker.global_rank, host, worker.pid, self._group.started_wall_ns, "", rank)
            for rank, worker in self._group.workers.items()
            if rank in steps
        ]
        return self._evidence.take(targets)

    def _tell(
        self,
        verdicts: Sequence[Verdict],
        steps: Mapping[int, int | None],
        found: hang_report.Suspects,
        kills: list[int],
    ) -> None:
        by_rank = {rank: worker.global_rank for rank, worker in self._group.workers.items()}
        workers = hang_report.hung_workers(verdicts, found, by_rank, _details(verdicts))
        global_steps = {by_rank[rank]: step for rank, step in steps.items()}
        groups = grouped((by_rank[rank], answer) for rank, answer in self._answers.items() if rank in steps)
        self._group.say(
            self._group.runs,
            ev.WorkersHung,
            incarnation=self._group.incarnation,
            workers=workers,
            why=hang_report.headline(workers, global_steps, len(steps)),
            stacks=hang_report.stacks_text(groups),
            odd=[by_rank[rank] for rank in found.odd if rank in by_rank],
            kills=kills,
        )

    def _sentence(
        self, verdict: Verdict, found: hang_report.Suspects, steps: Mapping[int, int | None]
    ) -> Condemned:
        by_rank = {rank: worker.global_rank for rank, worker in self._group.workers.items()}
        global_steps = {by_rank[rank]: step for rank, step in steps.items()}
        (worker,) = hang_report.hung_workers([verdict], found, by_rank, _details([verdict]))
        why = hang_report.cause(worker, global_steps, len(steps))
        return Condemned(verdict.local_rank, verdict.signum or _SIGKILL, why)


def _patience_ms(group: WatchedGroup, due_s: float | None) -> float | None:
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
