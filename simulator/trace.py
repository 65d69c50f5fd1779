"""What happened, node by node, for one screen: events in few words, side by side in the order of the world.

A cell is what one node said within a moment. Faults and broken promises stand between the cells. Where there is more
than fits, what is near a broken promise and what came last is kept.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from simulator.checkers.record import Record
from toolkit.core import events
from toolkit.core.events import Event
from toolkit.core.words import ending, host_of, plural, without_tokens

#: events of one node that come within so many seconds stand in one cell
_TOGETHER_S = 0.25
_LINES_MAX, _CELLS_OF_NODE, _CELL_LINES, _NEAR_BREAK = 30, 12, 4, 3
_WAITS = "waits for a round"
#: columns between two lanes
GAP = 2

Kind = Literal["cell", "fault", "broken", "skipped"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What stands between the lanes, over their whole width.

    Args:
        at_s: when.
        kind: a fault or a broken promise.
        words: what.
    """

    at_s: float
    kind: Kind
    words: str


@dataclass(slots=True)
class Row:
    """One row of the lanes.

    Args:
        at_s: when.
        kind: what it shows.
        cells: what each node said in this moment.
        words: of a mark.
    """

    at_s: float
    kind: Kind
    cells: dict[str, str] = field(default_factory=dict)
    words: str = ""


def words_of(event: Event) -> str:
    """An event in a few words; empty where others say it better."""
    match event:
        case events.AgentStarted():
            return "starts"
        case events.AgentFinished(result=result):
            return f"ends {result}"
        case events.RendezvousStarted():
            return _WAITS
        case events.RendezvousCompleted(group_rank=rank, group_world_size=size, master_addr=master):
            return f"rank {rank} of {size}, master {master}"
        case events.RendezvousFailed(error=error):
            return f"no round: {error.split(':')[0]}"
        case events.WorkersStarted():
            return "workers run"
        case events.FailureRecorded(global_rank=rank, exit_code=code, signal=name):
            return f"rank {rank} {ending(code, name)}"
        case events.GroupStateChanged(after="SUCCEEDED"):
            return "workers are done"
        case events.MembershipChanged(nodes_waiting=count):
            return f"sees {plural(count, 'node')} waiting"
        case events.DecisionMade(action="restart", spends_budget=True, restarts_left=left):
            return f"restarts, {left} left"
        case events.DecisionMade(action="restart"):
            return "restarts for them"
        case events.DecisionMade(action="fail"):
            return "gives up"
        case events.DecisionMade(action="abort"):
            return "is lost"
        case events.BarrierEntered(members=members):
            return f"waits for all {members} at the barrier" if members > 1 else ""
        case events.BarrierLeft(outcome=outcome, waited_s=waited_s):
            return "" if outcome == "complete" and waited_s < 0.01 else f"leaves the barrier: {outcome}"
        case events.SignalReceived(signal=name):
            return f"gets {name}"
        case events.EventsDropped(count=count):
            return f"loses {plural(count, 'event')}"
        case _:
            return _words_of_job(event)


def _words_of_job(event: Event) -> str:
    """What the nodes of a job decide together, from the node that decides it or is hit by it."""
    match event:
        case events.RoundEnded(by=by, action="membership") if without_tokens(by) == event.node:
            # Who it is about is told, too, if it is one node; a lost one that ended no round is not worth a cell.
            return f"rings the bell: {without_tokens(event.reason).split(':')[0]}"
        case events.Parked():
            return "is parked"
        case events.Evicted():
            return "is evicted"
        case events.CoordinatorChanged(began=began, coordinator=coordinator) if began > 1:
            return "coordinates from now on" if without_tokens(coordinator) == event.node else ""
        case events.StoreSilent():
            return "hears nothing from the store"
        case events.StoreAnswers():
            return "hears from the store again"
        case events.JoinHeld(joiner=joiner, for_s=for_s):
            return f"holds {host_of(joiner)} back for {for_s:.0f} s"
        case events.JoinRefused(joiner=joiner):
            ours = without_tokens(joiner) == event.node
            return "is refused" if ours else f"refuses {host_of(joiner)}"
        case _:
            return ""


