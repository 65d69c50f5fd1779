"""The status line: its words, its width, and its place under real output in a real terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import nothing_left
from toolkit.adapters.output.console import Console
from toolkit.core import events as ev
from toolkit.fronts.status import Line, News, StatusLine, compose, span, stopwatch

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def wall_ns(self) -> int:
        return self.now_ns()


def started(**changes: int) -> ev.AgentStarted:
    return ev.AgentStarted(
        run_id="mnist",
        pid=1,
        hostname="h",
        role="default",
        local_world_size=changes.get("local_world_size", 4),
        restarts_max=changes.get("restarts_max", 3),
        backend="c10d",
        entrypoint="train.py",
    )


def formed(nodes: int = 2, *, round: int = 1, restart_count: int = 0) -> ev.RendezvousCompleted:
    return ev.RendezvousCompleted(
        run_id="mnist",
        round=round,
        restart_count=restart_count,
        group_rank=0,
        group_world_size=nodes,
        world_size=4 * nodes,
        role_world_size=4 * nodes,
        master_addr="h",
        master_port=1,
        global_ranks=[0, 1, 2, 3],
    )


def workers_start(count: int = 4, *, round: int = 1, restart_count: int = 0) -> list[ev.Event]:
    each = [
        ev.WorkerStarted(
            incarnation=0,
            local_rank=rank,
            global_rank=rank,
            role_rank=rank,
            world_size=count,
            worker_id=str(rank),
            round=round,
            restart_count=restart_count,
        )
        for rank in range(count)
    ]
    common = {"round": round, "restart_count": restart_count}
    return [
        ev.WorkersStarting(incarnation=0, count=count, **common),
        *each,
        ev.WorkersStarted(incarnation=0, **common),
    ]


def killed(rank: int = 2) -> list[ev.Event]:
    who = {"incarnation": 0, "local_rank": rank, "global_rank": rank, "pid": 1, "round": 1}
    return [
        ev.WorkerExited(**who, exit_code=None, signal="SIGKILL"),
        ev.FailureRecorded(
            **who, hostname="h", exit_code=None, signal="SIGKILL", message="Signal 9", first=True
        ),
    ]


def said(*happened: ev.Event | float) -> str:
    """What the line says after these events; a number lets so many seconds pass."""
    news, now_s = News(), 0.0
    for item in happened:
        if isinstance(item, float):
            now_s += item
        else:
            news.take(item, now_s)
    return compose(news, now_s).text()


def restart(delay_s: float = 0.0, *, spends_budget: bool = True) -> ev.DecisionMade:
    return ev.DecisionMade(
        action="restart", reason="r", spends_budget=spends_budget, delay_s=delay_s, round=1
    )


STOPPING = ev.WorkersStopping(signal="SIGTERM", grace_s=30.0, local_ranks=[0, 1, 3], round=1)
WAITING = ev.RendezvousStarted(backend="c10d")


def test_it_says_what_it_waits_for_and_for_how_long() -> None:
    assert said(started(), WAITING) == " ◌ waiting for other nodes to join · 0/3 restarts · 0:00 · run mnist"
    assert said(started(), WAITING, 12.0).startswith(" ◌ waiting for other nodes to join (12 s) · ")
    assert said(started(), WAITING, 300.0).startswith(" ◌ waiting for other nodes to join (5 min) · ")
    assert said(started(), ev.RendezvousStarted(backend="solo")).startswith(" ◌ forming the group · ")
    barrier = ev.BarrierEntered(members=4, timeout_s=300.0)
    assert said(started(), barrier, 40.0).startswith(" ◌ waiting for 3 other agents to finish (40 s) · ")
    barrier = ev.BarrierEntered(members=2, timeout_s=300.0)
    assert said(started(), barrier).startswith(" ◌ waiting for 1 other agent to finish · ")


def test_it_says_who_runs_where() -> None:
    one = said(started(), WAITING, 2.0, formed(1), *workers_start(), 40.0)
    assert one == " ● running · 4/4 workers · 0/3 restarts · 0:42 · run mnist"
    several = said(started(), WAITING, 2.0, formed(2, round=2), *workers_start(round=2), 3.0)
    assert several == (
        " ● running · 4/4 workers · 0/3 restarts · 0:05 · 8 ranks on 2 nodes · round 2 · run mnist"
    )


def test_it_says_who_failed_and_what_follows() -> None:
    up = (started(), formed(1), *workers_start())
    assert said(*up, *killed()).startswith(" ✗ rank 2 was killed by SIGKILL · 3/4 workers · ")
    assert said(*up, *killed(), restart(), STOPPING, 2.5).startswith(
        " ■ stopping 3 workers: SIGTERM sent, SIGKILL in 28 s · 3/4 workers · "
    )
    assert said(*up, STOPPING, 33.0).startswith(" ■ stopping 3 workers: SIGKILL sent (3 s) · ")
    stopped = ev.WorkersStopped(restart_count=1)
    assert said(*up, *killed(), restart(8.0), STOPPING, 1.0, stopped, 2.0).startswith(
        " ◌ restarting in 6 s: rank 2 was killed by SIGKILL · 1/3 restarts · "
    )
    assert said(*up, restart(spends_budget=False), STOPPING, stopped).startswith(
        " ◌ restarting for new members · "
    )
    fail = ev.DecisionMade(action="fail", reason="no restarts left", round=1)
    assert said(*up, *killed(), fail).startswith(" ✗ failed: rank 2 was killed by SIGKILL · ")
    assert said(*up, fail).startswith(" ✗ failed: no restarts left · ")
    assert said(*up, ev.SignalReceived(signal="SIGTERM", count=1), 1.0).startswith(
        " ■ SIGTERM received, ending (1 s) · "
    )


def test_it_says_what_the_nodes_decide_together() -> None:
    up = (started(), formed(2), *workers_start())
    assert said(started(), WAITING, ev.Parked(beside=2, reason="full"), 90.0).startswith(
        " ◌ round 2 runs without this node, which waits as a spare (90 s) · "
    )
    over = ev.RoundEnded(
        node="a_1",
        ended=1,
        action="membership",
        reason="node b_2_abcdef is lost: it left",
        by="b_2_abcdef",
        spends_budget=False,
        restarts=0,
    )
    stopped = ev.WorkersStopped()
    assert said(*up, over, restart(spends_budget=False), STOPPING, stopped).startswith(
        " ◌ restarting: node b_2 is lost: it left · "
    )
    report = ev.JobEnded(outcome="failed", why="too few nodes are left")
    assert said(*up, report).startswith(" ✗ the job failed: too few nodes are left · ")


def test_a_silent_store_is_shown_until_it_answers() -> None:
    silent = ev.StoreSilent(where="a:29400", silent_s=3.0, limit_s=60.0)
    up = (started(), formed(2), *workers_start())
    assert said(*up, silent, 10.0).startswith(" ✗ the store at a:29400 does not answer, giving up in 47 s · ")
    answers = ev.StoreAnswers(where="a:29400", silent_s=19.5)
    assert said(*up, silent, 10.0, answers).startswith(" ● running · ")


def test_names_from_outside_cannot_move_the_cursor() -> None:
    line = said(ev.RendezvousStarted(backend="c10d", run_id="a\x1b[2Jb\nc"))
    assert line.endswith("run a?[2Jb?c")


@pytest.mark.parametrize(
    ("columns", "text"),
    [(60, "running · 4 workers · 日本"), (25, "running · 4 workers"), (24, "running · 4 workers"),
     (10, "running"), (5, "runn…"), (1, ""), (0, "")],
)  # fmt: skip
def test_a_narrow_terminal_gets_the_most_important_pieces(columns: int, text: str) -> None:
    line = Line("green", ("running", "4 workers", "日本"))
    assert line.fitted(columns).text() == text


def test_wide_characters_count_as_two() -> None:
    assert Line("green", ("日本語",)).fitted(5).text() == "日本…"
    assert Line("green", ("日本語",)).fitted(6).text() == "日本語"


def test_times_in_words() -> None:
    assert [span(s) for s in (0.9, 47.2, 119.9, 300.0, 7300.0)] == ["0 s", "47 s", "119 s", "5 min", "2 h"]
    assert [stopwatch(s) for s in (5.0, 65.0, 3723.0, 90000.0)] == ["0:05", "1:05", "1:02:03", "1 d 1:00:00"]


# --- on a terminal ---------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal whose output is collected by a thread."""

    def __init__(self, columns: int) -> None:
        self.read_fd, self.fd = os.openpty()
        self.data = b""
        self._changed = threading.Condition()
        termios.tcsetwinsize(self.fd, (24, columns))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := os.read(self.read_fd, 65536):
                with self._changed:
                    self.data += part
                    self._changed.notify_all()

    def wait_for(self, wanted: bytes, times: int = 1) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: self.data.count(wanted) >= times, DEADLINE_S)
        assert came, (wanted, self.data)

    def close(self) -> None:
        os.close(self.fd)
        self._thread.join(DEADLINE_S)
        os.close(self.read_fd)


