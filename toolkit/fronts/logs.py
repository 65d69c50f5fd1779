"""`rally logs`: what the workers wrote. stdout is their output and nothing else; notes are on stderr.

Of files on this machine, not over the network. The bytes of lines come out as they went in, unless stdout is a
terminal: there what could command it is left out, and a progress bar is what it showed last. A last line without an
end gets one.
"""

from __future__ import annotations

import argparse
import heapq
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO

from toolkit.adapters.recording.catalog import find_run, latest_run, starter_may_run
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.adapters.recording.log_lines import LogLines, modified_s, now_s, pause
from toolkit.adapters.recording.merged_logs import time_in
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.history import Timeline
from toolkit.core.timeline import fold_all
from toolkit.core.words import ranks as ranks_in_words
from toolkit.fronts.command_line.log_options import age_s
from toolkit.fronts.log_choice import Choice, ChosenLog, chosen_logs, parse_ranks
from toolkit.views.wording import visible, wants_colour

BAD_INPUT, UNREADABLE, INTERRUPTED = 2, 1, 130
#: between two looks at a run that is followed
LOOK_S = 0.2
#: events of one look
_EVENTS_MAX = 10_000
_COLOURS = (36, 33, 32, 35, 34, 31)
#: colours may stay; whatever else commands a terminal goes
_STYLES = re.compile(rb"\x1b\[[0-9;:]*m")
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")


def logs_command(
    argv: Sequence[str],
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    stdout: BinaryIO,
    stderr: TextIO,
) -> int:
    """Show what workers wrote.

    Args:
        argv: the words behind `rally logs`.
        state_dir: where runs are recorded.
        environ: NO_COLOR and TERM count.
        stdout: gets the workers' bytes.
        stderr: gets notes.

    Returns:
        0; 1 if a log could not be read; 2 for what can't be shown; 130 after Ctrl-C.
    """

    def note(text: str) -> None:
        print(visible(f"rally logs: {text}", stderr), file=stderr, flush=True)

    try:
        asked = _asked(argv)
        run = FollowedRun(find_run(state_dir, asked.run) if asked.run is not None else latest_run(state_dir))
        show = _Show(run, asked, _Page(stdout, environ), note)
        return show.follow() if asked.follow else show.once()
    except (ConfigurationError, RecordingError) as error:
        note(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


@dataclass(frozen=True, slots=True)
class _Asked:
    run: str | None
    choice: Choice
    follow: bool
    merge: bool
    tail: int | None
    since_s: float | None
    grep: re.Pattern[str] | None

    def wants(self, line: bytes) -> bool:
        return self.grep is None or bool(self.grep.search(line.decode("utf-8", "surrogateescape")))


# -- the command line ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; `rally logs --help` has the options")


def _asked(argv: Sequence[str]) -> _Asked:
    parser = _Parser(
        prog="rally logs",
        description="Show what the workers of a run wrote into files (--tee, --redirects).",
        epilog="--since and --merge go by the times in the lines: ISO 8601, Python's logging, glog, or HH:MM:SS; a "
        "line without one stays with the line before it. exit codes: 0 shown, 1 a log can't be read, 2 bad usage or "
        "nothing there, 130 Ctrl-C",
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run id or directory; default: the latest run"
    )
    parser.add_argument("--rank", metavar="RANKS", help="global ranks, such as 3 or 0,4-7; default: all")
    parser.add_argument("--local-rank", metavar="RANKS", help="the same for local ranks")
    parser.add_argument("--node", default="", metavar="NAME", help="only nodes whose name begins so")
    streams = parser.add_mutually_exclusive_group()
    streams.add_argument("--stdout", action="store_true", help="only stdout; default: both streams")
    streams.add_argument("--stderr", action="store_true", help="only stderr")
    starts = parser.add_mutually_exclusive_group()
    starts.add_argument("-p", "--previous", action="store_true", help="of the start before the latest")
    starts.add_argument("--incarnation", type=int, metavar="N", help="of start N; the first is 0")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the run ends, over its restarts"
    )
    parser.add_argument(
        "--merge", action="store_true", help="all in one, in the order of the times in the lines"
    )
    parser.add_argument("--tail", type=int, metavar="N", help="the last N lines of each log (merged: of all)")
    parser.add_argument("--since", metavar="WHEN", help="not older than 10m, or than 2026-03-01T12:00:00")
    parser.add_argument("--grep", metavar="RE", help="only lines in which this regular expression is found")
    values = parser.parse_args(list(argv))
    if values.tail is not None and values.tail < 0:
        raise ConfigurationError(f"--tail is {values.tail}; give 0 or more lines")
    if values.incarnation is not None and values.incarnation < 0:
        raise ConfigurationError(f"--incarnation is {values.incarnation}; the first start is 0")
    if values.follow and (values.previous or values.incarnation is not None):
        raise ConfigurationError("--follow shows what comes; leave --previous or --incarnation out")
    choice = Choice(
        parse_ranks(values.rank, "--rank"),
        parse_ranks(values.local_rank, "--local-rank"),
        values.node,
        ("stdout",) if values.stdout else ("stderr",) if values.stderr else ("stdout", "stderr"),
        values.incarnation,
        values.previous,
    )
    return _Asked(
        values.run, choice, values.follow, values.merge, values.tail, _since(values.since), _grep(values.grep)
    )


