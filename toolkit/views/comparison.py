"""Two recordings of one job held against each other, phase by phase: what differs, and how long each took. Pure.

The events of one node have an order, those of two nodes have none that counts. So each node's steps are compared in
their order; what belongs to no node alone (who failed first in a round, who was lost, how it ended) is compared by
itself. Workers whose peers fail at the same moment are told in another order each time: which of them was first is no
difference where both recordings have all of them. Durations are shown side by side and never a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

import msgspec

from toolkit.core import events as ev
from toolkit.core.experiment import NodeEnd, Strike
from toolkit.core.history import Restart
from toolkit.core.timeline import Timeline, fold_all
from toolkit.core.words import plural

Kind = Literal["ranks", "order", "silence", "cause", "lost", "restarts", "outcome"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two recordings.

    Args:
        name: how sentences call it, such as "the simulator".
        events: each node's in their order.
        nodes: names of nodes by names of agents; of those that are not in it, the name without the process id.
        ends: how each node ended, where that is known beside the events.
        strikes: faults that struck.
        began_wall_ns: the start of the clock of `strikes`, by the wall clock of the nodes.
    """

    name: str
    events: Sequence[ev.Event]
    nodes: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, NodeEnd] = field(default_factory=dict)
    strikes: Sequence[Strike] = ()
    began_wall_ns: int = 0

    def node(self, agent: str) -> str:
        """The node of an agent."""
        return self.nodes.get(agent) or agent.rpartition("_")[0] or agent


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not the same.

    Args:
        kind: of what.
        node: whose, or empty for the job.
        words: a sentence that names both sides.
    """

    kind: Kind
    node: str
    words: str


class Duration(msgspec.Struct, frozen=True):
    """How long one phase took on both sides.

    Args:
        phase: in words.
        first_s: on the first side, the node that took longest; None if it did not happen there.
        second_s: on the second.
        ratio: second by first; None where it says nothing.
    """

    phase: str
    first_s: float | None
    second_s: float | None
    ratio: float | None


class NodeSteps(msgspec.Struct, frozen=True):
    """What one node went through, in words; the same on both sides where nothing differs."""

    node: str
    first: list[str]
    second: list[str]


class Comparison(msgspec.Struct, frozen=True):
    """What came of it.

    Args:
        first: name of the first side.
        second: and of the second.
        agree: whether order, ranks, causes, restarts and outcome are the same.
        differences: in words.
        steps: of each node.
        durations: side by side.
    """

    first: str
    second: str
    agree: bool
    differences: list[Difference]
    steps: list[NodeSteps]
    durations: list[Duration]

    def __str__(self) -> str:
        """One screen of text."""
        from toolkit.views.comparison_lines import headline, lines  # late: it knows this module's values

        all_lines = [headline(self, "", unicode=True), *lines(self, unicode=True)]
        return "\n".join("".join(words for words, _ in line).rstrip() for line in all_lines) + "\n"


def compare(first: Side, second: Side) -> Comparison:
    """Hold two recordings of one job against each other."""
    mine, theirs = _Told(first), _Told(second)
    there = {**mine.steps, **theirs.steps}
    names = [name for name in dict.fromkeys([*first.ends, *second.ends, *there]) if name in there]
    found = [
        *(each for name in names for each in _step_differences(name, mine, theirs)),
        *_silence_differences(mine, theirs),
        *_round_differences(mine, theirs),
        *_cause_differences(mine, theirs),
        *_job_differences(mine, theirs),
        *_end_differences(first, second),
    ]
    steps = [
        NodeSteps(name, *([step.words for step in told.steps.get(name, [])] for told in (mine, theirs)))
        for name in names
    ]
    return Comparison(first.name, second.name, not found, found, steps, _durations(mine, theirs))


# -- what a recording tells -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """Something that a node did: `key` is what must be the same, `rank` what it was told in it."""

    key: tuple[object, ...]
    words: str
    seat: tuple[object, ...] = ()


class _Told:
    """One side, read."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.timeline: Timeline = fold_all(side.events)
        self.steps: dict[str, list[_Step]] = {}
        self.lost: dict[str, None] = {}
        #: how often a node heard nothing from the store; another task than its loop says so, so it is no step
        self.silences: dict[str, int] = {}
        #: by round: why it ended before its time, in words, and whether for a failure
        self.ended: dict[int, str] = {}
        self.restarted: dict[int, bool] = {}
        #: by round: failures in the order of the wall clocks, and all workers that ended badly
        self.failures: dict[int, list[str]] = {}
        self.bad_exits: dict[int, dict[str, None]] = {}
        finished = {event.node for event in side.events if isinstance(event, ev.AgentFinished)}
        restarting: dict[str, bool] = {}
        for event in side.events:
            node = side.node(event.node)
            if isinstance(event, ev.DecisionMade):
                restarting[event.node] = event.action != "finish"
            told = _step(event, restarting.get(event.node, True))
            if told is not None:
                self.steps.setdefault(node, []).append(told)
            match event:
                case ev.RoundEnded():
                    cost = "at the cost of the budget" if event.spends_budget else "for free"
                    why = "for a failure" if event.action == "restart" else "for nodes that come or go"
                    self.ended.setdefault(event.ended, f"{why}, {cost}")
                    self.restarted.setdefault(event.ended, event.action == "restart")
                case ev.FailureRecorded(first=True):
                    self.failures.setdefault(event.round, [])
                case ev.WorkerExited() if event.exit_code != 0:
                    self.bad_exits.setdefault(event.round, {})[_worker_end(node, event)] = None
                case ev.StoreSilent():
                    self.silences[node] = self.silences.get(node, 0) + 1
                case ev.LeaseLost() if event.lost.rpartition("_")[0] not in finished:
                    self.lost[side.node(event.lost.rpartition("_")[0])] = None
        firsts = (e for e in side.events if isinstance(e, ev.FailureRecorded) and e.first)
        for failure in sorted(firsts, key=lambda e: e.wall_ns):
            self.failures[failure.round].append(_worker_end(side.node(failure.node), failure))