@contextlib.contextmanager
def terminal(columns: int = 100) -> Iterator[tuple[Terminal, Console]]:
    with nothing_left():
        screen = Terminal(columns)
        try:
            with Console(screen.fd, screen.fd) as console:
                yield screen, console
        finally:
            screen.close()


def test_it_is_drawn_with_colours_and_removed_at_the_end() -> None:
    with terminal() as (screen, console):
        status = StatusLine(console, FakeClock(), term="xterm-256color")
        status.emit(started())
        screen.wait_for(b"starting")
        for event in (formed(1), *workers_start()):
            status.emit(event)
        screen.wait_for("\x1b[1;32m ● running\x1b[0m\x1b[2m · 4/4 workers".encode())
        status.emit(ev.AgentFinished(result="SUCCEEDED", reason="", duration_s=1.0))
        screen.wait_for(b"\r\x1b[2K")
        console.write("out", b"after\n")
        status.close()
        status.close()
        screen.wait_for(b"\r\x1b[2Kafter\r\n")
    assert screen.data.endswith(b"\r\x1b[2Kafter\r\n")


def test_without_colours_and_without_unicode() -> None:
    with terminal() as (screen, console):
        status = StatusLine(console, FakeClock(), term="vt100", no_color=True, unicode=False)
        status.emit(started())
        screen.wait_for(b" . starting - 0/3 restarts - 0:00 - run mnist")
        status.close()
    assert not re.search(rb"\x1b\[[0-9;]*[1-9]m", screen.data)
    assert screen.data.isascii()


