"""Output pump and console, with real processes, files, pipes and pseudo-terminals."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leaks import nothing_left
from toolkit.adapters.output.console import Console
from toolkit.adapters.output.lines import LINE_MAX_BYTES, ConsoleLines
from toolkit.adapters.output.pump import OutputPump
from toolkit.core.launch_plan import LaunchPlan, WorkerPlan

DEADLINE_S = 20.0


class Screen:
    """What stands behind a console: a pipe or a terminal, read by a thread unless it is stuck."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.write_fd = write_fd
        self.read_fd = read_fd
        self.data = b""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> Screen:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self.read_fd, 65536)
            except OSError:
                part = b""
            with self._changed:
                self.data += part
                self._changed.notify_all()
            if not part:
                return

    def wait_for(self, wanted: bytes) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: wanted in self.data, DEADLINE_S), (
                wanted,
                self.data[-2000:],
            )
            return self.data

    def end(self) -> bytes:
        """Everything, once all writers are gone."""
        os.close(self.write_fd)
        if self._thread is None:
            self.start()
        assert self._thread is not None
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        os.close(self.read_fd)
        return self.data


@contextlib.contextmanager
def pipe_screen(*, stuck: bool = False) -> Iterator[tuple[Screen, Console]]:
    screen = Screen(*os.pipe())
    if not stuck:
        screen.start()
    console = Console(screen.write_fd, screen.write_fd)
    try:
        yield screen, console
    finally:
        console.close()


@contextlib.contextmanager
def tty_screen(columns: int = 100) -> Iterator[tuple[Screen, Console]]:
    screen = Screen(*os.openpty())
    attributes = termios.tcgetattr(screen.write_fd)
    attributes[1] &= ~termios.OPOST  # so that the bytes come out as they went in
    termios.tcsetattr(screen.write_fd, termios.TCSANOW, attributes)
    termios.tcsetwinsize(screen.write_fd, (30, columns))
    screen.start()
    console = Console(screen.write_fd, screen.write_fd)
    try:
        yield screen, console
    finally:
        console.close()


def plan(rank: int = 0, stdout: str | Path = "", stderr: str | Path = "", *, tee: bool = True) -> WorkerPlan:
    return WorkerPlan(
        local_rank=rank,
        global_rank=rank,
        env={},
        args=(),
        stdout=str(stdout),
        stderr=str(stderr),
        tee_stdout=tee and bool(str(stdout)),
        tee_stderr=tee and bool(str(stderr)),
        prefix=f"[default{rank}]:",
    )


def start(pump: OutputPump, worker: WorkerPlan, code: str, **options: object) -> subprocess.Popen[bytes]:
    streams = pump.open(worker)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=streams.stdout,
        stderr=streams.stderr,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    pump.started(worker.local_rank)
    return process


def run(pump: OutputPump, worker: WorkerPlan, code: str) -> None:
    assert start(pump, worker, code).wait(DEADLINE_S) == 0


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come in time"
        select.select([], [], [], 0.01)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    with nothing_left():
        yield


# --- files -----------------------------------------------------------------------------------------------


def test_a_redirected_stream_goes_to_its_file_alone_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "0" / "stdout.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"before\n")
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(stdout=path, stderr=tmp_path / "new" / "err", tee=False), "print('after')")
        pump.close()
    assert screen.end() == b""
    assert path.read_bytes() == b"before\nafter\n"
    assert (tmp_path / "new" / "err").read_bytes() == b""


def test_console_streams_are_inherited_where_nobody_captures(tmp_path: Path) -> None:
    with tty_screen() as (screen, console):
        pump = OutputPump(console)
        streams = pump.open(plan())
        assert (streams.stdout, streams.stderr) == (None, None)
        pump.close()
    screen.end()