def _step(event: ev.Event, restarting: bool) -> _Step | None:
    match event:
        case ev.AgentStarted():
            return _Step(("agent",), "its agent starts")
        case ev.Parked(beside=beside):
            return _Step(("parked", beside), f"waits beside round {beside}")
        case ev.RendezvousCompleted():
            seat = (event.group_rank, event.group_world_size, tuple(event.global_ranks), event.world_size)
            return _Step(("round", event.round), f"in round {event.round} as {_seat_words(event)}", seat)
        case ev.RendezvousFailed():
            return _Step(("no round",), "its rendezvous fails")
        case ev.WorkersStarted():
            return _Step(("workers run",), "its workers run")
        case ev.RoundEnded():
            return _Step(("over", event.ended), f"round {event.ended} is over")
        case ev.Evicted():
            # Which of the two an agent says that comes back depends on what it reads first.
            return _Step(("over", event.left), f"round {event.left} went on without it")
        case ev.DecisionMade() if event.action != "restart":
            return _Step(("decision", event.action), f"decides to {event.action}")
        case ev.WorkersStopped() if restarting:
            return _Step(("stopped",), "its workers are stopped")
        case ev.SignalReceived():
            return _Step(("signal", event.signal), f"gets {event.signal}")
        case ev.JobEnded():
            return _Step(("job", event.outcome), f"says that the job {event.outcome}")
        case ev.AgentFinished():
            return _Step(("ends", event.result), f"ends as {event.result}")
        case _:
            return None


def _seat_words(event: ev.RendezvousCompleted) -> str:
    ranks = event.global_ranks
    of = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no rank"
    return f"node {event.group_rank} of {event.group_world_size}, {of} of {event.world_size}"


