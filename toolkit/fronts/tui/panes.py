"""The views of `rally top`: each shows a session, and none keeps anything of the run for itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from toolkit.adapters.recording.log_places import LastLines
from toolkit.adapters.recording.merged_logs import without_time
from toolkit.core.history import Node
from toolkit.core.words import ranks as ranks_in_words
from toolkit.fronts.tui.look import (
    TONE_SIGNS,
    TONES,
    state_look,
)
from toolkit.fronts.tui.overview import overview
from toolkit.fronts.tui.table import Cell, Column, Table
from toolkit.views import lanes
from toolkit.views.filtering import Filter, parsed
from toolkit.views.folding import FOLDS, Fold, RankGroup, folded
from toolkit.views.rows import (
    NODE_FIELDS,
    RANK_FIELDS,
    RANK_STATES,
    NodeRow,
    RankKey,
    RankRow,
    RowMaker,
    age_s,
    short_duration,
    size_in_words,
)
from toolkit.views.session import Line, Session

#: events that are listed; `rally show` and the file itself have the rest
EVENTS_MAX = 2_000
EVENT_FIELDS = ("node", "tone", "words", "rank")


class Pane(Vertical):
    """A view.

    Args:
        maker: of rows, one for all views.
    """

    #: for the filter of this view; empty where there is nothing to filter
    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, maker: RowMaker, id: str) -> None:
        super().__init__(id=id)
        self.maker = maker
        self.filter = Filter()

    def set_filter(self, text: str) -> None:
        """Show only what fits.

        Raises:
            ConfigurationError: it is not a filter.
        """
        self.filter = parsed(text, self.fields)

    def show(self, session: Session) -> None:
        """Show the moment that the session is at."""
        raise NotImplementedError

    async def on_resize(self) -> None:
        """What was painted may have been for another room: that of a pane is known later than that of the screen."""
        await self.run_action("app.repaint")

    @property
    def rank(self) -> RankKey | None:
        """The rank that is selected here."""
        return None

    @property
    def node(self) -> str | None:
        """The node that is selected here."""
        return None


class OverviewPane(Pane):
    """The job on one screen."""

    def compose(self) -> ComposeResult:
        yield Static(id="overview-text")

    def show(self, session: Session) -> None:
        timeline, size = session.timeline, self.size
        recent = session.lines(EVENTS_MAX)[-max(size.height, 1) :]
        origin_ns = session.film.started_ns
        text = overview(
            timeline,
            self.maker.nodes(timeline),
            self.maker.ranks(timeline),
            recent,
            elapsed_s=max(session.now_ns - origin_ns, 0) / 1e9 if len(session.film) else 0.0,
            width=max(size.width - 2, 20),
            height=max(size.height, 5),
            since=[lanes.since((line.at_ns - origin_ns) / 1e9) for line in recent],
        )
        self.query_one("#overview-text", Static).update(Text("\n").join(text))


class NodesPane(Pane):
    """A row for each node."""

    fields = NODE_FIELDS

    def compose(self) -> ComposeResult:
        yield Table(
            _NODE_COLUMNS, self._cells, lambda row: row.key, "no node has said anything yet", "nodes-table"
        )

    def show(self, session: Session) -> None:
        self._now_ns = session.now_ns
        rows = [
            row for row in self.maker.nodes(session.timeline) if not self.filter or self.filter(row.fields)
        ]
        self.query_one(Table).show(rows, repaint=session.mode == "LIVE", hidden=bool(self.filter))

    _now_ns = 0

    def _cells(self, row: NodeRow) -> Sequence[Cell]:
        node, state = row.node, row.state
        colour, sign = state_look(state)
        cpu, memory, util = _sums(node)
        rank = str(node.group_rank) if node.group_rank >= 0 else "-"
        failed = f", {row.failed} failed" if row.failed else ""
        last = short_duration(age_s(node.last_event, self._now_ns)) if not node.result else ""
        return (
            (rank, ""),
            (("★ " if row.coordinates else "  ") + node.name, ""),
            (f"{sign} {state}", colour),
            (str(node.round), ""),
            (f"{row.running}/{node.local_world_size}{failed}", "red" if row.failed else ""),
            (str(node.restarts_total or ""), ""),
            (cpu, ""),
            (memory, ""),
            (util, ""),
            (last, "dim"),
            (node.reason if node.result not in ("", "SUCCEEDED") else "", "dim"),
        )

    @property
    def node(self) -> str | None:
        return _text(self.query_one(Table).selected_key)


_NODE_COLUMNS = (
    Column("NODE", 4, "right"),
    Column("AGENT", 22),
    Column("STATE", 13),
    Column("ROUND", 5, "right"),
    Column("WORKERS", 14),
    Column("RESTARTS", 8, "right", need=70),
    Column("CPU%", 6, "right", need=90),
    Column("MEM", 6, "right", need=90),
    Column("GPU%", 5, "right", need=90),
    Column("HEARD", 7, "right", need=80),
    Column("REASON", 20, need=100),
)


def _sums(node: Node) -> tuple[str, str, str]:
    if node.readings is None or not node.readings.latest.workers:
        return "", "", ""
    reading = node.readings.latest
    util = [gpu.util_percent for gpu in reading.gpus if gpu.util_percent is not None]
    return (
        f"{sum(worker.cpu_percent for worker in reading.workers):.0f}",
        size_in_words(sum(worker.rss_bytes for worker in reading.workers)),
        f"{sum(util) / len(util):.0f}" if util else "",
    )


_GROUP_COLUMNS = (
    Column("RANKS", 6, "right"),
    Column("STATE", 13),
    Column("WHICH", 30),
    Column("LAST", 20, need=70),
)


def _group_cells(group: RankGroup) -> Sequence[Cell]:
    colour, sign = state_look(group.state)
    return (
        (str(len(group.ranks)), "bold"),
        (f"{sign} {group.state}", colour),
        (ranks_in_words(list(group.ranks)), ""),
        (group.line, "red" if group.state == "failed" else "dim"),
    )


class RanksPane(Pane):
    """A row for each rank."""

    fields = RANK_FIELDS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "order", "Order", show=True),
        Binding("z", "fold", "Fold", show=True),
    ]
    #: whether what is wrong comes first
    worst_first = False
    #: by what ranks are put together
    fold: Fold = ""

    def __init__(self, maker: RowMaker, id: str, folder: Path | None) -> None:
        super().__init__(maker, id)
        self._last_lines = LastLines(folder)
        self._at_edge = True
        #: those of the group that was opened; None is all
        self._only: frozenset[RankKey] | None = None

    def compose(self) -> ComposeResult:
        empty = "no rank has been started yet"
        yield Table(_RANK_COLUMNS, self._cells, lambda row: row.key, empty, "ranks-table")
        groups = Table(_GROUP_COLUMNS, _group_cells, lambda group: group.key, empty, "ranks-groups")
        groups.display = False
        yield groups

    def set_filter(self, text: str) -> None:
        """Show only what fits, of all ranks again."""
        super().set_filter(text)
        self._only = None

    def show(self, session: Session) -> None:
        self._now_ns = session.now_ns
        self._at_edge = session.at_edge
        rows = self.maker.ranks(session.timeline)
        if self.filter:
            rows = [row for row in rows if self.filter(row.fields)]
        if self._only is not None:
            rows = [row for row in rows if row.key in self._only]
        self._table.display, self._groups.display = not self.fold, bool(self.fold)
        if self.fold:
            groups = folded(rows, self.fold, self._last)
            self._groups.show(groups, repaint=True, hidden=bool(self.filter))
            return
        if self.worst_first:
            rows.sort(key=lambda row: RANK_STATES.index(row.state))
        self._table.show(rows, repaint=session.mode == "LIVE", hidden=bool(self.filter))

    @property
    def _table(self) -> Table:
        return self.query_one("#ranks-table", Table)

    @property
    def _groups(self) -> Table:
        return self.query_one("#ranks-groups", Table)

    def _last(self, row: RankRow) -> str:
        """How it ended, or what it said last; of a moment in the past only the former is known."""
        if row.last or not self._at_edge:
            return row.last
        return without_time(self._last_lines.of((row.now.stderr, row.now.stdout)))

    def action_fold(self) -> None:
        """Ranks in one state together, those with one last line in their logs, or each in its row."""
        self.fold = FOLDS[(FOLDS.index(self.fold) + 1) % len(FOLDS)]
        said = {"": "each rank in its row", "state": "folded by state", "line": "folded by last line"}
        self.app.notify(said[self.fold], timeout=2)
        self.app.action_repaint()  # type: ignore[attr-defined]
        (self._groups if self.fold else self._table).focus()

    def unfold(self) -> bool:
        """Show the ranks of the selected group only. Returns whether there was one."""
        group = self._groups.selected if self.fold else None
        if group is None:
            return False
        self.fold, self._only = "", group.members
        self.app.action_repaint()  # type: ignore[attr-defined]
        self._table.focus()
        return True

    _now_ns = 0

    def action_order(self) -> None:
        """By rank, or what is wrong first."""
        self.worst_first = not self.worst_first
        self.app.notify("what is wrong comes first" if self.worst_first else "ordered by rank", timeout=2)
        self.app.action_repaint()  # type: ignore[attr-defined]

    def _cells(self, row: RankRow) -> Sequence[Cell]:
        now, usage = row.now, row.usage
        colour, sign = state_look(row.state)
        cpu = "" if usage.cpu_percent is None else f"{usage.cpu_percent:.0f}"
        util = "" if usage.util_percent is None else f"{usage.util_percent:.0f}"
        age = short_duration(age_s(now.started, self._now_ns)) if row.state == "running" else ""
        return (
            (str(now.global_rank), ""),
            (row.key[0], "dim"),
            (str(now.local_rank), "dim"),
            (f"{sign} {row.state}", colour),
            (str(now.number), "yellow" if now.number else ""),
            (str(now.pid or ""), "dim"),
            (cpu, ""),
            (size_in_words(usage.rss_bytes), ""),
            (util, ""),
            (size_in_words(usage.gpu_memory_bytes), ""),
            (age, ""),
            (self._last(row), "red" if now.state == "failed" else "dim"),
        )

    @property
    def rank(self) -> RankKey | None:
        return None if self.fold else _rank(self._table.selected_key)

    @property
    def node(self) -> str | None:
        return self.rank[0] if self.rank else None


_RANK_COLUMNS = (
    Column("RANK", 5, "right"),
    Column("NODE", 16),
    Column("LOCAL", 5, "right", need=90),
    Column("STATE", 12),
    Column("INC", 3, "right"),
    Column("PID", 8, "right", need=70),
    Column("CPU%", 5, "right", need=60),
    Column("MEM", 6, "right", need=60),
    Column("GPU%", 4, "right", need=100),
    Column("GPUMEM", 6, "right", need=100),
    Column("AGE", 7, "right"),
    Column("LAST", 20),
)


class EventsPane(Pane):
    """What was said, a line each."""

    fields = EVENT_FIELDS

    def compose(self) -> ComposeResult:
        table = Table(
            _EVENT_COLUMNS, self._cells, lambda line: line.place, "nothing has happened yet", "events-table"
        )
        table.follows = True
        yield table

    def show(self, session: Session) -> None:
        self._origin_ns = session.film.started_ns
        lines = session.lines(EVENTS_MAX)
        if self.filter:
            lines = [line for line in lines if self.filter(_fields_of(line))]
        self.query_one(Table).show(list(lines), hidden=bool(self.filter))

    _origin_ns = 0

    def _cells(self, line: Line) -> Sequence[Cell]:
        tone = line.told.tone
        return (
            (lanes.since((line.at_ns - self._origin_ns) / 1e9), "dim"),
            (line.node, "dim"),
            (TONE_SIGNS[tone], TONES[tone]),
            (line.told.words, TONES[tone]),
        )

    @property
    def selected_place(self) -> int | None:
        """The place of the selected event in the film."""
        key = self.query_one(Table).selected_key
        return key if isinstance(key, int) else None


_EVENT_COLUMNS = (Column("TIME", 9, "right"), Column("NODE", 16, need=60), Column("", 1), Column("WHAT", 20))


def _fields_of(line: Line) -> dict[str, str | float | None]:
    return {
        "node": line.node,
        "tone": line.told.tone,
        "words": line.told.words,
        "rank": line.told.global_rank,
    }


def _rank(key: Hashable | None) -> RankKey | None:
    return key if isinstance(key, tuple) else None


def _text(key: Hashable | None) -> str | None:
    return key if isinstance(key, str) else None
