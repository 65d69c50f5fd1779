"""Promises held against the event stream, of simulated runs and of recordings alike. They read; they change nothing.

`judge(events)` puts the events in order (`record.py`) and asks each checker: those of a round (`rounds.py`), of the job
(`restarts.py`, `endings.py`, `noticing.py`) and of one agent (`supervision.py`). A checker is a value: a name, a line
and a pure function; one that raises is a finding about itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.checkers import endings, noticing, restarts, rounds, supervision
from simulator.checkers.record import NOTHING_MORE, Facts, Hit, NodeEnd, Record, record_of
from simulator.checkers.values import Broken, Checker, Judgement, Ruling, rule
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import Event
from toolkit.core.words import did_you_mean

__all__ = [
    "CHECKERS",
    "Broken",
    "Checker",
    "Facts",
    "Hit",
    "Judgement",
    "NodeEnd",
    "Record",
    "Ruling",
    "checkers_named",
    "judge",
    "judge_record",
    "record_of",
]

#: all promises; first those between nodes, then those of one agent
CHECKERS: tuple[Checker, ...] = (
    *rounds.CHECKERS,
    *restarts.CHECKERS,
    *endings.CHECKERS,
    *noticing.CHECKERS,
    *supervision.CHECKERS,
)


def checkers_named(names: Iterable[str | Checker]) -> tuple[Checker, ...]:
    """Those of that name, in their usual order; all if none is named. Checkers of one's own come behind them.

    Raises:
        ConfigurationError: there is none of that name.
    """
    given = list(names)
    wanted = [name for name in given if isinstance(name, str)]
    own = [checker for checker in given if isinstance(checker, Checker)]
    known = [checker.promise for checker in CHECKERS]
    for name in wanted:
        if name not in known:
            remedy = did_you_mean(name, known, f"there are {', '.join(known)}", cutoff=0.4)
            raise ConfigurationError(f"there is no checker {name!r}; {remedy}")
    return (*(checker for checker in CHECKERS if not wanted or checker.promise in wanted), *own)


def judge(events: Iterable[Event], facts: Facts = NOTHING_MORE, names: Sequence[str] = ()) -> Judgement:
    """What the checkers say of a run.

    Args:
        events: each node's in their order; simulated ones in the order of the world.
        facts: what is known of the run beside its events.
        names: of the checkers to ask; all if empty.

    Raises:
        ConfigurationError: there is no checker of such a name.
    """
    return judge_record(record_of(events, facts), checkers_named(names))


def judge_record(record: Record, checkers: Sequence[Checker] = CHECKERS) -> Judgement:
    """The same for events that are in order already."""
    return Judgement(tuple(rule(checker, record) for checker in checkers))