def _worker_end(node: str, event: ev.FailureRecorded | ev.WorkerExited) -> str:
    how = f"was killed by {event.signal}" if event.signal else f"ended with exit code {event.exit_code}"
    return f"local rank {event.local_rank} on {node} {how}"


# -- what differs ---------------------------------------------------------------------------------------------


def _step_differences(name: str, mine: _Told, theirs: _Told) -> Iterator[Difference]:
    ours, others = mine.steps.get(name, []), theirs.steps.get(name, [])
    here, there = mine.side.name, theirs.side.name
    if not (ours and others):
        has, lacks = (here, there) if ours else (there, here)
        yield Difference("order", name, f"{name} takes part in {has} only, and not in {lacks}")
        return
    matcher = SequenceMatcher(None, [s.key for s in ours], [s.key for s in others], autojunk=False)
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        a, b = ours[a_from:a_to], others[b_from:b_to]
        if tag == "equal":
            yield from _seat_differences(name, a, b, here, there)
        else:
            after = f" after “{ours[a_from - 1].words}”" if a_from else " first"
            yield Difference(
                "order", name, f"{name}:{after}, {here} has {_listed(a)}; {there} has {_listed(b)}"
            )


def _seat_differences(
    name: str, ours: Sequence[_Step], others: Sequence[_Step], here: str, there: str
) -> Iterator[Difference]:
    for mine, theirs in zip(ours, others, strict=True):
        if mine.seat != theirs.seat:
            yield Difference(
                "ranks", name, f"{name} is {mine.words} in {here}, and {theirs.words} in {there}"
            )


def _listed(steps: Sequence[_Step]) -> str:
    return ", then ".join(f"“{step.words}”" for step in steps) or "nothing"


def _silence_differences(mine: _Told, theirs: _Told) -> Iterator[Difference]:
    for name in dict.fromkeys([*mine.silences, *theirs.silences]):
        ours, others = (plural(told.silences.get(name, 0), "time") for told in (mine, theirs))
        if ours != others:
            words = f"{name} heard nothing of the store {ours} in {mine.side.name}, and {others} in {theirs.side.name}"
            yield Difference("silence", name, words)


def _round_differences(mine: _Told, theirs: _Told) -> Iterator[Difference]:
    for number in sorted({*mine.ended, *theirs.ended}):
        ours, others = (told.ended.get(number, "not before its time") for told in (mine, theirs))
        if ours != others:
            words = f"round {number} ended {ours} in {mine.side.name}, and {others} in {theirs.side.name}"
            yield Difference("restarts", "", words)


def _cause_differences(mine: _Told, theirs: _Told) -> Iterator[Difference]:
    here, there = mine.side.name, theirs.side.name
    for number in sorted({*mine.failures, *theirs.failures}):
        if not (mine.restarted.get(number, True) or theirs.restarted.get(number, True)):
            continue  # it ended for nodes that came or went; who fails while he is left behind caused nothing
        ours, others = mine.failures.get(number, []), theirs.failures.get(number, [])
        if ours and others and _same_cause(ours[0], others[0], number, mine, theirs):
            continue
        said = [
            f"{side} {found[0] if found else 'nobody'}"
            for side, found in ((f"in {here}", ours), (f"in {there}", others))
        ]
        yield Difference("cause", "", f"who failed first in round {number}: {said[0]}; {said[1]}")


def _same_cause(ours: str, others: str, number: int, mine: _Told, theirs: _Told) -> bool:
    """The same worker in the same way; or both saw both end so, and only which came first is another."""
    if ours == others:
        return True
    return others in mine.bad_exits.get(number, {}) and ours in theirs.bad_exits.get(number, {})