def test_teed_lines_go_to_the_file_raw_and_to_the_console_with_the_prefix(tmp_path: Path) -> None:
    out, err = Screen(*os.pipe()).start(), Screen(*os.pipe()).start()
    with Console(out.write_fd, err.write_fd) as console:
        pump = OutputPump(console)
        code = "import sys; print('a\\n\\nb'); print('oh', file=sys.stderr)"
        run(pump, plan(3, tmp_path / "o", tmp_path / "e"), code)
        pump.close()
    assert out.end() == b"[default3]:a\n[default3]:\n[default3]:b\n"
    assert err.end() == b"[default3]:oh\n"
    assert (tmp_path / "o").read_bytes() == b"a\n\nb\n"
    assert (tmp_path / "e").read_bytes() == b"oh\n"


def test_an_unwritable_path_costs_lines_and_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bads = [tmp_path / "file" / f"stdout{rank}.log" for rank in range(2)]
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(0, bads[0]), "print('x' * 9)")
        run(pump, plan(1, bads[1], tee=False), "print('x' * 9)")
        pump.close()
        assert pump.lost_bytes == 20
        assert len(pump.problems) == 2
        for problem, bad in zip(pump.problems, bads, strict=True):
            assert "Not a directory" in problem
            assert str(bad) in problem
            assert "1 line (10 bytes) lost" in problem
    assert screen.end() == b"[default0]:xxxxxxxxx\n"


def test_a_full_disk_loses_lines_of_the_file_and_nothing_else() -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(stdout="/dev/full"), "for i in range(30000): print('line', i)")
        pump.close()
        text = screen.wait_for(b"line 29999\n")
        assert text.count(b"[default0]:line ") == 30000
        assert pump.lost_bytes == sum(len(f"line {i}\n") for i in range(30000))
        assert "No space left" in pump.problems[0]
    screen.end()


def test_a_file_size_limit_keeps_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "o"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            run(pump, plan(stdout=path), "print('x' * 2999)")
            pump.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (path.stat().st_size, pump.lost_bytes) == (1000, 2000)
    assert screen.end() == b"[default0]:" + b"x" * 2999 + b"\n"


def test_with_too_few_descriptors_for_a_pipe_a_file_is_written_directly(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        free_fd = os.dup(0)
        os.close(free_fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free_fd + 1, hard))
        try:
            streams = pump.open(plan(stdout=tmp_path / "o", tee=False))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert streams.stdout == free_fd
        os.write(free_fd, b"straight\n")
        pump.started(0)
        pump.close()
    screen.end()
    assert (tmp_path / "o").read_bytes() == b"straight\n"


def test_dev_null_takes_everything() -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(0, "/dev/null"), "print('shown')")
        run(pump, plan(1, "/dev/null", tee=False), "print('not shown')")
        pump.close()
        assert pump.lost_bytes == 0
    assert screen.end() == b"[default0]:shown\n"


def test_filters_copy_matching_lines_with_their_prefix(tmp_path: Path) -> None:
    launch = LaunchPlan(
        role="default",
        incarnation=0,
        entrypoint="x",
        workers=(),
        stdout_filters=("apple", "pear"),
        filtered_stdout=str(tmp_path / "filtered_stdout.log"),
        filtered_stderr=str(tmp_path / "filtered_stderr.log"),
    )
    code = "import sys; print('an apple\\nplum\\na pear', end=''); print('apple', file=sys.stderr)"
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        pump.filters(launch)
        for rank in range(2):
            run(pump, plan(rank, tmp_path / f"o{rank}", tmp_path / f"e{rank}"), code)
        pump.close()
    assert screen.end().count(b"plum") == 2
    copied = sorted((tmp_path / "filtered_stdout.log").read_text().splitlines())
    assert copied == [f"[default{rank}]:{line}" for rank in range(2) for line in ("a pear", "an apple")]
    assert not (tmp_path / "filtered_stderr.log").exists()


# --- lines -----------------------------------------------------------------------------------------------