def _grep(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        at = f" at position {error.pos}" if error.pos is not None else ""
        raise ConfigurationError(
            f"--grep is {text!r}: {error.msg}{at}; give a regular expression of Python"
        ) from None


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return now_s() - age_s(text, "--since")
    except ConfigurationError:
        raise ConfigurationError(
            f"--since is {text!r}; give an age such as 90s, 10m, 2h or 1d, or a time such as 2026-03-01T12:00:00"
        ) from None


# -- what is written ----------------------------------------------------------------------------------------


class _Page:
    """stdout: the bytes as they are, or what a terminal may have of them."""

    def __init__(self, stdout: BinaryIO, environ: Mapping[str, str]) -> None:
        self._stdout = stdout
        self.is_tty = stdout.isatty()
        self._coloured = wants_colour(self.is_tty, environ)

    def prefix(self, log: ChosenLog, *, with_stream: bool) -> bytes:
        """What a line of this log begins with where several are mixed."""
        text = f"[rank {log.rank}{' err' if with_stream and log.stream == 'stderr' else ''}] "
        if not self._coloured:
            return text.encode()
        return f"\x1b[{_COLOURS[log.rank % len(_COLOURS)]}m{text}\x1b[0m".encode()

    def heading(self, log: ChosenLog, *, first: bool) -> None:
        """What stands above a log where several are shown one below the other, as tail and head have it."""
        text = f"==> rank {log.rank}, start {log.start}, {log.stream}: {log.path} <==".encode(
            "utf-8", "backslashreplace"
        )
        text = b"\x1b[1m" + text + b"\x1b[0m" if self._coloured else text
        self._stdout.write((b"" if first else b"\n") + text + b"\n")

    def line(self, line: bytes, prefix: bytes = b"") -> None:
        self._stdout.write(prefix + (self._for_terminal(line) if self.is_tty else line) + b"\n")

    def _for_terminal(self, line: bytes) -> bytes:
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        if b"\x1b" in shown:
            shown = _ESCAPES.sub(
                lambda found: found[0] if self._coloured and _STYLES.fullmatch(found[0]) else b"", shown
            )
            shown = shown.replace(b"\x1b", b"") if not self._coloured else shown + b"\x1b[0m"
        return _CONTROL.sub(b"", shown)

    def flush(self) -> None:
        self._stdout.flush()


class _Show:
    """One run's logs, as they were asked for."""

    def __init__(self, run: FollowedRun, asked: _Asked, page: _Page, note: Callable[[str], None]) -> None:
        self._run = run
        self._asked = asked
        self._page = page
        self._note = note
        self._timeline = Timeline()
        self._code = 0
        self._open: dict[ChosenLog, LogLines] = {}

    def once(self) -> int:
        """What there is now."""
        self._read_events()
        logs = self._readable(chosen_logs(self._timeline, self._run.path, self._asked.choice))
        if not logs:
            return self._code or BAD_INPUT
        if self._asked.merge:
            self._merged(logs)
        elif len(logs) == 1:
            for line in self._lines_of(logs[0]):
                self._page.line(line)
        else:
            self._one_below_the_other(logs)
        self._page.flush()
        return self._code

    def follow(self) -> int:
        """What there is now and what comes, until the run ends."""
        self._read_events()
        logs = chosen_logs(self._timeline, self._run.path, self._asked.choice)
        readable = self._readable(logs, quiet=not logs)
        if logs and not readable:
            return self._code or BAD_INPUT
        self._merged(readable)
        self._page.flush()
        while True:
            over = self._is_over()
            if self._look():
                self._page.flush()
            elif over:
                break
            else:
                pause(LOOK_S)
            self._read_events()
        for log in list(self._open):
            self._finish(log)
        self._page.flush()
        return self._code

    def _is_over(self) -> bool:
        if self._timeline.nodes:
            return bool(self._timeline.result) or self._run.is_live(self._timeline) is False
        return not starter_may_run(self._run.run)

    # --- what there is ---------------------------------------------------------------------------------------

    def _read_events(self) -> None:
        while events := self._run.read_new(_EVENTS_MAX):
            self._timeline = fold_all(events, self._timeline)

    def _readable(self, logs: list[ChosenLog], *, quiet: bool = False) -> list[ChosenLog]:
        """Those that are in files."""
        kept = [log for log in logs if log.path is not None]
        if not kept and not quiet:
            if logs:
                which = ranks_in_words(sorted({log.rank for log in logs}))
                self._note(
                    f"the output of {which} went to the console and is in no file; "
                    "`rally run --tee 3` or `--redirects 3` keeps it"
                )
            else:
                self._note(f"no worker of {self._run.name} has been started")
        return kept

    def _one_below_the_other(self, logs: list[ChosenLog]) -> None:
        first = True
        for log in logs:
            lines = self._lines_of(log)
            line = next(lines, None)
            if line is None:
                continue
            self._page.heading(log, first=first)
            first = False
            while line is not None:
                self._page.line(line)
                line = next(lines, None)

    def _merged(self, logs: list[ChosenLog]) -> None:
        timed = [self._timed(index, log) for index, log in enumerate(logs)]
        mixed: Iterable[tuple[float, int, bytes]] = heapq.merge(*timed, key=lambda line: line[0])
        if self._asked.tail is not None and len(logs) > 1:
            mixed = deque(mixed, self._asked.tail)
        for _, index, line in mixed:
            self._page.line(line, self._prefix(logs[index]))

    def _timed(self, index: int, log: ChosenLog) -> Iterator[tuple[float, int, bytes]]:
        """The lines with times that never go back: a line without one has that of the line before."""
        assert log.path is not None, "only logs in files are read"
        day, at = datetime.fromtimestamp(modified_s(log.path)), 0.0
        for line in self._lines_of(log):
            at = max(at, _time_of(line, day) or 0.0)
            yield at, index, line

    def _prefix(self, log: ChosenLog) -> bytes:
        if not self._several_ranks:
            return b""
        return self._page.prefix(log, with_stream=len(self._asked.choice.streams) > 1)

    @property
    def _several_ranks(self) -> bool:
        ranks = self._asked.choice.ranks
        return ranks is None or len(ranks) > 1

    def _lines_of(self, log: ChosenLog) -> Iterator[bytes]:
        """The lines of one log that are wanted, to its present end. Says what can't be read."""
        assert log.path is not None, "only logs in files are read"
        lines = self._open.setdefault(log, LogLines(log.path))
        try:
            yield from self._wanted(lines)
        except (RecordingError, OSError) as error:
            self._cannot_read(log, error)
        if lines.skipped:
            self._note(
                f"rank {log.rank}, {log.stream}: lines in its middle are not kept any more (--log-max-size)"
            )

    def _wanted(self, lines: LogLines) -> Iterator[bytes]:
        asked = self._asked
        if asked.tail is not None and asked.since_s is None:
            yield from lines.last(asked.tail, asked.wants, with_rest=not asked.follow)
            return
        found = self._since(lines, asked.since_s) if asked.since_s is not None else self._to_end(lines)
        wanted = filter(asked.wants, found)
        if asked.tail is None:
            yield from wanted
            return
        yield from deque(wanted, asked.tail)

    def _to_end(self, lines: LogLines) -> Iterator[bytes]:
        if not self._asked.follow:
            yield from lines.all()
            return
        while new := lines.read():
            yield from new

    def _since(self, lines: LogLines, since_s: float) -> Iterator[bytes]:
        written_s = modified_s(lines.path)
        day = datetime.fromtimestamp(written_s)

        def is_before(line: bytes) -> bool | None:
            at = _time_of(line, day)
            return None if at is None else at < since_s

        if not lines.go_back_to(is_before):
            if written_s < since_s:
                lines.last(0, self._asked.wants, with_rest=False)
                return
            self._note(f"{lines.path} has no times in its lines; all of it is shown")
            yield from self._to_end(lines)
            return
        shows = False
        for line in self._to_end(lines):
            before = is_before(line)
            shows = shows if before is None else not before
            if shows:
                yield line

    def _cannot_read(self, log: ChosenLog, error: Exception) -> None:
        self._code = UNREADABLE
        where = (
            "" if os.path.lexists(Path(str(log.path)).parent) else f"; it lies on the machine of {log.node}"
        )
        self._note(f"rank {log.rank}, {log.stream}: {error}{where}")

    # --- what comes ------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Show what has come; returns whether something has."""
        logs = [log for log in chosen_logs(self._timeline, self._run.path, self._asked.choice) if log.path]
        came = self._show_new(list(self._open))
        for log in logs:
            if log not in self._open:
                # What was before it is read to its end by now.
                for old in [
                    known for known in self._open if (known.rank, known.stream) == (log.rank, log.stream)
                ]:
                    self._finish(old)
                    self._note(
                        f"rank {log.rank} was started again, {log.stream} of start {log.start} follows"
                    )
                assert log.path is not None, "left out above"
                self._open[log] = LogLines(log.path)
                came = self._show_new([log]) or came
        return came

    def _finish(self, log: ChosenLog) -> None:
        lines = self._open.pop(log)
        if lines.rest and self._asked.wants(lines.rest):
            self._page.line(lines.rest, self._prefix(log))

    def _show_new(self, logs: list[ChosenLog]) -> bool:
        came = False
        for log in logs:
            prefix = self._prefix(log)
            try:
                while new := self._open[log].read():
                    came = True
                    for line in filter(self._asked.wants, new):
                        self._page.line(line, prefix)
            except RecordingError:
                continue  # not there yet, or renamed in this moment
        return came


def _time_of(line: bytes, day: datetime) -> float | None:
    return time_in(line[:200].decode("utf-8", "replace"), day)
