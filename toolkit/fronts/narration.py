"""What `rally run` says on stderr while it runs: failures, decisions, long waits. One line each, with a prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from toolkit.adapters.reminder import Reminder
from toolkit.core import events as ev
from toolkit.core.actions import asked
from toolkit.core.hanging.watched import HUNG
from toolkit.core.job_report import FailureRecord
from toolkit.core.job_story import LEFT
from toolkit.core.words import ending, in_short, plural, ranks, times, without_tokens
from toolkit.fronts.lost_logs import LossNarration
from toolkit.views.failed_workers import FailedWorkers
from toolkit.views.failure_report import ReportWords, details, report_in_words
from toolkit.views.hanging import hung, recovered, stack_lines
from toolkit.views.wording import forwarded, harmless, parked, store_silent, taken_over

#: failures of one start that are told in a line each; whoever fails after them is told in one line, or by the report
_FAILURES_TOLD = 8


class Narration:
    """Implements `toolkit.ports.EventSink`: one agent's story for people.

    Args:
        write: takes a text of whole lines; must not raise.
        reminders: whether long waits are repeated; a status line makes that needless.
        colour: whether the prefix stands out.
    """

    def __init__(self, write: Callable[[str], None], *, reminders: bool, colour: bool = False) -> None:
        self._write = write
        self._prefix = "\x1b[1;33mrally:\x1b[0m" if colour else "rally:"
        self._reminders = reminders
        self._reminder: Reminder | None = None
        self._restarts_max = 0
        self._workers = 0
        self._coordinator = ""
        #: the node that was lost last, and why the last round ended
        self._lost = ""
        self._over = ""
        self._gave_up = False
        self._losses = LossNarration(self.say)
        self._reported = False
        #: of the workers that run now, or have failed last
        self._failed = FailedWorkers()
        #: how many of its failures were told, and whose were not
        self._failures_told = 0
        self._untold: list[int] = []

    def emit(self, event: ev.Event) -> None:
        """Tell of it, if it is worth a line."""
        match event:
            case ev.AgentStarted():
                self._restarts_max, self._workers = event.restarts_max, event.local_world_size
            case ev.RendezvousStarted():
                self._remind(f"waiting for the other nodes ({event.backend} rendezvous)")
            case ev.RendezvousCompleted():
                self._done_waiting()
                self._formed(event)
            case ev.RendezvousFailed():
                self._done_waiting()
            case ev.SeatTaken():
                self._remind(f"waiting for round {event.gathering} to form (store at {event.store})")
            case ev.Parked():
                self.say(parked(event.beside))
                self._remind(f"waiting as a spare beside round {event.beside}")
            case ev.WorkersStarting():
                self._failed.take(event)
                self._failures_told = 0
            case ev.WorkerStarted() | ev.WorkerExited():
                self._failed.take(event)
            case ev.FailureRecorded():
                self._failed.take(event)
                self._tell_failure(event)
            case ev.DecisionMade():
                self._tell_untold()
                self._decided(event)
            case ev.WorkersStopping():
                self._stopping(event)
            case ev.GraceShortened():
                left = f"SIGKILL in {event.left_s:.3g} s" if event.left_s else "SIGKILL now"
                self.say(f"asked {times(event.signals)}to stop: {left}")
            case ev.WorkersStopped():
                self._done_waiting()
                self._stopped(event)
            case ev.BarrierEntered() if event.members > 1:
                self._remind(f"done; waiting for {plural(event.members - 1, 'other node')} to finish")
            case ev.BarrierLeft():
                self._done_waiting()
                self._left_barrier(event)
            case ev.LogsLost():
                self._losses.tell(event)
            case ev.AgentFinished():
                self._tell_untold()
                if event.result == "FAILED":
                    self._report_failed()
                self._losses.end()
            case ev.SupervisionChanged():
                self.say(event.what)
            case ev.SignalReceived():
                self.say(f"got {event.signal}; stopping")
            case ev.SignalForwarded():
                self.say(forwarded(event.signal, event.local_ranks, event.waiting))
            case ev.ActionTaken():
                self._acted(event)
            case ev.WorkersHung():
                self._hung(event)
            case ev.WorkersRecovered():
                self.say(recovered(event))
            case _:
                self._tell_of_job(event)

    def _tell_of_job(self, event: ev.Event) -> None:
        """What the nodes of a job decide together."""
        match event:
            case ev.RoundEnded():
                self._round_over(event)
            case ev.Evicted():
                self._over = event.reason
                self.say(f"evicted after a silence: {event.reason}")
            case ev.LeaseLost() if event.reason != LEFT:
                self._lost = event.lost
                self.say(f"node {without_tokens(event.lost)} is lost: {event.reason}")
            case ev.CoordinatorChanged() if event.coordinator:
                self._coordinated(event)
            case ev.StoreSilent():
                self.say(
                    f"{store_silent(event.where)}, for {event.silent_s:.0f} s now; "
                    f"this node gives up after {event.limit_s:g} s"
                )
            case ev.StoreAnswers():
                self.say(f"the store at {event.where} answers again, after {event.silent_s:.0f} s")
            case ev.JoinHeld():
                who, why = without_tokens(event.joiner), event.reason
                self.say(f"node {who} has to wait {event.for_s:.0f} s before it is let in: {why}")
            case ev.JoinRefused() if without_tokens(event.joiner) != event.node:
                # The node itself ends with this as its error.
                self.say(f"node {without_tokens(event.joiner)} is refused: {without_tokens(event.reason)}")
            case ev.JobEnded(outcome="failed"):
                self._report(event)
            case _:
                pass

    def say(self, text: str) -> None:
        """One line."""
        self._write(f"{self._prefix} {harmless(text)}\n")

    def close(self) -> None:
        """No more reminders."""
        self._done_waiting()

    def _remind(self, what: str) -> None:
        self._done_waiting()
        if self._reminders:
            self._reminder = Reminder(lambda waited_s: self.say(f"{what}, {waited_s:.0f} s so far"))

    def _done_waiting(self) -> None:
        if self._reminder is not None:
            self._reminder.stop()
            self._reminder = None

    def _formed(self, event: ev.RendezvousCompleted) -> None:
        # One node says it, too, where there may be more: from the coordinator it has its epoch.
        if event.group_world_size > 1 or event.epoch > 0:
            self.say(
                f"round {event.round}: {plural(event.group_world_size, 'node')}, this one has "
                f"{ranks(event.global_ranks)} of {event.world_size}; "
                f"workers meet at {event.master_addr}:{event.master_port}"
            )

    def _tell_failure(self, event: ev.FailureRecorded) -> None:
        """In a line; the traceback follows once it is known whether the report at the end has it."""
        if self._failures_told >= _FAILURES_TOLD and not event.first:
            self._untold.append(event.global_rank)
            return
        self._failures_told += 1
        how = ending(event.exit_code, event.signal)
        told = "" if _says_no_more(event) else f": {in_short(event.message)}"
        words = f"rank {event.global_rank} (pid {event.pid} on {event.hostname}) {how}{told}"
        self.say(words)
        for line in details(words, event.what, ""):
            self._write_lines((line,))

    def _tell_untold(self) -> None:
        if self._untold:
            self.say(f"{ranks(self._untold)} failed as well")
            self._untold.clear()

    def _hung(self, event: ev.WorkersHung) -> None:
        self.say(hung(event))
        if event.stacks:
            self._write_lines(stack_lines(event.stacks))

    def _decided(self, event: ev.DecisionMade) -> None:
        match event.action:
            case "restart" if event.spends_budget or event.free:
                self._write_lines(self._failed.traceback)
                why = event.verdict or f"restart {event.restart_count} of {self._restarts_max}"
                # A back-off says its length itself.
                delay = f" in {event.delay_s:.1f} s" if event.delay_s and "back-off" not in why else ""
                self.say(f"restarting {self._all()}{delay} ({why})")
            case "restart" if event.reason == self._over:
                self.say(f"restarting {self._all()}")
            case "restart":
                self.say(f"restarting {self._all()}: {event.reason}")
            case "fail" | "abort":
                self._gave_up = True
                self.say(f"giving up: {without_tokens(event.reason)}")
            case _:
                pass

    def _acted(self, event: ev.ActionTaken) -> None:
        what = asked(event.action, event.by, event.why, event.local_ranks, event.signal)
        if event.outcome == "done":
            self._over = what  # the decision that follows gives this as its reason
            self.say(what)
        else:
            self.say(f"{what}; refused: {event.detail}")

    def _round_over(self, event: ev.RoundEnded) -> None:
        """Why, once: this node has told of its own failure, and of a node that it saw lost."""
        self._over = event.reason
        ours = without_tokens(event.by) == event.node
        if ours and (event.action == "restart" or (self._lost and self._lost in event.reason)):
            return
        says = "" if ours else f" (says {without_tokens(event.by)})"
        self.say(f"round {event.ended} is over{says}: {without_tokens(event.reason)}")

    def _coordinated(self, event: ev.CoordinatorChanged) -> None:
        before, self._coordinator = self._coordinator, event.coordinator
        if before and before != event.coordinator:
            self.say(taken_over(event.began, event.coordinator, before, event.reason))

    def _report(self, event: ev.JobEnded) -> None:
        self._reported = True
        self._write_report(self._in_words(event.why, event.failures))

    def _report_failed(self) -> None:
        """The report of a node that fails alone."""
        if not self._reported and self._failed.records:
            self._write_report(self._in_words("", self._failed.records))

    def _in_words(self, why: str, failures: Sequence[FailureRecord]) -> ReportWords:
        return report_in_words(why, failures, self._failed.stopped, self._failed.ended_well)

    def _write_report(self, words: ReportWords) -> None:
        self.say(words.first)
        self._write_lines(words.details)
        self._write_lines(words.traceback)
        for line in words.others:
            self.say(line)
        for line in self._failed.logs:
            self.say(line)
        if words.why and not self._gave_up:
            self.say(f"not restarted: {words.why}")

    def _write_lines(self, lines: Iterable[str]) -> None:
        self._write("".join(f"    {harmless(line)}\n" for line in lines))

    def _all(self) -> str:
        return "the worker" if self._workers == 1 else f"all {self._workers} workers"

    def _stopping(self, event: ev.WorkersStopping) -> None:
        count = plural(len(event.local_ranks), "worker")
        self._remind(f"sent {event.signal} to {count}, SIGKILL follows after {event.grace_s:g} s")

    def _stopped(self, event: ev.WorkersStopped) -> None:
        if event.killed:
            self.say(f"local {ranks(event.killed)} did not end in time and got SIGKILL")
        if event.unkillable:
            self.say(
                f"local {ranks(event.unkillable)} can't be killed (stuck in the kernel); this machine may need a reboot"
            )

        if event.escaped:
            daemons = "a daemon" if len(event.escaped) == 1 else "daemons"
            self.say(
                f"ended {daemons} that workers had left: {', '.join(event.escaped)}; "
                "with RALLY_KEEP=1 in its environment one stays"
            )

    def _left_barrier(self, event: ev.BarrierLeft) -> None:
        if event.outcome in ("timeout", "error"):
            self.say(
                f"not all nodes finished ({event.outcome} after {event.waited_s:.0f} s); this node's workers succeeded"
            )


def _says_no_more(event: ev.FailureRecorded) -> bool:
    """Whether the message only repeats the exit code or the signal."""
    return event.message in ("", f"exited with code {event.exit_code}") or (
        bool(event.signal) and not event.message.startswith(HUNG)
    )
