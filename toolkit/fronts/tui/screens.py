"""What lies over the views: a question before something dangerous, a rank in detail, the keys, a list of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Footer, Static

from toolkit.fronts.tui.look import state_look
from toolkit.fronts.tui.table import Cell, Column, Table


class Confirm(ModalScreen[bool]):
    """Asks before something that can't be undone. Cancel is chosen at first.

    Args:
        title: what would be done.
        targets: to whom, exactly.
        consequence: what follows.
        verb: on the button.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "cancel", "Cancel"),
        Binding("left,right,h,l", "other", "Other button", show=False),
    ]

    def __init__(self, title: str, targets: Sequence[str], consequence: str, verb: str) -> None:
        super().__init__()
        self._title, self._targets, self._consequence, self._verb = title, targets, consequence, verb

    def compose(self) -> ComposeResult:
        with Vertical(id="confirm"):
            yield Static(Text(self._title, "bold red"))
            yield Static(Text("\n".join(f"  {target}" for target in self._targets)))
            yield Static(Text(self._consequence, "yellow"))
            with Horizontal(id="confirm-buttons"):
                yield Button("Cancel", id="cancel", variant="default")
                yield Button(self._verb, id="go", variant="error")

    def on_mount(self) -> None:
        self.query_one("#cancel", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "go")

    def action_cancel(self) -> None:
        """Do nothing."""
        self.dismiss(False)

    def action_other(self) -> None:
        """The other button."""
        self.focus_next()


class Reading(Screen[None]):
    """A text that is longer than the screen.

    Args:
        title: above it.
        text: makes it, each time that the run has moved on.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "close", "Back"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
        Binding("y", "app.copy_as_code", "Copy as code"),
    ]

    def __init__(self, title: str, text: Callable[[], Sequence[Text]]) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        yield Static(Text(f" {self._title}", "bold"), id="reading-title")
        with VerticalScroll(id="reading"):
            yield Static(id="reading-text")
        yield Footer()

    def on_mount(self) -> None:
        self.repaint()

    def repaint(self) -> None:
        """Show it as it is now."""
        self.query_one("#reading-text", Static).update(Text("\n").join(self._text()))

    def action_scroll(self, by: int) -> None:
        """Move."""
        self.query_one("#reading", VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Back to where one came from."""
        self.dismiss(None)


class RunRow:
    """A run in the list.

    Args:
        path: of its directory.
        name: of it, or its run id.
        state: in a word.
        told: when it was, and what it ran.
    """

    def __init__(self, path: Path, name: str, state: str, told: str) -> None:
        self.path, self.name, self.state, self.told = path, name, state, told


class Picker(Screen[Path]):
    """Several runs could be meant: which one?

    Args:
        runs: newest first.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape", "app.quit", "Quit")]

    def __init__(self, runs: Sequence[RunRow]) -> None:
        super().__init__()
        self._runs = runs

    def compose(self) -> ComposeResult:
        yield Static(Text(" Which run?", "bold"), id="reading-title")
        yield Table(
            (Column("STATE", 14), Column("RUN", 34), Column("WHAT", 20)),
            _run_cells,
            lambda row: row.path,
            "no run is recorded; `rally run` records one",
        )
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(Table)
        table.show(list(self._runs))
        table.focus()

    def on_table_chosen(self, event: Table.Chosen) -> None:
        """This one."""
        assert isinstance(event.key, Path), "rows are runs"
        self.dismiss(event.key)


def _run_cells(row: RunRow) -> Sequence[Cell]:
    colour, sign = state_look(row.state)
    return ((f"{sign} {row.state}", colour), (row.name, ""), (row.told, "dim"))