def test_it_follows_the_width_of_the_terminal() -> None:
    with terminal(columns=100) as (screen, console):
        status = StatusLine(console, FakeClock(), no_color=True)
        status.emit(started())
        screen.wait_for("starting · 0/3 restarts · 0:00 · run mnist".encode())
        termios.tcsetwinsize(screen.fd, (24, 16))
        status.emit(WAITING)
        screen.wait_for(" ◌ waiting f…".encode())
        status.close()


def test_time_passes_without_events() -> None:
    with terminal() as (screen, console):
        clock = FakeClock()
        status = StatusLine(console, clock, no_color=True)
        status.emit(started())
        screen.wait_for(b"0:00")
        clock.now_s += 61.0
        screen.wait_for(b"1:01")
        status.close()


def test_a_storm_of_events_is_drawn_ten_times_a_second_at_most() -> None:
    with terminal() as (screen, console):
        status = StatusLine(console, FakeClock(), no_color=True)
        began = time.monotonic()
        for count in range(1, 20001):
            status.emit(ev.MembershipChanged(nodes_waiting=count, run_id="mnist"))
        status.emit(ev.WorkersStarted(incarnation=0))
        screen.wait_for(b"running")
        took_s = time.monotonic() - began
        status.close()
        assert screen.data.count(b"\x1b[?7l") <= took_s / 0.1 + 2


@pytest.mark.parametrize("options", [{"quiet": True}, {"term": "dumb"}])
def test_nothing_where_it_is_not_wanted(options: dict[str, bool | str]) -> None:
    with terminal() as (screen, console):
        with nothing_left():  # not even a thread while it is open
            status = StatusLine(console, FakeClock(), **options)  # type: ignore[arg-type]
            status.emit(started())
            assert not status.active
        status.close()
    assert screen.data == b""


def test_nothing_in_a_pipe() -> None:
    read_fd, write_fd = os.pipe()
    with Console(write_fd, write_fd) as console:
        status = StatusLine(console, FakeClock(), term="xterm")
        status.emit(started())
        assert not status.active
        status.close()
    os.close(write_fd)
    assert os.read(read_fd, 100) == b""
    os.close(read_fd)


