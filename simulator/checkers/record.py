"""Events put in order for checkers: agents with their lives, their seats in rounds, and the rounds. Decides nothing.

Times: `at_s` of an event is the world's own time where the simulator knows it, and otherwise the node's wall clock.
Wall clocks of several machines differ, so orders across nodes count only beyond `Record.slack_s`; within one node
it is the order of its events that counts, and its monotonic clock that measures.

Rounds: ours have numbers, which their members say. torch's handler shares none, so its rounds are found by what must
hold of them. A seat (one agent's stay
in a round) belongs to the latest round that is not full yet, that this agent is not in, and that nobody has left; how
full a round can be is what its members say themselves. So members that contradict each other come to sit in one round
and are found out, and a node that forms a world of its own beside a full round is a round of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from simulator.progress import Training
from toolkit.core import events
from toolkit.core.events import Event

#: what wall clocks of several machines may differ by; agents of one machine share a clock
CLOCKS_APART_S = 2.0
_SAME_CLOCK_S = 0.05


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """How the last agent of a node ended, as the simulator knows it.

    Args:
        result: a WorkerState, "SIGNAL", "ERROR", "KILLED", "LOST", "RUNNING" or "WAITING" (never started).
        exited_at_s: when, if it ended.
        reason: in words.
        waits_for: what it waits for, if it runs.
        exit_code: of its process, if it ended.
    """

    result: str
    exited_at_s: float | None = None
    reason: str = ""
    waits_for: str = ""
    exit_code: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.result not in ("RUNNING", "WAITING")


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that struck a node.

    Args:
        kind: name of the fault's class.
        node: whom.
        at_s: when.
        until_s: when it had passed; infinite for what stays.
        words: what happened.
    """

    kind: str
    node: str
    at_s: float
    until_s: float = math.inf
    words: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a run beside its events. Of a recording that is what `run.json` says; nothing else needs it.

    Args:
        min_nodes: agents without which no round starts, if known.
        max_nodes: agents that a round admits, if known.
        nodes: how each node ended; only the simulator knows.
        hits: faults that struck; only the simulator knows.
        said: when each event was said, and how many store operations had been done by then, `[events]`.
        ended_s: when the run was over or was stopped.
        end_by_s: when all agents must have ended; None if the run was not bounded.
        notice_s: how long a node that died may go unnoticed.
        grace_s: between a death signal to an agent and its end, at most.
        limit: which limit stopped the run, in words, or empty.
        stuck: who waits for whom when nothing is left to happen, or empty.
        store_host: the node that hosts the rendezvous store, if any.
        addresses: node names by what may stand in MASTER_ADDR.
        orphans: what agents had started and is still there after them, by node.
        training: what of the time was useful; only the simulator knows.
    """

    min_nodes: int | None = None
    max_nodes: int | None = None
    nodes: Mapping[str, NodeEnd] = field(default_factory=dict)
    hits: tuple[Hit, ...] = ()
    said: Sequence[tuple[int, int]] = ()
    ended_s: float = 0.0
    end_by_s: float | None = None
    notice_s: float = 6.0
    grace_s: float = 30.0
    limit: str = ""
    stuck: str = ""
    store_host: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    orphans: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Training | None = None

    @property
    def simulated(self) -> bool:
        """Whether the simulator stands behind this, which knows what no recording can."""
        return bool(self.nodes)


#: a recording of which only the events are known
NOTHING_MORE = Facts()

_E = TypeVar("_E", bound=Event)


class Told(NamedTuple):
    """One event and its place.

    Args:
        place: in the order of the world, or of the reading.
        at_s: seconds from the start of the run.
        event: what was said.
    """

    place: int
    at_s: float
    event: Event


@dataclass(slots=True)
class Seat:
    """One agent's stay in one round, from "completed" until it asks for the next one or ends.

    Args:
        life: whose.
        told: its RendezvousCompleted.
        left: the event with which it left, or None.
        said: what its agent said from the first to the last moment of it.
        works: when its workers ran, from and to; None if they never did.
    """

    life: Life
    told: Told
    left: Told | None = None
    said: list[Told] = field(default_factory=list)
    works: tuple[float, float] | None = None

    @property
    def event(self) -> events.RendezvousCompleted:
        """What the agent was told."""
        event = self.told.event
        assert isinstance(event, events.RendezvousCompleted), "seats are made of nothing else"
        return event

    @property
    def name(self) -> str:
        """Of its node."""
        return self.life.name


@dataclass(slots=True)
class Round:
    """Seats that belong together, in the order in which they were told.

    Args:
        number: counts the rounds, from 1.
        seats: its members.
        size: agents that it has by what its members say, at the most.
    """

    number: int
    seats: list[Seat] = field(default_factory=list)
    size: int = 0
    _ids: set[int] = field(default_factory=set)
    _left_place: float = math.inf
    _gone_s: float = math.inf

    def add(self, seat: Seat) -> None:
        """One more member."""
        self.seats.append(seat)
        self.size = max(self.size, seat.event.group_world_size, seat.event.group_rank + 1)
        self._ids.add(id(seat.life))
        if seat.left is not None:
            self._left_place = min(self._left_place, seat.left.place)
        elif seat.life.gone_s is not None:
            self._gone_s = min(self._gone_s, seat.life.gone_s)

    def has_room_for(self, seat: Seat) -> bool:
        """Whether it is not full, has another seat of that agent, or has been left by somebody."""
        return (
            len(self.seats) < self.size
            and id(seat.life) not in self._ids
            and not (self._left_place < seat.told.place or self._gone_s < seat.told.at_s)
        )

    @property
    def formed(self) -> Told:
        """When the last member knew."""
        return self.seats[-1].told

    def holder_of(self, group_rank: int) -> Seat | None:
        """Who has that group rank."""
        return next((seat for seat in self.seats if seat.event.group_rank == group_rank), None)

    @property
    def names(self) -> list[str]:
        """Of its nodes, by group rank."""
        return [seat.name for seat in sorted(self.seats, key=lambda seat: seat.event.group_rank)]


@dataclass(slots=True)
class Life:
    """One agent from its start to its end.

    Args:
        name: of its node.
        told: what it said, in its order.
        unread: whether what it said first is missing, as is the start of the agent.
        missing: events that are missing in between.
        seats: its rounds.
        gone_s: when it was gone, if it did not say so itself and this is known.
    """

    name: str
    told: list[Told] = field(default_factory=list)
    unread: bool = False
    missing: int = 0
    seats: list[Seat] = field(default_factory=list)
    gone_s: float | None = None

    def of(self, kind: type[_E]) -> list[tuple[Told, _E]]:
        """Its events of one kind."""
        return [(told, told.event) for told in self.told if isinstance(told.event, kind)]

    @property
    def started(self) -> events.AgentStarted | None:
        """Its start, if it is there."""
        event = self.told[0].event
        return event if isinstance(event, events.AgentStarted) else None

    @property
    def finished(self) -> tuple[Told, events.AgentFinished] | None:
        """Its end, if it is there."""
        return next(iter(self.of(events.AgentFinished)), None)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing up to its last event."""
        return not self.unread and not self.missing

    @property
    def end_s(self) -> float:
        """When it was over, as far as is known: else its last event."""
        return self.gone_s if self.gone_s is not None else self.told[-1].at_s