def test_eight_workers_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "for i in range(2000):\n"
        "    text = b'%s %d ' % (sys.argv[0].encode(), i) + b'x' * (i * 7 % 200) + b' end\\n'\n"
        # Two writes per line, so that reads see halves.
        "    os.write(1, text[:5]); os.write(1, text[5:])\n"
    )
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        workers = [start(pump, plan(rank, tmp_path / str(rank)), code) for rank in range(8)]
        assert [worker.wait(60) for worker in workers] == [0] * 8
        pump.close(30)
        assert (pump.lost_bytes, console.lost_bytes) == (0, 0)
    lines = screen.end().splitlines()
    assert len(lines) == 8 * 2000
    whole = re.compile(rb"\[default(\d)\]:-c (\d+) (x*) end")
    seen: dict[bytes, int] = {}
    for line in lines:
        match = whole.fullmatch(line)
        assert match, line
        rank, number, filler = match[1], int(match[2]), match[3]
        assert number == seen.get(rank, -1) + 1
        assert len(filler) == number * 7 % 200
        seen[rank] = number


def test_an_unfinished_line_shows_soon_and_goes_on_where_it_is(tmp_path: Path) -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        code = "import os; os.write(1, b'go on? '); os.read(0, 1); os.write(1, b'yes\\n')"
        worker = start(pump, plan(stdout=tmp_path / "o"), code, stdin=subprocess.PIPE)
        assert worker.stdin is not None
        assert screen.wait_for(b"? ") == b"[default0]:go on? "
        worker.stdin.write(b"y")
        worker.stdin.close()
        assert worker.wait(DEADLINE_S) == 0
        pump.close()
    assert screen.end() == b"[default0]:go on? yes\n"


def lines_of(console: Console, rank: int) -> ConsoleLines:
    return ConsoleLines(console, "out", b"[%d]:" % rank)


def test_a_line_that_a_buffer_has_cut_is_held_for_its_end() -> None:
    with pipe_screen() as (screen, console):
        one, other = lines_of(console, 0), lines_of(console, 1)
        block = (b"x" * 99 + b"\n") * 82  # of 8192 bytes, as Python writes to a pipe, the last line has 92
        one.show(block[:8192], 0.0)
        one.tick(5.0)
        other.show(b"other\n", 5.0)
        one.show(block[8192:], 6.0)
        one.show(b"go on? ", 7.0)
        assert one.due == 7.5, "what comes in small writes was meant to be seen"
    assert [line for line in screen.end().split(b"\n") if len(line) not in (103, 0)] == [b"[1]:other"]


def test_another_rank_starts_a_new_line_below_an_unfinished_one() -> None:
    with pipe_screen() as (screen, console):
        one, other = lines_of(console, 0), lines_of(console, 1)
        one.show(b"par", 0.0)
        other.show(b"whole\n", 0.1)
        assert one.due == 0.5
        one.tick(0.5)
        other.show(b"next\n", 0.6)
        one.show(b"tial\n", 0.7)
    assert screen.end() == b"[1]:whole\n[0]:par\n[1]:next\n[0]:tial\n"


def test_the_late_end_of_a_line_that_was_broken_off_is_no_line_of_its_own() -> None:
    with pipe_screen() as (screen, console):
        one, other = lines_of(console, 0), lines_of(console, 1)
        one.show(b"\r100%", 0.0)
        one.tick(0.5)
        other.show(b"whole\n", 0.6)
        one.show(b"\n", 0.7)
        one.show(b"\n", 0.8)
        one.show(b"left", 0.9)
        one.tick(1.4)
        one.show(b"\n", 1.5)
    assert screen.end() == b"[0]:100%\n[1]:whole\n[0]:\n[0]:left\n", "but an empty line is one"


def test_a_progress_bar_stays_in_its_line_behind_its_prefix() -> None:
    with pipe_screen() as (screen, console):
        bar = lines_of(console, 0)
        bar.show(b"\r 10%\r 20%\r 30%", 0.0)
        bar.tick(0.5)
        bar.show(b"\r 40%\r 50%", 0.6)
        bar.show(b"\r100%\ndone\r\n", 0.7)
    assert screen.end() == b"[0]: 30%\r[0]: 50%\r[0]:100%\n[0]:done\r\n"


