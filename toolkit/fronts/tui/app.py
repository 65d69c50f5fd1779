"""The screen of `rally top`: one run, one moment of it, several views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, Static

from toolkit.core.errors import ConfigurationError
from toolkit.core.words import plural
from toolkit.fronts.tui import as_code
from toolkit.fronts.tui.acting import Controller
from toolkit.fronts.tui.hints import Hints
from toolkit.fronts.tui.log_pane import LogsPane
from toolkit.fronts.tui.look import state_look
from toolkit.fronts.tui.overview import detail_lines
from toolkit.fronts.tui.panes import EventsPane, NodesPane, OverviewPane, Pane, RanksPane
from toolkit.fronts.tui.screens import Reading
from toolkit.fronts.tui.stacks import AskingForStacks, Dumper
from toolkit.fronts.tui.table import Table
from toolkit.fronts.tui.timeline_pane import TimelinePane
from toolkit.views import lanes
from toolkit.views.filtering import typed
from toolkit.views.rows import RankKey, RankRow, RowMaker
from toolkit.views.session import Session
from toolkit.views.wording import harmless

#: between two looks, in seconds, and between two paints of what only grows older
TICK_S, AGE_S = 0.1, 1.0
#: a paint is followed by a rest of so many times its length, so that the largest job leaves most of a core alone; keys
#: are answered at once
REST = 6
VIEWS = ("overview", "nodes", "ranks", "timeline", "events", "logs")


class TopApp(AskingForStacks):
    """`rally top`.

    Args:
        session: the run.
        title: of it, in a word.
        folder: where its logs lie.
        controller: None for what can't be told anything: recordings, simulations, `--read-only`.
        by: who acts, for the events.
        now_s: a clock for how fast to play, in seconds.
        dumper: of stacks; None where nobody can be asked.
    """

    CSS_PATH = "top.tcss"
    TITLE = "rally top"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(n), f"view('{name}')", name.capitalize(), show=False, priority=True)
            for n, name in enumerate(VIEWS, 1)
        ),
        Binding("tab", "next_view(1)", "Next view", show=False, priority=True),
        Binding("shift+tab", "next_view(-1)", "Previous view", show=False, priority=True),
        # With priority, so that what is typed right behind it finds the box open.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("colon", "command_palette", "Commands", show=False),
        Binding("space", "play", "Play/pause", key_display="space"),
        Binding("comma", "step(-1)", "Event back", show=False),
        Binding("full_stop", "step(1)", "Event on", show=False),
        Binding("left_square_bracket", "move(-0.01)", "Scrub back", key_display="["),
        Binding("right_square_bracket", "move(0.01)", "Scrub on", key_display="]"),
        Binding("left_curly_bracket", "move(-0.1)", "Far back", show=False),
        Binding("right_curly_bracket", "move(0.1)", "Far on", show=False),
        Binding("home", "start", "To the start", show=False),
        Binding("end,L", "edge", "To the latest", show=False),
        Binding("less_than_sign", "faster(-1)", "Slower", show=False),
        Binding("greater_than_sign", "faster(1)", "Faster", show=False),
        Binding("x", "failure(1)", "Next failure"),
        Binding("X", "failure(-1)", "Previous failure", show=False),
        Binding("l", "logs", "Logs", show=True),
        Binding("y", "copy_as_code", "Copy as code", show=False),
        Binding("d", "stack", "Stack"),
        Binding("A", "stacks", "Stacks of all", show=False),
        Binding("K", "kill", "Kill rank", key_display="K"),
        Binding("R", "restart", "Restart", key_display="R"),
        Binding("D", "drain", "Drain node", key_display="D"),
        Binding("S", "stop", "Stop job", key_display="S"),
        Binding("escape", "clear", "Clear the filter", show=False),
        Binding("question_mark", "keys", "Keys", key_display="?"),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]

    def __init__(
        self,
        session: Session,
        *,
        title: str,
        folder: Path | None,
        controller: Controller | None,
        by: str,
        now_s: Callable[[], float],
        dumper: Dumper | None = None,
    ) -> None:
        super().__init__(session, controller, by, dumper)
        self._name = title
        self._now_s = now_s
        self._ticked_s = self._painted_s = self._next_paint_s = now_s()
        #: whether something has changed since the last paint
        self._stale = False
        maker = RowMaker()
        self._panes: dict[str, Pane] = {
            "overview": OverviewPane(maker, "overview"),
            "nodes": NodesPane(maker, "nodes"),
            "ranks": RanksPane(maker, "ranks", folder),
            "timeline": TimelinePane(maker, "timeline"),
            "events": EventsPane(maker, "events"),
            "logs": LogsPane(maker, "logs", folder),
        }
        self._maker = maker
        self._first_view = "overview"
        self._picture = ""

    def begin_at(self, view: str, filter_text: str) -> None:
        """What is shown first.

        Raises:
            ConfigurationError: the view can't be filtered so.
        """
        self._first_view = view
        if filter_text:
            self._panes[view].set_filter(filter_text)

    def draw_into(self, path: Path, size: tuple[int, int]) -> None:
        """Draw the screen as SVG into a file, without a terminal.

        Raises:
            ConfigurationError: it can't be written.
        """

        async def draw(pilot: Pilot[object]) -> None:
            await pilot.pause()
            self.action_repaint()
            await pilot.pause()
            self._picture = self.export_screenshot(title=f"rally top {self._name}", simplify=True)
            self.exit()

        self.run(headless=True, size=size, auto_pilot=draw)
        try:
            path.write_text(self._picture, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="tabs")
        with ContentSwitcher(id="views", initial="overview"):
            yield from self._panes.values()
        yield Static(id="problem")
        yield Input(
            id="filter",
            placeholder="state=failed node~gpu-1 util<5 !spare   enter keeps it, escape clears it",
        )
        yield Static(id="transport")
        yield Hints()

    def on_mount(self) -> None:
        self.set_interval(TICK_S, self.tick)
        self.tick()
        self.action_view(self._first_view)

    # -- time passes ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Read on, and paint what has changed."""
        now_s = self._now_s()
        passed_s, self._ticked_s = now_s - self._ticked_s, now_s
        self._stale = self.session.tick(passed_s) or self._stale
        grows_older = self.session.at_edge and self.session.mode == "LIVE"
        if (
            self._stale or (grows_older and now_s - self._painted_s >= AGE_S)
        ) and now_s >= self._next_paint_s:
            self.action_repaint()
            self._next_paint_s = now_s + REST * (self._now_s() - now_s)
        elif self.session.playing:
            self._paint_transport()

    def action_repaint(self) -> None:
        """Paint the view that is on."""
        self._painted_s, self._stale = self._now_s(), False
        if not self.is_running or not self.screen_stack:
            return
        self._paint_head()
        self._paint_transport()
        self.pane.show(self.session)
        if isinstance(self.screen, Reading):
            self.screen.repaint()

    def on_resize(self) -> None:
        self.call_after_refresh(self.action_repaint)

    @property
    def pane(self) -> Pane:
        """The view that is on."""
        return self._panes[self._bottom.query_one("#views", ContentSwitcher).current or "overview"]

    @property
    def _bottom(self) -> Screen[object]:
        return self.screen_stack[0]

    def _paint_head(self) -> None:
        session, timeline = self.session, self.session.timeline
        mode = f"SIM {session.simulated}" if session.mode == "SIM" else session.mode
        colour = {"LIVE": "bold white on dark_green", "REPLAY": "bold white on dark_blue"}.get(
            session.mode, "bold white on purple"
        )
        held = " " if session.at_edge else " PAST "
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f" {mode} ", colour)
        head.append(held, "bold black on yellow" if held != " " else "")
        tone, sign = state_look(timeline.state)
        head.append(f" {sign} {timeline.state} ", f"bold {tone}")
        head.append(f" {harmless(timeline.run_id or str(self._name))} ", "bold")
        states = [row.state for row in self._maker.ranks(timeline)]
        running, failed = states.count("running"), states.count("failed") + states.count("lost")
        head.append(
            f" round {timeline.rounds} · {plural(len(timeline.nodes), 'node')} · {running} running"
            f" · restarts {timeline.restarts_used}/{timeline.restarts_max}"
        )
        if failed:
            head.append(f"  ✗ {failed} failed", "bold red")
        self._bottom.query_one("#head", Static).update(head)
        tabs = Text(" ", no_wrap=True)
        current = self._bottom.query_one("#views", ContentSwitcher).current
        for number, name in enumerate(VIEWS, 1):
            tabs.append(f" {number} {name} ", "reverse bold" if name == current else "dim")
        pane = self._panes[current or "overview"]
        if pane.filter:
            tabs.append(f"  / {pane.filter.text} ", "bold yellow")
        self._bottom.query_one("#tabs", Static).update(tabs)
        problem = self._bottom.query_one("#problem", Static)
        problem.update(Text(f" ! {session.problem}", "bold yellow"))
        problem.display = bool(session.problem)

    def _paint_transport(self) -> None:
        session, film = self.session, self.session.film
        width = max(self.size.width - 44, 10)
        length_ns = max(film.ended_ns - film.started_ns, 1)
        here = min(max(session.shown_ns - film.started_ns, 0), length_ns) * (width - 1) // length_ns
        sign = "▶" if session.playing or (session.at_edge and session.mode == "LIVE") else "‖"
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f" {sign} ", "bold")
        text.append("━" * here, "cyan")
        text.append("●", "bold")
        text.append("─" * (width - 1 - here), "dim")
        at = lanes.since((session.shown_ns - film.started_ns) / 1e9)
        text.append(f" {at} of {lanes.since(length_ns / 1e9).lstrip('+')}", "bold")
        text.append(f"  event {session.count:,}", "dim")
        if session.playing or session.speed != 1:
            text.append(f"  {session.speed:g}x", "yellow")
        self._bottom.query_one("#transport", Static).update(text)

    # -- moving between views -------------------------------------------------------------------------------

    def action_view(self, name: str) -> None:
        """Show a view."""
        if name == "logs" and self.pane.rank is not None:
            logs = self._panes["logs"]
            assert isinstance(logs, LogsPane), "by its name"
            logs.look_at(self.pane.rank)
        self._bottom.query_one("#views", ContentSwitcher).current = name
        self._focus_pane()
        # At once, so that the first frame of the view has everything in it; a view without a size yet gets it then.
        if self.pane.size:
            self.action_repaint()
        else:
            self.call_after_refresh(self.action_repaint)

    def _focus_pane(self) -> None:
        shown = next((each for each in self.pane.query("Table, Lanes") if each.display), None)
        self.set_focus(shown)

    def action_next_view(self, by: int) -> None:
        """Show the next view, or the one before."""
        current = self._bottom.query_one("#views", ContentSwitcher).current or "overview"
        self.action_view(VIEWS[(VIEWS.index(current) + by) % len(VIEWS)])

    def action_logs(self) -> None:
        """The log of the selected rank."""
        self.action_view("logs")

    def on_table_chosen(self, event: Table.Chosen) -> None:
        """More on what was chosen."""
        pane = self.pane
        if isinstance(pane, RanksPane) and pane.unfold():
            return
        if isinstance(pane, RanksPane) and pane.rank is not None:
            self._show_rank(pane.rank)
        elif isinstance(pane, NodesPane) and pane.node is not None:
            self.action_view("ranks")
            self._set_filter(f"node={pane.node}")
        elif isinstance(pane, EventsPane) and pane.selected_place is not None:
            self.session.seek(self.session.film.time_of(pane.selected_place))
            self.action_repaint()

    def _show_rank(self, key: RankKey) -> None:
        def text() -> Sequence[Text]:
            row = self._row(key)
            if row is None:
                return [Text("this rank has not been started yet at this moment", "dim")]
            return detail_lines(self.session.timeline, row, self.session.now_ns)

        self.push_screen(Reading(f"{key[0]}, local rank {key[1]}", text))

    def _row(self, key: RankKey) -> RankRow | None:
        return next((row for row in self._maker.ranks(self.session.timeline) if row.key == key), None)

    # -- filter ---------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action is there now."""
        if action in ("filter", "view", "next_view") and self.screen_stack:
            return len(self.screen_stack) == 1 and not self.query_one("#filter", Input).has_class("open")
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        """Type a filter for this view."""
        if not self.pane.fields:
            self.notify("there is nothing to filter here; try ranks (3) or events (5)", timeout=3)
            return
        box = self.query_one("#filter", Input)
        box.value = self.pane.filter.text
        box.add_class("open")
        # At once: what is typed next belongs there. It is never hidden, only of no height, because what is hidden can't
        # be focused before it has been laid out.
        self.screen.set_focus(box)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if event.input.id == "filter" and event.input.has_class("open"):
            try:
                self.pane.set_filter(typed(event.value, self.pane.fields))
                event.input.border_subtitle = ""
            except ConfigurationError as error:
                event.input.border_subtitle = str(error)
            self.action_repaint()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep it."""
        if event.input.id == "filter":
            self._set_filter(event.value)
            event.input.remove_class("open")
            self._focus_pane()

    def _set_filter(self, text: str) -> None:
        try:
            self.pane.set_filter(text)
        except ConfigurationError as error:
            self.notify(str(error), severity="error", markup=False)
        self.action_repaint()

    def action_clear(self) -> None:
        """No filter any more."""
        box = self.query_one("#filter", Input)
        box.remove_class("open")
        box.value = ""
        if self.pane.fields:
            self._set_filter("")
        self._focus_pane()

    # -- moving through time --------------------------------------------------------------------------------

    def action_play(self) -> None:
        """Play on, or hold."""
        self.session.play_or_pause()
        self.action_repaint()

    def action_step(self, by: int) -> None:
        """To the next event, or the one before."""
        self.session.step(by)
        self.action_repaint()

    def action_move(self, share: float) -> None:
        """On or back by a share of the run."""
        self.session.move(share)
        self.action_repaint()

    def action_start(self) -> None:
        """To the first event."""
        self.session.to_start()
        self.action_repaint()

    def action_edge(self) -> None:
        """To the latest."""
        self.session.to_edge()
        self.action_repaint()

    def action_faster(self, by: int) -> None:
        """Play faster or slower."""
        self.session.faster(by)
        self.action_repaint()

    def action_failure(self, by: int) -> None:
        """To the next failure or loss, or the one before."""
        if not self.session.to_failure(by):
            self.notify("no failure after this" if by > 0 else "no failure before this", timeout=2)
        self.action_repaint()

    # -- as code --------------------------------------------------------------------------------------------

    def action_copy_as_code(self) -> None:
        """The selected rank or node as a line for a scenario."""
        timeline, pane = self.session.timeline, self.pane
        row = self._row(pane.rank) if pane.rank is not None else None
        if row is not None:
            code = as_code.rank_as_code(row, timeline)
        else:
            node = next((row for row in self._maker.nodes(timeline) if row.key == pane.node), None)
            if node is None:
                self.notify("select a rank or a node first", timeout=3)
                return
            code = as_code.node_as_code(node, timeline)
        self.copy_to_clipboard(code)
        self.notify(code, title="copied, for a scenario", timeout=8, markup=False)

    # -- help -----------------------------------------------------------------------------------------------

    def action_keys(self) -> None:
        """All keys that work here, from the live keymap."""
        lines = self._key_lines()
        self.push_screen(Reading("Keys (escape goes back)", lambda: lines))

    def _key_lines(self) -> list[Text]:
        seen: dict[str, list[str]] = {}
        for _, binding in _of_use(self.screen):
            seen.setdefault(binding.description, []).append(self.get_key_display(binding))
        width = max((len(" ".join(keys)) for keys in seen.values()), default=0)
        lines = []
        for description, keys in seen.items():
            line = Text(f"  {' '.join(dict.fromkeys(keys)):<{width}}  ", "bold")
            line.append(description, "")
            lines.append(line)
        return lines

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Everything that a key does, by its name."""
        for node, binding in _of_use(self._bottom):
            if binding.action != "command_palette":

                def run(action: str = binding.action, node: object = node) -> None:
                    self.call_later(self.run_action, action, node)

                yield SystemCommand(binding.description, f"key {self.get_key_display(binding)}", run)
        yield from super().get_system_commands(screen)


def _of_use(screen: Screen[object]) -> Iterable[tuple[object, Binding]]:
    """The keys that do something here, and whose they are."""
    for active in screen.active_bindings.values():
        if active.enabled and active.binding.description and not active.binding.system:
            yield active.node, active.binding