@dataclass(slots=True)
class Record:
    """Everything that checkers look at.

    Args:
        facts: what is known beside the events.
        told: all events in their order.
        lives: agents, in the order of their first events.
        rounds: in the order in which they formed.
        arrivals: place and time of each agent's first arrival at the exit barrier, in their order.
        slack_s: orders across nodes count only beyond so many seconds.
    """

    facts: Facts
    told: list[Told] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    arrivals: list[tuple[int, float]] = field(default_factory=list)
    slack_s: float = 0.0

    def hits_on(self, node: str, *kinds: str) -> list[Hit]:
        """The faults that struck a node; of those kinds, if any are given."""
        return [hit for hit in self.facts.hits if hit.node == node and (not kinds or hit.kind in kinds)]

    def round_of(self, seat: Seat) -> Round:
        """Where a seat stands."""
        return next(group for group in self.rounds if any(other is seat for other in group.seats))

    @property
    def missing_nodes(self) -> str:
        """Why the events of some nodes are not here, or empty."""
        named = max((group.size for group in self.rounds), default=0)
        here = len({life.name for life in self.lives})
        if named <= here:
            return ""
        return f"the recording has the events of {here} of {named} nodes"

    @property
    def incomplete(self) -> str:
        """Why something that happened may not be here, or empty."""
        torn = [life.name for life in self.lives if not life.whole]
        if torn:
            return f"events of {', '.join(torn[:3])} are missing"
        return self.missing_nodes

    @property
    def unfinished(self) -> str:
        """Which agents have not said how they ended, or empty."""
        open_ends = [life.name for life in self.lives if life.finished is None]
        if not open_ends:
            return self.missing_nodes
        return (
            f"{', '.join(open_ends[:3])} {'has' if len(open_ends) == 1 else 'have'} no end in the recording"
        )


def record_of(said: Iterable[Event], facts: Facts = NOTHING_MORE) -> Record:
    """Put events in order.

    Args:
        said: each node's in their order; simulated ones in the order of the world.
        facts: what is known beside them.
    """
    record = Record(facts)
    record.told = _placed(list(said), facts)
    record.lives = _lives(record)
    _name(record)
    hosts = {life.started.hostname for life in record.lives if life.started is not None}
    record.slack_s = 0.0 if facts.simulated else CLOCKS_APART_S if len(hosts) > 1 else _SAME_CLOCK_S
    for life in record.lives:
        life.gone_s = _gone_s(life, record)
        life.seats = _seats(life)
    record.rounds = _rounds(record.lives)
    firsts = [next(iter(life.of(events.BarrierEntered)), None) for life in record.lives]
    record.arrivals = sorted((first[0].place, first[0].at_s) for first in firsts if first is not None)
    return record