def test_bars_of_two_ranks_take_turns_in_lines_of_their_own_every_few_seconds() -> None:
    with pipe_screen() as (screen, console):
        one, other = lines_of(console, 0), lines_of(console, 1)
        for tenth in range(120):
            for bar in (one, other):
                bar.show(b"\r%3d%%" % tenth, tenth / 10)
                bar.tick(tenth / 10)
        one.show(b"\r100%\n", 12.0)
        other.show(b"\r100%\n", 12.0)
    text = screen.end()
    shown = [line for line in text.split(b"\n") if line]
    assert all(line.startswith((b"[0]:", b"[1]:")) for line in shown), text
    assert [line.rpartition(b"\r")[2] for line in shown[-2:]] == [b"[0]:100%", b"[1]:100%"], shown
    assert len(shown) <= 2 * 4, "at first, after 5 and 10 seconds, and the end"


def test_several_bars_of_one_rank_do_not_reach_into_lines_of_others() -> None:
    def bars(number: int) -> bytes:
        # What tqdm writes for position 0, and for position 1.
        return b"\router %d\n\rinner %d\x1b[A" % (number, number)

    with pipe_screen() as (screen, console):
        one, other = lines_of(console, 0), lines_of(console, 1)
        for tenth in range(120):
            one.show(bars(tenth), tenth / 10)
            one.tick(tenth / 10)
            other.tick(tenth / 10)
            if tenth % 40 == 0:
                other.show(b"step %d\n" % tenth, tenth / 10)
        one.show(b"\n\rinner done\x1b[A\router done\n\n", 12.0)
        one.finish()
    text = screen.end()
    assert b"\x1b" not in text
    assert b"\r" not in text
    shown = text.splitlines()
    assert [line for line in shown if line.startswith(b"[1]:")] == [
        b"[1]:step 0",
        b"[1]:step 40",
        b"[1]:step 80",
    ]
    outer = [line for line in shown if line.startswith(b"[0]:outer")]
    inner = [line for line in shown if line.startswith(b"[0]:inner")]
    assert len(shown) == 3 + len(outer) + len(inner)
    assert outer == [b"[0]:outer 5", b"[0]:outer 55", b"[0]:outer 105", b"[0]:outer done"]
    assert inner == [b"[0]:inner 5", b"[0]:inner 55", b"[0]:inner 105", b"[0]:inner done"]


def test_lines_after_bars_are_lines_again() -> None:
    with pipe_screen() as (screen, console):
        lines = lines_of(console, 0)
        lines.show(b"\x1b[?25lbar 1\n\x1b[1A\x1b[2K\x1b[31mbar 2\x1b[0m\n", 0.0)
        for number in range(2000):
            lines.show(b"line %d\n" % number, 1.0)
        lines.finish()
    shown = screen.end().splitlines()
    assert shown == [b"[0]:\x1b[31mbar 2\x1b[0m", *(b"[0]:line %d" % number for number in range(2000))]


def test_any_bytes_pass_and_none_is_lost(tmp_path: Path) -> None:
    code = (
        "import os, random\n"
        "r = random.Random(1)\n"
        "for n in range(300): os.write(1, r.randbytes(r.randrange(3000)))\n"
        "os.write(1, b'\\0' * 5000000 + b'\\xff\\n')\n"
    )
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(stdout=tmp_path / "teed"), code)
        run(pump, plan(stdout=tmp_path / "alone", tee=False), code)
        pump.close()
    screen.end()
    expected = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert (tmp_path / "teed").read_bytes() == expected
    assert (tmp_path / "alone").read_bytes() == expected


