"""The log of a rank on the screen, followed from its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from toolkit.adapters.recording.log_file import LogFile
from toolkit.adapters.recording.log_places import log_path
from toolkit.adapters.recording.merged_logs import MergedLogs
from toolkit.core.words import plural
from toolkit.fronts.tui.panes import Pane
from toolkit.fronts.tui.table import Cell, Column, Table
from toolkit.views.rows import RankKey, RankRow, RowMaker
from toolkit.views.session import Session

LOG_FIELDS = ("text",)


class LogsPane(Pane):
    """The log of the selected rank."""

    fields = LOG_FIELDS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "follow", "Follow", show=True),
        Binding("e", "stream", "stdout/stderr", show=True),
        Binding("p", "incarnation(-1)", "Previous start", show=True),
        Binding("P,shift+p", "incarnation(1)", "Next start", show=False),
        Binding("m", "merge", "One/all ranks", show=True),
        Binding("n", "next_error", "Next error", show=True),
    ]

    def __init__(self, maker: RowMaker, id: str, folder: Path | None) -> None:
        super().__init__(maker, id)
        self._folder = folder
        self._of: RankKey | None = None
        self._back = 0
        self._stderr = True
        self._file: LogFile | None = None
        self._merges = False
        self._merged: MergedLogs | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="log-head")
        table = Table((Column("LOG", 20),), self._cells, lambda line: line[0], "no output yet", "log-lines")
        table.follows = True
        yield table

    def look_at(self, key: RankKey) -> None:
        """Show this rank's log from now on."""
        if key != self._of:
            self._of, self._back, self._file = key, 0, None

    def show(self, session: Session) -> None:
        timeline = session.timeline
        ranks = self.maker.ranks(timeline)
        row = next((row for row in ranks if row.key == self._of), ranks[0] if ranks else None)
        head, table = self.query_one("#log-head", Static), self.query_one(Table)
        if row is None:
            head.update(Text(" no rank has been started yet", "dim"))
            table.show([])
            return
        self._of = row.key
        if self._merges:
            self._show_merged(ranks, head, table)
            return
        rank = timeline.nodes[row.key[0]].ranks[row.key[1]]
        every = [*rank.past, rank.now]
        self._back = min(self._back, len(every) - 1)
        each = every[len(every) - 1 - self._back]
        name = each.stderr if self._stderr else each.stdout
        stream = "stderr" if self._stderr else "stdout"
        title = Text(f" rank {each.global_rank}, start {each.number}, {stream}  ", "bold", no_wrap=True)
        path = log_path(name, self._folder)
        if path is None:
            title.append("it went to the console: `rally run --tee 3` or `--redirects 3` keeps it", "yellow")
            head.update(title)
            table.show([])
            return
        if self._file is None or self._file.path != path:
            self._file = LogFile(path)
            table.follows = True
        self._file.read_new()
        title.append(str(path), "dim")
        if self._file.problem and self._folder is None:
            title.append(
                f"  lies on {row.host}, and is not read from here; `rally top` there shows it", "yellow"
            )
        elif self._file.problem:
            title.append(f"  {self._file.problem}", "yellow")
        elif self._file.cut:
            title.append("  (its beginning is left out)", "dim")
        head.update(title)
        first = self._file.count - len(self._file.lines)
        self._show_lines(table, list(enumerate(self._file.lines, first)))

    def _show_merged(self, ranks: Sequence[RankRow], head: Static, table: Table) -> None:
        """All ranks' logs in one, by the times in their lines."""
        stream = "stderr" if self._stderr else "stdout"
        logs = []
        for row in ranks:
            path = log_path(row.now.stderr if self._stderr else row.now.stdout, self._folder)
            if path is not None:
                logs.append((str(row.now.global_rank), path))
        title = Text(f" {plural(len(logs), 'rank')}, {stream}", "bold", no_wrap=True)
        if self._merged is None or self._merged.logs != tuple(logs):
            self._merged = MergedLogs(logs)
            table.follows = True
        merged = self._merged
        merged.read_new()
        if merged.count:
            by_time = ", by the times in their lines"
            none = ", one behind the other: their lines have no times; what comes now comes as it is written"
            title.append(by_time if merged.has_times else none)
        if merged.left_out:
            title.append(f"  ({merged.left_out} more are left out)", "yellow")
        if not logs:
            title.append(
                "; they went to the console: `rally run --tee 3` or `--redirects 3` keeps them", "yellow"
            )
        head.update(title)
        width = max((len(name) for name, _ in logs), default=1)
        first = merged.count - len(merged.lines)
        self._show_lines(
            table,
            [
                (first + number, f"{name:>{width}} │ {text}")
                for number, (name, text) in enumerate(merged.lines)
            ],
        )

    def _show_lines(self, table: Table, lines: list[tuple[int, str]]) -> None:
        if self.filter:
            lines = [line for line in lines if self.filter({"text": line[1]})]
        table.show(lines, repaint=True, hidden=bool(self.filter))

    def _cells(self, line: tuple[int, str]) -> Sequence[Cell]:
        return ((line[1], "red" if _is_error(line[1]) else ""),)

    def action_follow(self) -> None:
        """Stay at the end."""
        table = self.query_one(Table)
        table.follows = not table.follows
        self.app.notify("follows the end" if table.follows else "stays where it is", timeout=2)

    def action_merge(self) -> None:
        """The logs of all ranks as one, or that of the selected rank."""
        self._merges = not self._merges
        self.app.action_repaint()  # type: ignore[attr-defined]

    def action_stream(self) -> None:
        """The other stream."""
        self._stderr = not self._stderr
        self.app.action_repaint()  # type: ignore[attr-defined]

    def action_incarnation(self, by: int) -> None:
        """An earlier start of this rank, or a later one."""
        self._back = max(self._back - by, 0)
        self.app.action_repaint()  # type: ignore[attr-defined]

    def action_next_error(self) -> None:
        """The next line that looks like an error."""
        table = self.query_one(Table)
        rows: Sequence[Any] = table.rows
        here = table.selected_key if isinstance(table.selected_key, int) else -1
        later = [line for line in rows if line[0] > here and _is_error(line[1])]
        found = later or [line for line in rows if _is_error(line[1])]
        if not found:
            self.app.notify("no line here looks like an error", timeout=2)
            return
        table.follows = False
        table.select(found[0][0])

    @property
    def rank(self) -> RankKey | None:
        return self._of

    @property
    def node(self) -> str | None:
        return self._of[0] if self._of else None


def _is_error(line: str) -> bool:
    return any(word in line for word in ("Error", "ERROR", "Traceback", "FATAL", "Exception", "CUDA error"))