def _placed(said: list[Event], facts: Facts) -> list[Told]:
    if len(facts.said) == len(said):
        return [Told(place, facts.said[place][0] / 1e9, event) for place, event in enumerate(said)]
    start_ns = min((event.wall_ns for event in said), default=0)
    return [Told(place, (event.wall_ns - start_ns) / 1e9, event) for place, event in enumerate(said)]


def _lives(record: Record) -> list[Life]:
    lives: list[Life] = []
    latest: dict[str, Life] = {}
    last_seq: dict[str, int] = {}
    for told in record.told:
        event = told.event
        life = latest.get(event.node)
        if life is None or isinstance(event, events.AgentStarted):
            life = latest[event.node] = Life(event.node, unread=not isinstance(event, events.AgentStarted))
            lives.append(life)
            last_seq[event.node] = event.seq - 1
            life.missing = max(event.seq - 1, 0)
        life.missing += max(event.seq - last_seq[event.node] - 1, 0)
        last_seq[event.node] = max(event.seq, last_seq[event.node])
        life.told.append(told)
    return lives


def _name(record: Record) -> None:
    """Nodes go by their host names where these tell them apart."""
    of_host: dict[str, set[str]] = {}
    for life in record.lives:
        host = "" if life.started is None else life.started.hostname
        of_host.setdefault(host, set()).add(life.name)
    for life in record.lives:
        host = "" if life.started is None else life.started.hostname
        said_by = life.name.rpartition("_")[0]  # agents are called <hostname>_<pid>
        if host in record.facts.nodes or (host and len(of_host[host]) == 1):
            life.name = host
        elif not host and said_by in record.facts.nodes:
            life.name = said_by


def _gone_s(life: Life, record: Record) -> float | None:
    """When an agent that did not say that it ended was gone; never before its last event."""
    if life.finished is not None or not record.facts.simulated:
        return None
    later = [
        other
        for other in record.lives
        if other.name == life.name and other.told[0].place > life.told[-1].place
    ]
    end = record.facts.nodes.get(life.name)
    known = [hit.at_s for hit in record.hits_on(life.name, "CrashNode", "KillAgent", "FlappingJoiner")]
    if later:
        known = [at_s for at_s in known if at_s <= later[0].told[0].at_s] or [life.told[-1].at_s]
    elif end is not None and end.exited_at_s is not None:
        known = [end.exited_at_s]
    elif end is None or end.result in ("RUNNING", "WAITING"):
        return math.inf
    # The first of them: what struck its node later found it gone.
    return min((at_s for at_s in known if at_s >= life.told[-1].at_s), default=life.told[-1].at_s)


def _seats(life: Life) -> list[Seat]:
    seats: list[Seat] = []
    for told in life.told:
        match told.event:
            case events.RendezvousCompleted():
                _close(seats, told)
                seats.append(Seat(life, told))
            case events.RendezvousStarted() | events.AgentFinished():
                _close(seats, told)
        if seats and (seats[-1].left is None or seats[-1].left is told):
            seats[-1].said.append(told)
    for seat in seats:
        seat.works = _works(seat)
    return seats


def _close(seats: list[Seat], told: Told) -> None:
    if seats and seats[-1].left is None:
        seats[-1].left = told


def _works(seat: Seat) -> tuple[float, float] | None:
    running: set[int] = set()
    began_s = ended_s = None
    for told in seat.said:
        match told.event:
            case events.WorkerStarted(local_rank=local_rank):
                running.add(local_rank)
                began_s = told.at_s if began_s is None else began_s
            case events.WorkerExited(local_rank=local_rank):
                running.discard(local_rank)
            case events.WorkersStopped() if running:
                running.clear()
            case _:
                continue
        ended_s = None if running else told.at_s
    if began_s is None:
        return None
    if ended_s is None:
        ended_s = seat.left.at_s if seat.left is not None else seat.life.end_s
    return began_s, max(ended_s, began_s)


def _rounds(lives: list[Life]) -> list[Round]:
    rounds: list[Round] = []
    numbered: dict[tuple[int, int, str], Round] = {}
    for seat in sorted((seat for life in lives for seat in life.seats), key=lambda seat: seat.told.place):
        said = (seat.event.round, seat.event.epoch, seat.event.coordinator)
        if seat.event.epoch:
            group = numbered.get(said)
        else:
            group = next((group for group in reversed(rounds) if group.has_room_for(seat)), None)
        if group is None:
            group = Round(len(rounds) + 1)
            rounds.append(group)
            numbered[said] = group
        group.add(seat)
    return rounds