def test_a_return_at_the_end_of_an_update_does_not_uncover_the_prefix() -> None:
    with pipe_screen() as (screen, console):
        bar = lines_of(console, 0)
        bar.show(b"40%\r", 0.0)
        bar.tick(0.5)
        bar.show(b"50%\r", 0.6)
        bar.show(b"\n", 0.7)
    assert screen.end() == b"[0]:40%\r[0]:50%\r\n"


def test_a_line_without_end_is_split_and_memory_stays_bounded() -> None:
    with pipe_screen() as (screen, console):
        lines = lines_of(console, 0)
        total = 0
        while total < 5 * LINE_MAX_BYTES:
            lines.show(b"x" * 65536, 0.0)
            total += 65536
            assert len(lines._held) <= LINE_MAX_BYTES
            assert console.flush(DEADLINE_S)
        lines.finish()
        assert console.flush(DEADLINE_S)
    text = screen.end()
    assert text.count(b"x") == total
    assert max(map(len, text.split(b"\n"))) <= LINE_MAX_BYTES + 65536 + 4


# --- consoles that are slow, stuck or gone ---------------------------------------------------------------


def test_a_stuck_console_does_not_hold_up_a_worker_and_gets_all_later(tmp_path: Path) -> None:
    with pipe_screen(stuck=True) as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(stdout=tmp_path / "o"), "for i in range(100000): print('line number', i)")
        eventually(lambda: (tmp_path / "o").read_bytes().endswith(b"line number 99999\n"))
        screen.start()
        pump.close(DEADLINE_S)
        assert console.flush(DEADLINE_S)
        assert console.lost_bytes == 0
    lines = screen.end().splitlines()
    assert lines == [b"[default0]:line number %d" % i for i in range(100000)]


def test_a_console_that_stays_stuck_is_given_up_and_the_rest_is_in_the_file(tmp_path: Path) -> None:
    with pipe_screen(stuck=True) as (screen, console):
        pump = OutputPump(console)
        run(pump, plan(stdout=tmp_path / "o"), "for i in range(100000): print('line number', i)")
        began = time.monotonic()
        pump.close(30)
        assert time.monotonic() - began < 10
        screen.start()
        assert console.flush(DEADLINE_S)
    assert screen.end().endswith(b"(output not shown here is in %s)\n" % bytes(tmp_path / "o"))
    assert (tmp_path / "o").read_bytes().endswith(b"line number 99999\n")


def test_a_closed_console_costs_console_lines_only(tmp_path: Path) -> None:
    with pipe_screen(stuck=True) as (screen, console):
        os.close(screen.read_fd)
        pump = OutputPump(console)
        run(pump, plan(stdout=tmp_path / "o"), "for i in range(1000): print(i)")
        pump.close()
        assert console.lost_bytes > 1000
        assert pump.lost_bytes == 0
    os.close(screen.write_fd)
    assert len((tmp_path / "o").read_text().splitlines()) == 1000


def test_a_grandchild_that_holds_the_pipe_does_not_hold_up_close(tmp_path: Path) -> None:
    hold_r, hold_w = os.pipe()
    code = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin={hold_r})\n"
        "print('bye', flush=True)\n"
        "os._exit(0)\n"
    )
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        worker = start(pump, plan(stdout=tmp_path / "o"), code, stdin=subprocess.DEVNULL, pass_fds=(hold_r,))
        os.close(hold_r)
        assert worker.wait(DEADLINE_S) == 0
        began = time.monotonic()
        pump.close(10)
        assert time.monotonic() - began < 2
        os.close(hold_w)  # the grandchild ends
    assert screen.end() == b"[default0]:bye\n"


def test_close_without_a_start_and_twice_releases_everything(tmp_path: Path) -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        pump.open(plan(stdout=tmp_path / "o", stderr=tmp_path / "e"))
        pump.close()
        pump.close()
    assert screen.end() == b""