def _job_differences(mine: _Told, theirs: _Told) -> Iterator[Difference]:
    here, there = mine.side.name, theirs.side.name
    if set(mine.lost) != set(theirs.lost):
        said = [", ".join(sorted(told.lost)) or "nobody" for told in (mine, theirs)]
        yield Difference("lost", "", f"taken for lost: {said[0]} in {here}, {said[1]} in {there}")
    totals = [told.timeline.restarts_total for told in (mine, theirs)]
    if totals[0] != totals[1]:
        yield Difference(
            "restarts", "", f"{plural(totals[0], 'restart')} in {here}, and {totals[1]} in {there}"
        )
    spent = [told.timeline.restarts_used for told in (mine, theirs)]
    if spent[0] != spent[1]:
        words = f"{plural(spent[0], 'restart')} spent of the budget in {here}, and {spent[1]} in {there}"
        yield Difference("restarts", "", words)
    outcomes = [
        told.timeline.job.outcome.outcome if told.timeline.job.outcome else "" for told in (mine, theirs)
    ]
    if outcomes[0] != outcomes[1]:
        said = [outcome or "has no outcome" for outcome in outcomes]
        yield Difference("outcome", "", f"the job {said[0]} in {here}, and {said[1]} in {there}")


def _end_differences(first: Side, second: Side) -> Iterator[Difference]:
    for name, mine in first.ends.items():
        theirs = second.ends.get(name)
        if theirs is None:
            continue
        codes = None in (mine.exit_code, theirs.exit_code) or mine.exit_code == theirs.exit_code
        if mine.result != theirs.result or not codes:
            yield Difference(
                "outcome",
                name,
                f"{name} ends as {_end_words(mine)} in {first.name}, and as {_end_words(theirs)} in {second.name}",
            )


def _end_words(end: NodeEnd) -> str:
    return end.result if end.exit_code is None else f"{end.result} with exit code {end.exit_code}"


# -- how long it took -----------------------------------------------------------------------------------------


def _durations(mine: _Told, theirs: _Told) -> list[Duration]:
    ours, others = dict(_phases(mine)), dict(_phases(theirs))
    return [_duration(phase, ours.get(phase), others.get(phase)) for phase in dict.fromkeys([*ours, *others])]


def _duration(phase: str, first_s: float | None, second_s: float | None) -> Duration:
    ratio = second_s / first_s if first_s and second_s is not None else None
    return Duration(phase, first_s, second_s, ratio)


def _phases(told: _Told) -> Iterator[tuple[str, float]]:
    timeline = told.timeline
    rounds = (
        node.rounds[0].took_s
        for node in timeline.nodes.values()
        if node.rounds and node.rounds[0].number == 1
    )
    yield from _longest("the first round forms", rounds)
    for number, strike in enumerate(told.side.strikes, 1):
        noticed_s = _noticed_s(told.side, strike)
        if noticed_s is not None:
            yield f"fault {number} until a round ends for it", noticed_s
    by_round: dict[int, list[Restart]] = {}
    for restart in timeline.restarts:
        by_round.setdefault(restart.round, []).append(restart)
    for number, restarts in sorted(by_round.items()):
        yield from _longest(f"after round {number}: detect", (r.detect_s for r in restarts))
        yield from _longest(f"after round {number}: stop", (r.stop_s for r in restarts))
        yield from _longest(f"after round {number}: rendezvous", (r.rendezvous_s for r in restarts))
        yield from _longest(f"after round {number}: start", (r.start_s for r in restarts))
        yield from _longest(f"after round {number}: total", (r.total_s for r in restarts))
    yield from _longest("all of it", (timeline.duration_s,))


def _longest(phase: str, seconds: Iterable[float | None]) -> Iterator[tuple[str, float]]:
    known = [each for each in seconds if each is not None]
    if known:
        yield phase, max(known)


def _noticed_s(side: Side, strike: Strike) -> float | None:
    """From a strike to the end of a round that came next, and before the next strike."""
    later = [other.at_s for other in side.strikes if other.at_s > strike.at_s]
    ends = (
        (event.wall_ns - side.began_wall_ns) / 1e9 - strike.at_s
        for event in side.events
        if isinstance(event, ev.RoundEnded)
    )
    found = min((after_s for after_s in ends if after_s >= 0), default=None)
    return found if found is not None and strike.at_s + found < min(later, default=float("inf")) else None
