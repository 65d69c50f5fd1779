"""Swim-lanes on the screen: a line for each node or rank, rounds above them, causes on them."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Static

from toolkit.core.history import Node, Timeline
from toolkit.fronts.tui.look import MARK_STYLES, PHASES, PLAIN_PHASES, style
from toolkit.fronts.tui.panes import Pane
from toolkit.views import lanes
from toolkit.views.lanes import MARK_SIGNS, Band, Lane, Span
from toolkit.views.rows import NODE_FIELDS, RankKey
from toolkit.views.session import Session
from toolkit.views.wording import harmless


class Lanes(ScrollView, can_focus=True):
    """A line for each node or rank over the time that is shown, below the rounds and the axis."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("plus,equals_sign", "zoom(1)", "Zoom in", show=True),
        Binding("minus", "zoom(-1)", "Zoom out", show=True),
        Binding("o", "by_rank", "Nodes/ranks", show=True),
    ]
    LABEL, HEAD = 16, 2

    def __init__(self) -> None:
        super().__init__(id="lanes")
        self._keys: list[tuple[Node, int | None]] = []
        self._timeline = Timeline()
        self._span = Span(0, 1, 1)
        self._bands: list[Band] = []
        self._now_ns = self._origin_ns = 0
        self._cursor_ns: int | None = None
        self._made: dict[int, Lane] = {}
        self.selected = 0
        self.of_ranks = False
        self.zoomed = 0

    def show(self, session: Session, chosen: list[tuple[Node, int | None]]) -> None:
        """Show these lanes."""
        self._keys, self._timeline = chosen, session.timeline
        self._now_ns, self._origin_ns = session.now_ns, session.film.started_ns
        end_ns = max(session.film.ended_ns, session.now_ns)
        self._span = self._shown_span(session.film.started_ns, end_ns, session.shown_ns)
        self._cursor_ns = None if session.at_edge else session.shown_ns
        self._bands = lanes.bands(self._timeline, self._span, self._now_ns)
        self._made = {}
        self.selected = min(self.selected, max(len(chosen) - 1, 0))
        self.virtual_size = Size(self.size.width, len(chosen) + self.HEAD)
        self.refresh()

    def _shown_span(self, start_ns: int, end_ns: int, around_ns: int) -> Span:
        width = max(self.size.width - self.LABEL - 1, 10)
        length_ns = max(end_ns - start_ns, 1_000_000_000) >> self.zoomed
        first = min(max(around_ns - length_ns // 2, start_ns), max(end_ns - length_ns, start_ns))
        return Span(first, first + length_ns, width)

    def action_move(self, by: int) -> None:
        """Select another lane."""
        self.selected = min(max(self.selected + by, 0), max(len(self._keys) - 1, 0))
        top, height = int(self.scroll_offset.y), max(self.size.height - self.HEAD, 1)
        if not top <= self.selected < top + height:
            self.scroll_to(
                y=self.selected if self.selected < top else self.selected - height + 1, animate=False
            )
        self.refresh()

    def action_zoom(self, by: int) -> None:
        """Show half of the time around the cursor, or twice as much."""
        self.zoomed = min(max(self.zoomed + by, 0), 16)
        self.app.action_repaint()  # type: ignore[attr-defined]

    def action_by_rank(self) -> None:
        """A lane for each node, or for each rank."""
        self.of_ranks = not self.of_ranks
        self.app.action_repaint()  # type: ignore[attr-defined]

    @property
    def chosen(self) -> tuple[Node, int | None] | None:
        """Node and local rank of the selected lane."""
        return self._keys[self.selected] if self.selected < len(self._keys) else None

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        if y == 0:
            return self._axis(width)
        if y == 1:
            return self._rounds(width)
        place = int(self.scroll_offset.y) + y - self.HEAD
        if place >= len(self._keys):
            text = " no node has said anything yet" if y == self.HEAD and not self._keys else ""
            return Strip([Segment(text, Style(dim=True))]).adjust_cell_length(width)
        return self._lane(place, width)

    def _axis(self, width: int) -> Strip:
        cells = [" "] * self._span.width
        for cell, text in lanes.ticks(self._span, self._origin_ns):
            if cell + len(text) < len(cells):
                cells[cell : cell + len(text)] = text
        label = " TIME".ljust(self.LABEL + 1)
        return Strip(
            [Segment(label, Style(bold=True)), Segment("".join(cells), Style(dim=True))]
        ).adjust_cell_length(width)

    def _rounds(self, width: int) -> Strip:
        cells: list[tuple[str, Style]] = [(" ", Style.null())] * self._span.width
        for index, band in enumerate(self._bands):
            ground = Style(reverse=True, dim=bool(index % 2))
            text = f"round {band.number}" if band.last - band.first > 8 else str(band.number)
            for cell in range(band.first, band.last + 1):
                at = cell - band.first
                cells[cell] = (text[at] if at < len(text) else " ", ground)
        label = Segment(" ROUNDS".ljust(self.LABEL + 1), Style(bold=True))
        return Strip([label, *(Segment(letter, look) for letter, look in cells)]).adjust_cell_length(width)

    def _lane(self, place: int, width: int) -> Strip:
        lane = self._made.get(place)
        if lane is None:
            node, local_rank = self._keys[place]
            lane = (
                lanes.node_lane(node, self._timeline, self._span, self._now_ns)
                if local_rank is None
                else lanes.rank_lane(node, local_rank, self._timeline, self._span, self._now_ns)
            )
            self._made[place] = lane
        chosen = place == self.selected
        label = Style(reverse=chosen and self.has_focus, bold=chosen)
        cursor = -1 if self._cursor_ns is None else self._span.cell_of(self._cursor_ns)
        plain = self.app.no_color
        marks = {mark.cell: mark for mark in lane.marks}
        segments = [Segment(f" {harmless(lane.label)}"[: self.LABEL].ljust(self.LABEL) + " ", label)]
        for cell, phase in enumerate(lane.phases):
            letter, name = PHASES[phase]
            look = style(name)
            if plain:
                letter = PLAIN_PHASES[phase]
            if cell in marks:
                letter, look = MARK_SIGNS[marks[cell].kind], style(MARK_STYLES[marks[cell].kind])
            if cell == cursor:
                letter, look = (
                    ("│" if letter in " ·" else letter),
                    look + Style(bgcolor="white", color="black"),
                )
            segments.append(Segment(letter, look))
        return Strip(segments).simplify().adjust_cell_length(width)


class TimelinePane(Pane):
    """Swim-lanes."""

    fields = NODE_FIELDS

    def compose(self) -> ComposeResult:
        yield Lanes()
        yield Static(id="lane-words")
        yield Static(_LEGEND, id="legend")

    def show(self, session: Session) -> None:
        timeline = session.timeline
        view = self.query_one(Lanes)
        rows = [row for row in self.maker.nodes(timeline) if not self.filter or self.filter(row.fields)]
        chosen: list[tuple[Node, int | None]] = [(row.node, None) for row in rows]
        if view.of_ranks:
            names = {row.key for row in rows}
            ranks = [row for row in self.maker.ranks(timeline) if row.key[0] in names]
            chosen = [(timeline.nodes[row.key[0]], row.key[1]) for row in ranks]
        view.show(session, chosen)
        self.query_one("#lane-words", Static).update(self._words(timeline, view))

    def _words(self, timeline: Timeline, view: Lanes) -> Text:
        """The causes on the selected lane."""
        if view.chosen is None:
            return Text()
        node, local_rank = view.chosen
        span = view._span
        lane = (
            lanes.node_lane(node, timeline, span, view._now_ns)
            if local_rank is None
            else lanes.rank_lane(node, local_rank, timeline, span, view._now_ns)
        )
        said = Text(no_wrap=True, overflow="ellipsis")
        for mark in lane.marks[-3:]:
            at = lanes.since((span.time_of(mark.cell) - view._origin_ns) / 1e9)
            said.append(
                f" {MARK_SIGNS[mark.kind]} {at} {harmless(mark.words)}  ",
                "red" if mark.kind in ("failure", "lost") else "yellow",
            )
        return said

    @property
    def rank(self) -> RankKey | None:
        chosen = self.query_one(Lanes).chosen
        return (chosen[0].name, chosen[1]) if chosen is not None and chosen[1] is not None else None

    @property
    def node(self) -> str | None:
        chosen = self.query_one(Lanes).chosen
        return None if chosen is None else chosen[0].name


_LEGEND = Text(
    " ┄ waits for a round  ╍ starts or stops  ━ runs (red: it failed, green: it succeeded)  "
    "✗ failure  ◆ ↓ ↑ rings the bell for  ☠ lost",
    "dim",
)
