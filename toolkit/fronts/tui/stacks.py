"""Where workers are in their code: the stacks of one rank, or of all that run here, those in the same place together.

It asks the processes and changes nothing in them; so it is there in `--read-only`, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rich.text import Text
from textual.worker import get_current_worker

from toolkit.core.stacks import Alike, Answer, Frame, Target, Unread, grouped
from toolkit.core.words import plural, printable, ranks
from toolkit.fronts.tui.acting import Acting, Controller
from toolkit.fronts.tui.screens import Reading
from toolkit.views.rows import RankRow
from toolkit.views.session import Session

#: frames of one thread that are shown; a recursion without end has a thousand
FRAMES_MAX = 60
_ASKING = frozenset({"stack", "stacks"})


class Dumper(Protocol):
    """Reads stacks: `toolkit.adapters.stacks.PySpy`."""

    def dump(self, targets: Sequence[Target]) -> list[Answer]:
        """The stacks of each, or why they can't be read. Blocks for half a minute at the most; never raises."""
        ...

    def close(self) -> None:
        """End what is being asked."""
        ...


class StackReading(Reading):
    """Stacks on the screen, once they are there.

    Args:
        title: whose.
        asked: in words, until the answer is there.
    """

    def __init__(self, title: str, asked: str) -> None:
        super().__init__(title, lambda: self.lines)
        self.lines: Sequence[Text] = [Text(asked, "dim")]

    def tell(self, lines: Sequence[Text]) -> None:
        """The answer."""
        self.lines = lines
        if self.is_attached:
            self.repaint()


class AskingForStacks(Acting):
    """The part of the screen that asks workers where they are.

    Args:
        dumper: None where nobody can be asked.
    """

    def __init__(
        self, session: Session, controller: Controller | None, by: str, dumper: Dumper | None
    ) -> None:
        super().__init__(session, controller, by)
        self._dumper = dumper

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stacks are there where something runs, in the present."""
        if action in _ASKING:
            return self._dumper is not None and self.session.mode == "LIVE" and self.session.at_edge
        return super().check_action(action, parameters)

    def on_unmount(self) -> None:
        if self._dumper is not None:
            self._dumper.close()

    def action_stack(self) -> None:
        """The threads of the selected rank."""
        row = self._row(self.pane.rank) if self.pane.rank is not None else None
        if row is None or row.state != "running":
            self.notify(
                "select a rank that runs, in the ranks (3) or the timeline (4, then o); A asks all", timeout=4
            )
            return
        rank = row.now.global_rank
        self._ask_stacks(
            f"Stacks of rank {rank}, pid {row.now.pid}",
            [row],
            lambda answers: thread_lines(rank, answers[0]),
        )

    def action_stacks(self) -> None:
        """The main threads of all ranks, those in the same place together."""
        rows = [row for row in self._maker.ranks(self.session.timeline) if row.state == "running"]
        if not rows:
            self.notify("no rank runs now", timeout=3)
            return
        numbers = [row.now.global_rank for row in rows]
        self._ask_stacks(
            f"Where the main threads of {plural(len(rows), 'rank')} are: odd ones out first",
            rows,
            lambda answers: group_lines(grouped(zip(numbers, answers, strict=True))),
        )

    def _ask_stacks(
        self, title: str, rows: Sequence[RankRow], lines: Callable[[list[Answer]], list[Text]]
    ) -> None:
        if isinstance(self.screen, StackReading):
            self.pop_screen()  # asked again
        screen = StackReading(title, f"asking {plural(len(rows), 'worker')} ...")
        self.push_screen(screen)
        targets = [_target(row) for row in rows]

        def ask() -> None:
            assert self._dumper is not None, "asked only where there is one"
            told = lines(self._dumper.dump(targets))
            if not get_current_worker().is_cancelled:
                self.call_from_thread(screen.tell, told)

        self.run_worker(ask, thread=True, exit_on_error=False)


def _target(row: RankRow) -> Target:
    now = row.now
    started_ns = now.started.wall_ns if now.started else 0
    return Target(now.global_rank, row.host, now.pid, started_ns, row.key[0], now.local_rank)


def thread_lines(global_rank: int, answer: Answer) -> list[Text]:
    """All threads of one rank."""
    if isinstance(answer, Unread):
        return [_unread((global_rank,), answer)]
    if not answer.threads:
        return [Text("it has no thread that runs Python", "yellow")]
    lines: list[Text] = []
    for thread in answer.threads:
        head = Text("main thread" if thread.main else "thread", "bold")
        head.append(f" {thread.number}", "bold")
        if thread.name and not thread.main:
            head.append(f" {printable(thread.name)}", "bold")
        head.append("  waits" if thread.idle else "  runs on", "dim" if thread.idle else "green")
        head.append("  holds the GIL" if thread.holds_gil else "", "yellow")
        lines += [head, *_frame_lines(thread.frames), Text()]
    return lines


def group_lines(groups: Sequence[Alike]) -> list[Text]:
    """Groups of ranks in the same place: first who is where in a line each, then their frames."""
    read = [group for group in groups if not isinstance(group.where, Unread)]
    lines = [_head(group) for group in read]
    lines += [_unread(group.global_ranks, group.where) for group in groups if isinstance(group.where, Unread)]
    for group in read:
        assert not isinstance(group.where, Unread), "sorted out above"
        lines += [Text(), _head(group), *_frame_lines(group.where)]
    return lines


def _head(group: Alike) -> Text:
    assert not isinstance(group.where, Unread), "of those that were read"
    head = Text(_who(group.global_ranks), "bold")
    where = (
        f"in {printable(group.where[0].function)}, {_place(group.where[0])}"
        if group.where
        else "in no Python"
    )
    return head.append(f"  {where}", "cyan")


def _unread(global_ranks: Sequence[int], answer: Unread) -> Text:
    words = printable(answer.why)
    if len(global_ranks) > 1:
        for one, several in (("runs ", "run "), ("has ", "have "), ("was ", "were ")):
            if words.startswith(one):
                words = several + words.removeprefix(one)
    return Text(f"! {_who(global_ranks)} ", "yellow").append(words)


def _who(global_ranks: Sequence[int]) -> str:
    named = ranks(list(global_ranks))
    return named if len(global_ranks) == 1 else f"{len(global_ranks)} {named}"


def _frame_lines(frames: Sequence[Frame]) -> Iterable[Text]:
    width = min(max((len(printable(frame.function)) for frame in frames[:FRAMES_MAX]), default=0), 40)
    for frame in frames[:FRAMES_MAX]:
        line = Text(f"    {printable(frame.function):<{width}}  ")
        yield line.append(_place(frame), "dim")
    if len(frames) > FRAMES_MAX:
        yield Text(f"    ... and {len(frames) - FRAMES_MAX} more", "dim")
    if not frames:
        yield Text("    not in Python", "dim")


def _place(frame: Frame) -> str:
    return f"{printable(frame.file)}:{frame.line}" if frame.line else printable(frame.file)
