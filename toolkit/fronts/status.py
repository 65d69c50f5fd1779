"""The live status line under the workers' output: a sink that keeps what the line says, and draws it.

It says what the agent does, or what it waits for and for how long. All drawing goes through `Console`, which
keeps it apart from the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from toolkit.adapters.output.console import Console
from toolkit.adapters.redraw import Redraw
from toolkit.core import events as ev
from toolkit.core.words import ending, plural, printable, without_tokens
from toolkit.ports import Clock
from toolkit.views.failure_report import report_in_words
from toolkit.views.wording import parked, store_silent

#: the least time between two redraws
REDRAW_S = 0.1

#: for each mood: style, glyph, glyph of terminals without Unicode
_MOODS = {
    "run": ("bold green", "●", "*"),
    "wait": ("bold yellow", "◌", "."),
    "stop": ("bold magenta", "■", "#"),
    "fail": ("bold red", "✗", "x"),
}


class StatusLine:
    """One line at the bottom of the terminal, from the events of one agent.

    Does nothing, and starts no thread, where it would be of no use: no terminal, `quiet`, a terminal that
    can't move its cursor.

    Args:
        console: where to; also what the workers' output goes through.
        clock: the agent's clock.
        quiet: show nothing.
        term: the value of TERM.
        no_color: the line without colours, as NO_COLOR asks.
        unicode: whether the terminal shows more than ASCII.
    """

    def __init__(
        self,
        console: Console,
        clock: Clock,
        *,
        quiet: bool = False,
        term: str = "",
        no_color: bool = False,
        unicode: bool = True,
    ) -> None:
        self._console = console
        self._clock = clock
        self._color = not no_color
        self._unicode = unicode
        self._stream = None if quiet or term == "dumb" else console.status_stream()
        self._news = News()
        self._redraw = Redraw(self._draw, REDRAW_S)

    @property
    def active(self) -> bool:
        """Whether there is a line at all."""
        return self._stream is not None

    def emit(self, event: ev.Event) -> None:
        """Take in what happened; the line follows within a tenth of a second."""
        if self._stream is None or self._redraw.closed or isinstance(event, ev.ReadingsTaken):
            return
        with self._redraw.lock:
            self._news.take(event, self._now_s())
            if self._news.is_over:
                self._console.set_status(b"")
            self._redraw.change()

    def close(self) -> None:
        """Remove the line for good. May be called again."""
        self._redraw.close()
        if self._stream is not None:
            self._console.set_status(b"")

    def _now_s(self) -> float:
        return self._clock.now_ns() / 1e9

    def _draw(self) -> float:
        """Draw the line; returns the seconds until its clock shows another one."""
        now_s = self._now_s()
        if not self._news.is_over and self._stream is not None:
            line = compose(self._news, now_s, unicode=self._unicode)
            # A full line would leave the cursor between two lines, and a Ctrl-C is echoed as two more characters.
            columns = self._console.size(self._stream).columns - 3
            self._console.set_status(paint(line.fitted(columns), self._styled))
        return 1.0 - self._news.elapsed_s(now_s) % 1.0

    def _styled(self, text: str, style: str) -> str:
        # Late: 20 ms of import that nobody has to wait for in the drawing thread.
        from rich.color import ColorSystem
        from rich.style import Style

        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD if self._color else None)


@dataclass(frozen=True, slots=True)
class Doing:
    """What the agent is at.

    Args:
        mood: a key of `_MOODS`.
        text: in words.
        since_s: since when.
        waits: whether to say for how long already.
        until_s: when something comes, or None.
        before: goes behind `text` and before the time left; and what goes there once no time is left.
        because: goes behind all that.
    """

    mood: str
    text: str
    since_s: float
    waits: bool = False
    until_s: float | None = None
    before: tuple[str, str] = ("", "")
    because: str = ""

    def words(self, now_s: float) -> str:
        """In words, with the time."""
        if self.until_s is None:
            return self.text + (_waited(now_s - self.since_s) if self.waits else "") + self.because
        left_s, (counting, passed) = self.until_s - now_s, self.before
        if left_s > 0:
            # Rounded up: at "1 s" there is still time.
            return f"{self.text}{counting} {span(left_s + 0.999)}{self.because}"
        return f"{self.text}{passed}{_waited(-left_s)}{self.because}"


@dataclass
class News:
    """What the events have said so far, as far as the line needs it."""

    run_id: str = ""
    started_s: float | None = None
    round: int = 0
    restarts: int = 0
    restarts_max: int | None = None
    alive: int = 0
    count: int = 0
    nodes: int = 0
    world_size: int = 0
    is_over: bool = False
    doing: Doing = field(default_factory=lambda: Doing("wait", "starting", 0.0))
    #: what comes after the workers are stopped
    _next: Doing | None = None
    _delay_s: float = 0.0
    _blame: str = ""
    #: what the agent was at before the store fell silent
    _before_silence: Doing | None = None

    def elapsed_s(self, now_s: float) -> float:
        """Since the first event."""
        return 0.0 if self.started_s is None else max(0.0, now_s - self.started_s)

    def take(self, event: ev.Event, now_s: float) -> None:
        """Fold one event in."""
        if self.started_s is None:
            self.started_s = now_s
        self.run_id = event.run_id or self.run_id
        self.round = event.round or self.round
        self.restarts = event.restart_count
        self._count(event)
        self.doing = self._after(event, now_s) or self.doing

    def _count(self, event: ev.Event) -> None:
        match event:
            case ev.AgentStarted():
                self.count, self.restarts_max, self.is_over = (
                    event.local_world_size,
                    event.restarts_max,
                    False,
                )
            case ev.RendezvousCompleted():
                self.nodes, self.world_size = event.group_world_size, event.world_size
            case ev.WorkersStarting():
                self.alive, self.count = 0, event.count
            case ev.WorkerStarted():
                self.alive += 1
            case ev.WorkerExited():
                self.alive = max(0, self.alive - 1)
            case ev.AgentFinished():
                self.is_over = True

    def _after(self, event: ev.Event, now_s: float) -> Doing | None:
        match event:
            case ev.AgentStarted():
                return Doing("wait", "starting", now_s, waits=True)
            case ev.RendezvousStarted():
                self._next, self._blame = None, ""
                text = "forming the group" if event.backend == "solo" else "waiting for other nodes to join"
                return Doing("wait", text, now_s, waits=True)
            case ev.WorkersStarting():
                return Doing("wait", f"starting {plural(event.count, 'worker')}", now_s, waits=True)
            case ev.WorkersStarted():
                return Doing("run", "running", now_s)
            case ev.FailureRecorded() if event.first:
                self._blame = f"rank {event.global_rank} {ending(event.exit_code, event.signal)}"
                return Doing("fail", self._blame, now_s)
            case ev.DecisionMade():
                return self._decided(event, now_s)
            case ev.WorkersStopping():
                return self._stopping(event, now_s)
            case ev.GraceShortened():
                return Doing(
                    "stop",
                    "stopping: asked again" if event.signals > 1 else "stopping: asked to end",
                    now_s,
                    until_s=now_s + event.left_s,
                    before=(", SIGKILL in", ", SIGKILL sent"),
                )
            case ev.WorkersStopped():
                return self._stopped(now_s)
            case ev.BarrierEntered() if event.members > 1:
                others = plural(event.members - 1, "other agent")
                return Doing("wait", f"waiting for {others} to finish", now_s, waits=True)
            case ev.WorkersHung():
                return Doing("fail", f"hangs: {event.why}", now_s)
            case ev.WorkersRecovered():
                return Doing("run", "running", now_s)
            case ev.SignalReceived():
                return Doing("stop", f"{event.signal} received, ending", now_s, waits=True)
        return self._after_the_job_s(event, now_s)

    def _after_the_job_s(self, event: ev.Event, now_s: float) -> Doing | None:
        """What events tell that our own rendezvous says."""
        match event:
            case ev.Parked():
                return Doing("wait", parked(event.beside), now_s, waits=True)
            case ev.RoundEnded() if without_tokens(event.by) == event.node and self._blame:
                pass  # its own failure, which is told already
            case ev.RoundEnded() | ev.Evicted():
                self._blame = without_tokens(event.reason)
            case ev.StoreSilent():
                self._before_silence = self.doing
                left_s = event.limit_s - event.silent_s
                before = (", giving up in", ", giving up")
                text = store_silent(event.where)
                return Doing("fail", text, now_s, until_s=now_s + left_s, before=before)
            case ev.StoreAnswers():
                return self._before_silence
            case ev.JobEnded(outcome="failed"):
                return Doing("fail", report_in_words(event.why, event.failures).first, now_s)
        return None

    def _decided(self, event: ev.DecisionMade, now_s: float) -> Doing | None:
        because = f": {self._blame}" if self._blame else ""
        self._delay_s = event.delay_s
        match event.action:
            case "restart":
                # Who blames somebody says by that what the restart is for.
                membership = "" if event.spends_budget or event.free or because else " for new members"
                self._next = Doing("wait", f"restarting{membership}", now_s, waits=True, because=because)
            case "finish":
                self._next = Doing("run", "workers are done", now_s)
            case _:
                self._next = Doing("fail", f"failed{because or ': ' + event.reason}", now_s)
        return self._next

    def _stopping(self, event: ev.WorkersStopping, now_s: float) -> Doing:
        return Doing(
            "stop",
            f"stopping {plural(len(event.local_ranks), 'worker')}",
            now_s,
            until_s=now_s + event.grace_s,
            before=(f": {event.signal} sent, SIGKILL in", ": SIGKILL sent"),
        )

    def _stopped(self, now_s: float) -> Doing | None:
        self.alive = 0
        after, self._next = self._next, None
        if after is not None and self._delay_s > 0:
            until_s = now_s + self._delay_s
            return replace(after, since_s=now_s, until_s=until_s, before=(" in", ""))
        return after


@dataclass(frozen=True, slots=True)
class Line:
    """The line as pieces, the ones to keep first.

    Args:
        style: of the first piece.
        pieces: not empty; printable.
        separator: between them.
    """

    style: str
    pieces: tuple[str, ...]
    separator: str = " · "

    def fitted(self, columns: int) -> Line:
        """What of it fits: whole pieces, and the first one cut if need be. Wide characters count as two."""
        from rich.cells import cell_len, set_cell_size

        first, *others = self.pieces
        if cell_len(first) > columns:
            cut = set_cell_size(first, columns - 1).rstrip() + "…" if columns > 1 else ""
            return Line(self.style, (cut,), self.separator)
        kept, width = [first], cell_len(first)
        for piece in others:
            width += cell_len(self.separator + piece)
            if width > columns:
                break
            kept.append(piece)
        return Line(self.style, tuple(kept), self.separator)

    def text(self) -> str:
        """As plain text."""
        return self.separator.join(self.pieces)


def compose(news: News, now_s: float, *, unicode: bool = True) -> Line:
    """Say `news` in one line, most important first."""
    style, glyph, plain_glyph = _MOODS[news.doing.mood]
    pieces = [f" {glyph if unicode else plain_glyph} {news.doing.words(now_s)}"]
    if news.alive:
        pieces.append(f"{news.alive}/{plural(news.count, 'worker')}")
    if news.restarts_max:
        # With a window of the restart policy there may be more than the budget, which comes back.
        several = news.restarts <= news.restarts_max
        pieces.append(
            f"{news.restarts}/{plural(news.restarts_max, 'restart')}"
            if several
            else f"{news.restarts} restarts"
        )
    pieces.append(stopwatch(news.elapsed_s(now_s)))
    if news.nodes > 1:
        pieces.append(f"{news.world_size} ranks on {news.nodes} nodes")
    if news.round > 1:
        pieces.append(f"round {news.round}")
    if news.run_id:
        pieces.append(f"run {news.run_id}")
    return Line(style, tuple(printable(piece) for piece in pieces), " · " if unicode else " - ")


def paint(line: Line, styled: Callable[[str, str], str]) -> bytes:
    """What draws the line: styles and place of the cursor are as before, but for its column.

    No wrapping meanwhile, should the terminal have become narrower since.
    """
    from rich.cells import cell_len

    first, *others = line.pieces
    text = styled(first, line.style) + "".join(styled(line.separator + piece, "dim") for piece in others)
    # DECRC gives back a colour that a worker left on; the cursor then goes to the end, out of the way.
    return f"\x1b7\x1b[0m\x1b[?7l{text}\x1b[?7h\x1b8\x1b[{max(1, cell_len(line.text()))}C".encode()


def span(seconds: float) -> str:
    """A wait in words: `47 s`, `5 min`, `3 h`."""
    if seconds < 120:
        return f"{int(seconds)} s"
    return f"{int(seconds // 60)} min" if seconds < 7200 else f"{int(seconds // 3600)} h"


def stopwatch(seconds: float) -> str:
    """Elapsed time: `0:42`, `1:02:03`, `2 d 1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if hours == 0:
        return f"{minute}:{second:02}"
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"


def _waited(seconds: float) -> str:
    return f" ({span(seconds)})" if seconds >= 1 else ""
