"""Events in words: a line for each, for the list of events, `--plain` and the marks of the timeline. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.core import events as ev
from toolkit.core.words import ending, plural, ranks, times, without_tokens
from toolkit.views.failure_report import details
from toolkit.views.hanging import hung, recovered
from toolkit.views.wording import duration_in_words, forwarded

#: how a line looks: something failed, something is about to, something went well, somebody did it, or none of these
Tone = Literal["bad", "warn", "good", "action", "plain"]


@dataclass(frozen=True, slots=True)
class Told:
    """One event.

    Args:
        tone: how it looks.
        words: one line.
        global_rank: whose it is, if it is one worker's; else -1.
    """

    tone: Tone
    words: str
    global_rank: int = -1


def told(event: ev.Event) -> Told | None:
    """The event in words; None for those that are no news by themselves, such as readings."""
    if isinstance(event, ev.ReadingsTaken):
        return None  # of a million events nearly all are readings
    line = _of_workers(event) or _of_group(event) or _of_job(event)
    if line is None or "\n" not in line.words:
        return line
    first, *rest = line.words.splitlines()
    return Told(line.tone, f"{first} (and {plural(len(rest), 'line')} more)", line.global_rank)


def _of_workers(event: ev.Event) -> Told | None:
    match event:
        case ev.WorkersStarting():
            return Told("plain", f"starts {plural(event.count, 'worker')} (incarnation {event.incarnation})")
        case ev.WorkerStarted():
            return Told("plain", f"rank {event.global_rank} runs, pid {event.pid}", event.global_rank)
        case ev.WorkersStarted():
            return Told("good", f"all workers run (incarnation {event.incarnation})")
        case ev.WorkerExited(stopped_by_agent=True):
            said = f"; it had said: {event.consequence}" if event.consequence else ""
            return Told("plain", f"rank {event.global_rank} was stopped{said}", event.global_rank)
        case ev.WorkerExited(exit_code=0, signal=""):
            return Told("good", f"rank {event.global_rank} succeeded", event.global_rank)
        case ev.WorkerExited():
            return Told(
                "bad", f"rank {event.global_rank} {ending(event.exit_code, event.signal)}", event.global_rank
            )
        case ev.FailureRecorded():
            first = ", the first of this node" if event.first else ""
            return Told(
                "bad",
                f"failure of rank {event.global_rank}{first}: {_with_what(event.message, event.what)}",
                event.global_rank,
            )
        case ev.WorkersStopping():
            count = plural(len(event.local_ranks), "worker")
            return Told("warn", f"stops {count}: {event.signal}, SIGKILL after {event.grace_s:g} s")
        case ev.GraceShortened():
            return Told("warn", f"asked {times(event.signals)}to stop: SIGKILL in {event.left_s:.3g} s")
        case ev.WorkersStopped():
            return _stopped(event)
        case ev.LogsLost():
            return Told("warn", event.problem)
        case ev.WorkersHung():
            blamed = event.workers[0].global_rank if event.workers else -1
            return Told("bad", hung(event), blamed)
        case ev.WorkersRecovered():
            return Told("good", recovered(event), event.global_ranks[0] if event.global_ranks else -1)
        case ev.SupervisionChanged():
            return Told("warn", event.what)
        case _:
            return None


def _with_what(message: str, what: str) -> str:
    """The message, and what it was in words where these say more."""
    return "; ".join([message, *details(message, what, "")])


def _stopped(event: ev.WorkersStopped) -> Told:
    if event.unkillable:
        return Told("bad", f"local {ranks(event.unkillable)} can't be killed")
    killed = f"; local {ranks(event.killed)} needed SIGKILL" if event.killed else ""
    escaped = (
        f"; daemons that workers had left are ended: {', '.join(event.escaped)}" if event.escaped else ""
    )
    return Told("warn" if killed or escaped else "plain", f"no worker runs any more{killed}{escaped}")


def _of_group(event: ev.Event) -> Told | None:
    match event:
        case ev.AgentStarted():
            count = plural(event.local_world_size, "worker")
            return Told(
                "plain", f"agent starts on {event.hostname}, pid {event.pid}: {count} of {event.entrypoint}"
            )
        case ev.AgentFinished():
            tone: Tone = {"SUCCEEDED": "good", "STOPPED": "plain", "SIGNAL": "warn"}.get(event.result, "bad")  # type: ignore[assignment]
            return Told(tone, f"agent ends {event.result}: {without_tokens(event.reason)}")
        case ev.RendezvousStarted():
            return Told("plain", f"waits for a round ({event.backend})")
        case ev.RendezvousCompleted():
            return Told(
                "good",
                f"round {event.round}: node {event.group_rank} of {event.group_world_size}, {ranks(event.global_ranks)}"
                f" of {event.world_size}, workers meet at {event.master_addr}:{event.master_port}",
            )
        case ev.RendezvousFailed():
            return Told("bad", f"no round: {event.error}")
        case ev.GroupStateChanged():
            return Told("plain", f"workers {event.before} → {event.after}")
        case ev.MembershipChanged():
            return Told("warn", f"{plural(event.nodes_waiting, 'node')} waits to join")
        case ev.DecisionMade():
            return _decision(event)
        case ev.BarrierEntered():
            return Told("plain", f"waits at the exit barrier for {plural(event.members, 'node')}")
        case ev.BarrierLeft():
            tone = "good" if event.outcome == "complete" else "warn"
            waited = duration_in_words(event.waited_s)
            return Told(
                tone, f"leaves the exit barrier after {waited}: {event.outcome} {event.detail}".rstrip()
            )
        case ev.SignalReceived():
            return Told("warn", f"agent gets {event.signal}")
        case ev.SignalForwarded():
            return Told(
                "warn" if event.waiting else "plain",
                forwarded(event.signal, event.local_ranks, event.waiting),
            )
        case ev.EventsDropped():
            return Told("warn", f"{plural(event.count, 'event')} could not be written: {event.reason}")
        case ev.ActionTaken():
            return _action(event)
        case _:
            return None


def _decision(event: ev.DecisionMade) -> Told:
    reason = without_tokens(event.reason)
    if event.action == "restart":
        spends = f", {event.restarts_left} left" if event.spends_budget else ", at no cost"
        return Told("warn", f"decides to restart{spends}: {reason}")
    return Told("good" if event.action == "finish" else "bad", f"decides to {event.action}: {reason}")


def _action(event: ev.ActionTaken) -> Told:
    what = event.action
    if event.action == "signal":
        what = f"{event.signal} to local {ranks(event.local_ranks)}"
    why = f": {event.why}" if event.why else ""
    if event.outcome == "done":
        return Told("action", f"{event.by} did {what}{why}")
    return Told("warn", f"{event.by} asked for {what} and was refused: {event.detail}")


def _of_job(event: ev.Event) -> Told | None:
    match event:
        case ev.RoundEnded():
            reason, by = without_tokens(event.reason), without_tokens(event.by)
            return Told(
                "warn", f"the bell: round {event.ended} is over ({event.action}, says {by}): {reason}"
            )
        case ev.RoundFormed():
            parked = f", {plural(len(event.parked), 'node')} parked" if event.parked else ""
            return Told(
                "plain", f"forms round {event.formed} of {plural(len(event.members), 'node')}{parked}"
            )
        case ev.SeatTaken():
            return Told("plain", f"asks for a seat in round {event.gathering}")
        case ev.Parked():
            return Told("plain", f"is parked beside round {event.beside}: {event.reason}")
        case ev.Evicted():
            return Told("bad", f"is evicted: {without_tokens(event.reason)}")
        case ev.LeaseLost():
            return Told("bad", f"node {without_tokens(event.lost)} is lost: {without_tokens(event.reason)}")
        case ev.StoreSilent():
            return Told("bad", f"the store at {event.where} has been silent for {event.silent_s:.0f} s")
        case ev.StoreAnswers():
            return Told("good", f"the store answers again after {event.silent_s:.0f} s")
        case ev.CoordinatorChanged() if event.coordinator:
            why = f": {without_tokens(event.reason)}" if event.reason else ""
            who = without_tokens(event.coordinator)
            return Told("plain", f"{who} coordinates from epoch {event.began} on{why}")
        case ev.JoinHeld():
            return Told(
                "warn", f"holds {without_tokens(event.joiner)} back for {event.for_s:.0f} s: {event.reason}"
            )
        case ev.JoinRefused():
            return Told("bad", f"{without_tokens(event.joiner)} is refused: {without_tokens(event.reason)}")
        case ev.JobEnded():
            tone: Tone = "good" if event.outcome == "succeeded" else "bad"
            return Told(tone, f"the job has {event.outcome}: {without_tokens(event.why)}")
        case _:
            return None