def rows_of(record: Record, nodes: Sequence[str], marks: Sequence[Mark], lane: int) -> list[Row]:
    """The rows that one screen takes, in the order of the world.

    Args:
        nodes: whose lanes are shown.
        marks: what stands between.
        lane: columns of one lane.
    """
    rows = _rows(record, nodes, sorted(marks, key=lambda mark: mark.at_s))
    kept = _kept(rows, nodes, lane)
    shown: list[Row] = []
    for index, row in enumerate(rows):
        if index in kept:
            if index and index - 1 not in kept:
                shown.append(Row(row.at_s, "skipped"))
            shown.append(row)
    return shown


def _rows(record: Record, nodes: Sequence[str], marks: Sequence[Mark]) -> list[Row]:
    of_life = {told.place: life.name for life in record.lives for told in life.told}
    rows: list[Row] = []
    ahead = list(marks)
    for told in record.told:
        while ahead and _comes_before(ahead[0], told.at_s):
            rows.append(_row_of(ahead.pop(0)))
        words, name = words_of(told.event), of_life[told.place]
        if words and name in nodes:
            _put(rows, told.at_s, name, words)
    return [*rows, *map(_row_of, ahead)]


def _comes_before(mark: Mark, at_s: float) -> bool:
    """A fault comes before what it leads to, a finding after what it is about."""
    return mark.at_s <= at_s if mark.kind == "fault" else mark.at_s < at_s


def _row_of(mark: Mark) -> Row:
    return Row(mark.at_s, mark.kind, words=mark.words)


def _put(rows: list[Row], at_s: float, name: str, words: str) -> None:
    if not rows or rows[-1].kind != "cell" or at_s - rows[-1].at_s > _TOGETHER_S:
        rows.append(Row(at_s, "cell"))
    cells = rows[-1].cells
    if name in cells and words == _WAITS:
        return  # so does everybody who starts or restarts
    cells[name] = f"{cells[name]}, {words}" if name in cells else words


def _kept(rows: list[Row], nodes: Sequence[str], lane: int) -> set[int]:
    """Indices of the rows to show: what is near a break, faults, and the latest cells of each node."""
    wanted: list[int] = []
    for index, row in enumerate(rows):
        if row.kind == "broken":
            wanted.extend(range(max(index - _NEAR_BREAK, 0), min(index + 2, len(rows))))
    wanted.extend(index for index, row in enumerate(rows) if row.kind == "fault")
    left = dict.fromkeys(nodes, _CELLS_OF_NODE)
    for index in reversed(range(len(rows))):
        here = [name for name in rows[index].cells if left[name]]
        for name in here:
            left[name] -= 1
        if here:
            wanted.append(index)
    kept: set[int] = set()
    lines = 0
    for index in dict.fromkeys(wanted):
        lines += max((len(cell_lines(words, lane)) for words in rows[index].cells.values()), default=1)
        if lines > _LINES_MAX:
            break
        kept.add(index)
    return kept


def cell_lines(words: str, lane: int) -> list[str]:
    """`words` as the lines of one cell."""
    return wrapped(words, lane)[:_CELL_LINES]


def wrapped(words: str, width: int) -> list[str]:
    """`words` in lines of at most `width` columns."""
    return textwrap.wrap(" ".join(words.split()), width)


def lane_width(nodes: Sequence[str], width: int) -> int:
    """Columns of one lane, of `width` for all."""
    return max(width // max(len(nodes), 1) - GAP, 12)


def clipped(words: str, width: int) -> str:
    """`words` in at most `width` columns."""
    return words if len(words) <= width else f"{words[: width - 1]}…"