def test_idle_workers_cost_nothing(tmp_path: Path) -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console)
        worker = start(
            pump, plan(stdout=tmp_path / "o"), "import sys; sys.stdin.read()", stdin=subprocess.PIPE
        )
        before = time.process_time()
        select.select([], [], [], 0.5)
        assert time.process_time() - before < 0.1
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(DEADLINE_S) == 0
        pump.close()
    screen.end()


# --- terminals -------------------------------------------------------------------------------------------


def test_a_captured_worker_has_a_terminal_of_the_same_size() -> None:
    code = (
        "import os, sys\n"
        "print(sys.stdout.isatty(), sys.stderr.isatty(), os.get_terminal_size(1).columns)\n"
        "print('\\x1b[31mred\\x1b[0m', file=sys.stderr)\n"
        "print('tab\\tand\\rreturn')\n"
    )
    with tty_screen(columns=77) as (screen, console):
        pump = OutputPump(console, capture_console=True)
        run(pump, plan(), code)
        pump.close()
        text = screen.wait_for(b"return")
    screen.end()
    assert text == b"True True 77\n\x1b[31mred\x1b[0m\ntab\tand\rreturn\n"


def test_captured_lines_of_two_workers_do_not_mix() -> None:
    code = "import os\nfor i in range(300):\n os.write(1, b'%d-' % os.getpid()); os.write(1, b'%03d!\\n' % i)"
    with tty_screen() as (screen, console):
        pump = OutputPump(console, capture_console=True)
        workers = [start(pump, plan(rank), code) for rank in range(3)]
        assert [worker.wait(DEADLINE_S) for worker in workers] == [0] * 3
        pump.close(DEADLINE_S)
        assert console.flush(DEADLINE_S)
    lines = screen.end().splitlines()
    assert sorted(lines) == sorted(b"%d-%03d!" % (w.pid, i) for w in workers for i in range(300))


def test_a_prompt_of_the_only_worker_shows_at_once() -> None:
    with tty_screen() as (screen, console):
        pump = OutputPump(console, capture_console=True)
        worker = start(
            pump, plan(), "import os; os.write(1, b'name: '); os.read(0, 1)", stdin=subprocess.PIPE
        )
        screen.wait_for(b"name: ")
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait(DEADLINE_S)
        pump.close()
        console.write("err", b"agent\n")
        screen.wait_for(b"name: \nagent\n")
    screen.end()


def test_capture_leaves_consoles_that_are_no_terminal_alone() -> None:
    with pipe_screen() as (screen, console):
        pump = OutputPump(console, capture_console=True)
        streams = pump.open(plan())
        assert (streams.stdout, streams.stderr) == (None, None)
        pump.close()
    screen.end()


def test_the_status_line_is_erased_before_output_and_redrawn_at_line_starts_only() -> None:
    with tty_screen() as (screen, console):
        assert console.status_stream() == "err"
        console.set_status(b"STATUS")
        console.write("out", b"one\n")
        console.write("out", b"two", owner=screen)
        console.set_status(b"STATUS")
        console.write("out", b" more\n", owner=screen)
        console.write("out", b"x\n\x1b[0m")
        console.write("out", b"open", owner=screen)
        console.release("out", screen)
        console.set_status(b"STATUS")
    erase = b"\r\x1b[2K"
    assert screen.end() == (
        b"STATUS" + erase + b"one\nSTATUS" + erase + b"two" + b" more\nSTATUS"
        + erase + b"x\n\x1b[0mSTATUS" + erase + b"open\nSTATUS" + erase
    )  # fmt: skip


def test_a_pipe_beside_the_terminal_forbids_a_status_line() -> None:
    with tty_screen() as (screen, _):
        read_fd, write_fd = os.pipe()
        null_fd = os.open(os.devnull, os.O_WRONLY)
        for out_fd, expected in ((write_fd, None), (null_fd, "err"), (screen.write_fd, "err")):
            with Console(out_fd, screen.write_fd) as console:
                assert console.status_stream() == expected
        for fd in (read_fd, write_fd, null_fd):
            os.close(fd)
    screen.end()
