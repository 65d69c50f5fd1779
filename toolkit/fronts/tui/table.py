"""A table that paints only the lines that are on the screen, however many rows there are.

Textual's own DataTable repaints all visible cells at each change: 51 ms at 1,000 rows (measured). Selection is by the
key of a row, so that rows may come, go and change places under it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from toolkit.views.wording import harmless

#: text and the name of its style
Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        title: of it.
        width: in cells; the last column takes what is left.
        align: of its text.
        need: it is left out where the table is narrower than this.
    """

    title: str
    width: int
    align: Literal["left", "right"] = "left"
    need: int = 0


class Table(ScrollView, can_focus=True):
    """Rows with keys below a line of titles.

    Args:
        columns: from left to right.
        cells: makes the cells of a row, one for each column.
        key: of a row.
        empty: what is said where there are no rows.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False),
        Binding("g", "edge(-1)", "First row", show=False),
        Binding("G,shift+g", "edge(1)", "Last row", show=False),
        Binding("enter", "choose", "Detail", show=True),
    ]

    class Chosen(Message):
        """Somebody pressed enter on a row, or clicked it twice."""

        def __init__(self, table: Table, key: Hashable) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class Moved(Message):
        """Another row is selected."""

        def __init__(self, table: Table, key: Hashable | None) -> None:
            super().__init__()
            self.table = table
            self.key = key

    def __init__(
        self,
        columns: Sequence[Column],
        cells: Callable[[Any], Sequence[Cell]],
        key: Callable[[Any], Hashable],
        empty: str = "nothing here",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._cells = cells
        self._key = key
        self._empty = empty
        self._hides = False
        self._rows: list[Any] = []
        self._places: dict[Hashable, int] = {}
        self._selected: Hashable | None = None
        #: whether the selection stays at the last row as rows are added
        self.follows = False

    # -- what views call ------------------------------------------------------------------------------------

    @property
    def rows(self) -> Sequence[Any]:
        """As they are shown."""
        return self._rows

    @property
    def selected(self) -> Any | None:
        """The selected row; None if there is none."""
        place = self._places.get(self._selected)
        return None if place is None else self._rows[place]

    @property
    def selected_key(self) -> Hashable | None:
        """Its key."""
        return self._selected if self._selected in self._places else None

    def show(self, rows: list[Any], *, repaint: bool = False, hidden: bool = False) -> None:
        """Take new rows; the selection stays with its key. Repaints the lines that changed.

        Args:
            hidden: whether a filter may hide others.
            repaint: repaint all that is visible, for cells that change with time.
        """
        self._hides = hidden
        before, place = self._rows, self._places.get(self._selected)
        self._rows = rows
        self._places = {self._key(row): place for place, row in enumerate(rows)}
        if rows and self._selected not in self._places:
            # What was selected is gone: the row that took its place.
            self._selected = self._key(rows[min(place or 0, len(rows) - 1)])
        if self.follows and rows:
            self._selected = self._key(rows[-1])
        size = Size(self.size.width, len(rows) + 1)
        if size != self.virtual_size:
            self.virtual_size = size
        if self.follows:
            self._bring_into_view()
        if repaint or len(before) != len(rows):
            self.refresh()
            return
        top = int(self.scroll_offset.y)
        for line in range(1, self.size.height):
            at = top + line - 1
            if at < len(rows) and rows[at] is not before[at]:
                self.refresh(Region(0, line, self.size.width, 1))

    def select(self, key: Hashable) -> None:
        """Select a row, if it is there, and bring it into view."""
        if key in self._places and key != self._selected:
            self._selected = key
            self._bring_into_view()
            self.refresh()
            self.post_message(self.Moved(self, key))

    # -- keys and mouse -------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """Select another row."""
        self._select_place(self._places.get(self._selected, 0) + by)

    def action_page(self, by: int) -> None:
        """Select the row a page away."""
        self._select_place(self._places.get(self._selected, 0) + by * max(self.size.height - 2, 1))

    def action_edge(self, side: int) -> None:
        """Select the first or the last row."""
        self._select_place(0 if side < 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        """Ask for more on the selected row."""
        if self.selected_key is not None:
            self.post_message(self.Chosen(self, self._selected))

    def on_click(self, event: Click) -> None:
        """Select the row that was clicked; twice asks for more."""
        place = int(self.scroll_offset.y) + event.y - 1
        if event.y > 0 and place < len(self._rows):
            self._select_place(place)
            if event.chain == 2:
                self.action_choose()

    def _select_place(self, place: int) -> None:
        if not self._rows:
            return
        place = min(max(place, 0), len(self._rows) - 1)
        self.follows = self.follows and place == len(self._rows) - 1
        self.select(self._key(self._rows[place]))

    def _bring_into_view(self) -> None:
        place, height = self._places.get(self._selected, 0), max(self.size.height - 1, 1)
        top = int(self.scroll_offset.y)
        if place < top:
            self.scroll_to(y=place, animate=False)
        elif place >= top + height:
            self.scroll_to(y=place - height + 1, animate=False)

    # -- painting -------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width = self.size.width
        columns = [column for column in self._columns if width >= column.need]
        if y == 0:
            titles = [(column.title, "bold") for column in columns]
            return self._painted(titles, columns, width, Style(underline=True))
        place = int(self.scroll_offset.y) + y - 1
        if place >= len(self._rows):
            nothing = "nothing fits the filter; escape clears it" if self._hides else self._empty
            text = nothing if y == 1 and not self._rows else ""
            return Strip([Segment(set_cell_size(f" {text}", width), Style(dim=True))], width)
        row = self._rows[place]
        cells = [
            cell for column, cell in zip(self._columns, self._cells(row), strict=True) if width >= column.need
        ]
        chosen = self._key(row) == self._selected
        below = Style.null()
        if chosen:
            below = _CHOSEN_PLAIN if self.app.no_color else _CHOSEN if self.has_focus else _CHOSEN_ASIDE
        return self._painted(cells, columns, width, below)

    def _painted(self, cells: Sequence[Cell], columns: Sequence[Column], width: int, below: Style) -> Strip:
        segments, left = [Segment(" ", below)], width - 1
        for number, ((text, name), column) in enumerate(zip(cells, columns, strict=True)):
            room = left if number == len(columns) - 1 else min(column.width, left)
            if room <= 0:
                break
            shown = harmless(text)
            if cell_len(shown) > room:
                shown = set_cell_size(shown, max(room - 1, 0)) + "…"
            elif column.align == "right":
                shown = " " * (room - cell_len(shown)) + shown
            segments.append(Segment(set_cell_size(shown, room), (_style(name) + below) if name else below))
            left -= room
            if left > 0:
                segments.append(Segment(" ", below))
                left -= 1
        return Strip(segments).adjust_cell_length(width, below)


_CHOSEN, _CHOSEN_ASIDE = Style(bgcolor="#3b4252", bold=True), Style(bgcolor="#2e3440")
_CHOSEN_PLAIN = Style(reverse=True)

_styles: dict[str, Style] = {}


def _style(name: str) -> Style:
    if name not in _styles:
        _styles[name] = Style.parse(name)
    return _styles[name]