DRIVER = """
import os, subprocess, sys, time
from toolkit.adapters.output.console import Console
from toolkit.adapters.output.pump import OutputPump
from toolkit.core import events as ev
from toolkit.core.launch_plan import WorkerPlan
from toolkit.fronts.status import StatusLine

class Clock:
    def now_ns(self): return time.monotonic_ns()
    def wall_ns(self): return time.time_ns()

tee, logs, go_on = sys.argv[1] == "tee", sys.argv[2], sys.argv[3]
code = '''
import os, sys
rank = sys.argv[1]
for i in range(500):
    os.write(1, b"rank %s " % rank.encode()); os.write(1, b"line %03d\\\\n" % i)
sys.stdin.read()
'''
os.mkfifo(go_on)
with Console() as console:
    status = StatusLine(console, Clock(), term=os.environ["TERM"])
    status.emit(ev.AgentStarted(run_id="tmux", pid=1, hostname="h", role="default", local_world_size=4,
                                restarts_max=3, backend="solo", entrypoint="x"))
    pump = OutputPump(console, capture_console=True)
    workers = []
    status.emit(ev.WorkersStarting(incarnation=0, count=4))
    for rank in range(4):
        path = f"{logs}/{rank}.log" if tee else ""
        plan = WorkerPlan(rank, rank, {}, (), path, path, tee, tee, "", f"[default{rank}]:")
        streams = pump.open(plan)
        workers.append(subprocess.Popen([sys.executable, "-c", code, str(rank)], stdin=subprocess.PIPE,
                                        stdout=streams.stdout, stderr=streams.stderr))
        pump.started(rank)
        status.emit(ev.WorkerStarted(incarnation=0, local_rank=rank, global_rank=rank, role_rank=rank,
                                     world_size=4, worker_id="1"))
    status.emit(ev.WorkersStarted(incarnation=0))
    open(go_on).read()
    for worker in workers:
        worker.communicate()
    pump.close(10)
    console.write("err", b"agent: all done\\n")
    status.close()
open(logs + "/finished", "w").close()
time.sleep(60)
"""


class Tmux:
    """A terminal multiplexer of our own: its socket is in the test's directory."""

    def __init__(self, directory: Path) -> None:
        self._command = ["tmux", "-u", "-S", str(directory / "tmux.sock"), "-f", "/dev/null"]

    def __call__(self, *args: str) -> str:
        result = subprocess.run([*self._command, *args], capture_output=True, timeout=DEADLINE_S, check=True)
        return result.stdout.decode()

    def lines(self) -> list[str]:
        """The whole history and the screen, without the empty rows at the end."""
        return self("capture-pane", "-p", "-S", "-").rstrip("\n").split("\n")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("mode", ["tee", "capture"])
def test_in_a_real_terminal_output_is_whole_and_the_status_is_last(mode: str, tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    go_on = tmp_path / "go_on"
    tmux = Tmux(tmp_path)
    environment = ["env", f"PYTHONPATH={ROOT}", "LC_ALL=C.UTF-8"]
    command = [sys.executable, str(tmp_path / "driver.py"), mode, str(tmp_path), str(go_on)]
    tmux("new-session", "-d", "-x", "90", "-y", "20", "cat")
    try:
        tmux("set-option", "-g", "history-limit", "10000")
        tmux("new-window", *environment, *command)
        running = re.compile(r" ● running · 4/4 workers · 0/3 restarts · 0:\d\d · run tmux")
        prefix = r"\[default\d\]:" if mode == "tee" else ""
        whole = re.compile(prefix + r"rank \d line \d\d\d")
        lines = wait_until(tmux, lambda lines: len(lines) == 2001 and bool(running.fullmatch(lines[-1])))
        assert all(whole.fullmatch(line) for line in lines[:-1])
        assert len(set(lines)) == 2001
        go_on.write_text("")
        wait_until(tmux, lambda lines: (tmp_path / "finished").exists())
        # What was written by then is on the screen a moment later.
        lines = wait_until(tmux, lambda lines: lines[-1] == "agent: all done")
        assert len(lines) == 2001
        assert not any("running" in line for line in lines)
    finally:
        tmux("kill-server")


def wait_until(tmux: Tmux, condition) -> list[str]:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + DEADLINE_S
    while True:
        lines = tmux.lines()
        if condition(lines):
            return lines
        assert time.monotonic() < deadline, "\n".join(lines[-25:])
        time.sleep(0.05)
