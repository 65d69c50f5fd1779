"""A job of this machine as an object: watched by a thread, told what to do, waited for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from io import StringIO
from pathlib import Path
from signal import Signals
from typing import Any, get_args

from toolkit.adapters.agent_process import AgentProcess
from toolkit.adapters.packed_function import LAUNCH_FOLDER, returned
from toolkit.adapters.recording.catalog import wall_clock_ns
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.adapters.recording.log_places import LastLines
from toolkit.adapters.recording.merged_logs import without_time
from toolkit.adapters.watch_thread import Ending, WatchThread, used_s
from toolkit.core.actions import Action, Outcome
from toolkit.core.errors import AgentGoneError, ConfigurationError, ControlError, JobFailedError
from toolkit.core.events import AnyEvent
from toolkit.core.history import JobState, Timeline
from toolkit.core.model import ProcessFailure, RunResult, WorkerState
from toolkit.core.words import ending, failing
from toolkit.fronts.notebook.logs import LogText, read_logs
from toolkit.fronts.notebook.watched import Watched, global_ranks, one_of
from toolkit.fronts.watching import RunController, read_all, simulated
from toolkit.views.failure_report import details
from toolkit.views.html import NOTHING_SAID, ROWS_MAX, Said
from toolkit.views.rows import RankRow
from toolkit.views.session import TAKEN_MAX, Session
from toolkit.views.wording import harmless_lines

#: how often what is new is read, in seconds: often, and how often at the least; and how many times as long as a look
#: took, in CPU time, there is none after one that has seen something, and after one that has not. So it is a tenth of
#: a core, and a hundredth for a silent job, however many ranks and views there are.
_LOOK_S, _LOOK_MAX_S, _REST, _REST_OF_SILENT = 0.1, 1.0, 10, 100
#: that a job may be in
_STATES = tuple(state for state in get_args(JobState) if state != "unknown")
#: in the launch folder of a run: what its agent wrote to its console
AGENT_LOG = "agent.log"
#: where the end of what an agent said to its console is shown
_SAID_LINES = 12


class _NotYet:
    """A source of events for a run whose directory its agent has yet to make."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run: FollowedRun | None = None

    @property
    def problem(self) -> str:
        return "" if self._run is None else self._run.problem

    def read_new(self, events_max: int) -> list[AnyEvent]:
        if self._run is None and (self._path / "run.json").exists():
            self._run = FollowedRun(self._path)
        return [] if self._run is None else self._run.read_new(events_max)

    def is_live(self, timeline: Timeline) -> bool | None:
        return None if self._run is None else self._run.is_live(timeline)


class Job(Watched):
    """A job. Made by `toolkit.launch` and `toolkit.attach`.

    It is watched from a thread of its own: nothing here needs a running event loop, and nothing stops it. An
    interrupt ends a wait, never the job.

    Args:
        path: its run directory.
        run_id: what it is called.
        process: its agent, if this process started it.
        returns: whether its workers run a function.
    """

    def __init__(
        self, path: Path, run_id: str, process: AgentProcess | None = None, *, returns: bool = False
    ) -> None:
        if process is None:
            run = FollowedRun(path)
            super().__init__(Session(run, simulated(run), wall_clock_ns), run_id)
        else:
            super().__init__(Session(_NotYet(path), "", wall_clock_ns), run_id)
        self.path = path
        self._process = process
        self._returns = returns or (path / LAUNCH_FOLDER / "call.pickle").exists()
        self._controller = RunController(path)
        self._last_lines = LastLines(path)
        self._ending = Ending(f"{run_id} is not watched any more and goes on; await it again, or stop() it")
        self._over = self._stop_asked = False
        if process is None:
            # What is recorded is known at once, and also whether that was all.
            read_all(self._session)
            self._look()
        self._thread = WatchThread(self._look, f"rally-job-{run_id}")

    # -- watching -------------------------------------------------------------------------------------------

    def _look(self) -> float | None:
        began_s, before = used_s(), len(self._session.film)
        with self._lock:
            gone = self._process is None or self._process.exit_code() is not None
            new = self._session.tick(0.0)
            self._over = over = gone and not new and self._is_over()
        self._tell_watchers(over)
        if over:
            self._watchers.clear()
            if self._process is not None:
                self._process.let_go()  # or each job keeps a descriptor open
            self._ending.comes()
            return None
        if len(self._session.film) - before >= TAKEN_MAX:
            return 0.0  # there is more
        took_s = used_s() - began_s
        return min(max(_LOOK_S, took_s * (_REST if new else _REST_OF_SILENT)), _LOOK_MAX_S)

    def _is_over(self) -> bool:
        return self._process is not None or self._session.mode != "LIVE"

    def subscribe(self, tell: Callable[..., None]) -> None:
        """See `Watched`; called in the watching thread, or here and once if it is over."""
        with self._lock:
            over = self._over
            if not over:
                super().subscribe(tell)
        if over:
            tell(True)

    @property
    def over(self) -> bool:
        """Whether it has ended, and all that it said is here."""
        return self._over

    @property
    def state(self) -> str:
        """What the job does, or how it ended."""
        known = self.now
        if self.over and not known.result and not self._session.simulated:
            return "stopped" if self._stop_asked else "error"
        return "starting" if known.state == "unknown" else known.state

    @property
    def mode(self) -> str:
        """LIVE while it runs; REPLAY for what was recorded; nothing for a job of this process that has ended."""
        return "" if self._process is not None and self.over else super().mode

    @property
    def exit_code(self) -> int | None:
        """Of its agent, as `rally run` has it; None while that runs, and of jobs that were not launched here."""
        return None if self._process is None else self._process.exit_code()

    @property
    def pid(self) -> int:
        """Of its agent, or 0."""
        return 0 if self._process is None else self._process.pid

    def wait(self, timeout: float | None = None, *, check: bool = False) -> RunResult | None:
        """Wait for its end in this thread. An interrupt ends the wait; the job goes on.

        Args:
            timeout: seconds; None waits as long as it takes.
            check: whether a job that failed is an error.

        Returns:
            How it ended, or None if it still runs.

        Raises:
            JobFailedError: with `check`, who failed first, and where.
        """
        try:
            if not self._ending.wait(timeout):
                return None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{self.name} is not watched any more and goes on; wait() watches it again, stop() ends it"
            ) from None
        if check:
            self.check()
        return self.result

    def until(self, condition: str | Callable[[], object], timeout: float = 60.0) -> None:
        """Wait until something is so: the job is in a state, or what a function returns is true.

        Args:
            condition: "running", "restarting", ...; or a function, such as `lambda: "loss" in job.logs(0)`.
            timeout: seconds.

        Raises:
            ConfigurationError: a job is never in such a state.
            TimeoutError: it has not come about in time.
            JobFailedError: the job has ended before.
        """
        if not callable(condition) and condition not in _STATES:
            raise ConfigurationError(f"a job is never {condition!r}; {one_of(condition, _STATES)}")
        holds = condition if callable(condition) else lambda: self.state == condition
        what = "what was waited for" if callable(condition) else f"the state {condition!r}"
        for _ in range(max(int(timeout / _LOOK_S), 1)):
            if holds():
                return
            if self._ending.wait(_LOOK_S):
                if holds():
                    return
                raise JobFailedError(f"{self.name} ended as {self.state} before {what} came about")
        raise TimeoutError(f"{what} has not come about within {timeout:g} s; {self.name} is {self.state}")

    def __await__(self) -> Generator[Any, None, RunResult]:
        yield from self._ending.__await__()
        result = self.result
        assert result is not None, "it has ended"
        return result

    # -- how it ended ---------------------------------------------------------------------------------------

    @property
    def result(self) -> RunResult | None:
        """How it ended: the state, what functions returned and who failed, by global rank. None while it runs."""
        if not self.over:
            return None
        timeline = self.now
        words = {"succeeded": WorkerState.SUCCEEDED, "stopped": WorkerState.STOPPED}
        state = words.get(self.state, WorkerState.FAILED)
        failed = {}
        if state == WorkerState.FAILED:
            for each in self.failures:
                if each.round == timeline.rounds:
                    failed[each.global_rank] = ProcessFailure(
                        each.local_rank,
                        each.pid,
                        each.exit_code or -_number(each.signal),
                        each.error_file,
                        message=each.message,
                        timestamp=each.at.wall_ns // 1_000_000_000,
                    )
        values = self._returned() if state == WorkerState.SUCCEEDED else {}
        return RunResult(state, values, failed)

    @property
    def returned(self) -> dict[int, Any]:
        """What the function returned, by global rank.

        Raises:
            JobFailedError: it has failed, or was stopped.
            ConfigurationError: it still runs.
        """
        if not self.over:
            raise ConfigurationError(f"{self.name} still runs; await it, or wait() for it")
        self.check()
        return self._returned()

    def _returned(self) -> dict[int, Any]:
        ranks = [row.now.global_rank for row in self._rows(None)]
        return returned(self.path, ranks) if self._returns else dict.fromkeys(ranks)

    def check(self) -> None:
        """Nothing, if it has succeeded or still runs.

        Raises:
            JobFailedError: who failed first, and where.
        """
        if not self.over or self.now.result == "SUCCEEDED":
            return
        raise JobFailedError(self._failed_in_words())

    def _failed_in_words(self) -> str:
        first = next((each for each in reversed(self.failures) if each.first), None)
        if first is None:
            said = "\n".join(self.notes())
            return f"{self.name} ended as {self.state}{': ' if said else ''}{said}"
        how, said = failing(first.exit_code, first.signal, first.message)
        trace = f"\n{first.traceback}" if first.traceback else ""
        words = f"{self.name} failed: rank {first.global_rank} {how}{f': {said}' if said else ''}"
        return harmless_lines("\n".join((words, *details(words, first.what, first.remedy))) + trace)

    def notes(self) -> Sequence[str]:
        """What stands below the head of its picture."""
        notes, known = list(super().notes()), self.now
        if self._stop_asked and self.over and not known.result:
            return [*notes, "stopped before its agent had begun"]
        code = self.exit_code
        if code is not None and self.over and not known.result:
            how = ending(code, _signal_name(-code)) if code < 0 else ending(code, "")
            notes.append(f"its agent {how} and did not say how the job ended")
        if self._process is not None and self.over and not len(self._session.film):
            notes = self._process.said().splitlines()[-_SAID_LINES:] or notes
        return notes

    def said(self) -> Said:
        """What workers have said last, of a job that is small enough to show it."""
        with self._lock:
            rows = self._rows(None)
            if len(rows) > ROWS_MAX:
                return NOTHING_SAID
            return {
                row.key: without_time(self._last_lines.of((row.now.stdout, row.now.stderr)))
                for row in rows
                if not row.last
            }

    def report(self) -> str:
        """What happened, in words: as `rally show` tells it."""
        from toolkit.fronts.show import show_command

        out, err = StringIO(), StringIO()
        show_command(str(self.path), as_json=False, state_dir=self.path.parent, stdout=out, stderr=err)
        return out.getvalue() + err.getvalue()

    # -- logs -----------------------------------------------------------------------------------------------

    def logs(
        self,
        rank: int | None = None,
        *,
        stream: str = "both",
        last: int | None = None,
        incarnation: int | None = None,
    ) -> LogText:
        """What workers wrote.

        Args:
            rank: global rank; None is all, merged by the times in their lines. Empty before the first worker runs.
            stream: "out", "err" or "both".
            last: so many lines from the end; None is all that is kept.
            incarnation: of the rank; None is the latest one.

        Raises:
            ConfigurationError: no such rank, stream or incarnation.
        """
        rows = self._rows(None)
        if rank is not None and (rows or self.over):
            rows = self._rows([rank])
        return read_logs(rows, self.now, self.path, stream=stream, last=last, incarnation=incarnation)

    def output(self) -> str:
        """The end of what its agent wrote to its console."""
        if self._process is not None:
            return self._process.said()
        path = self.path / LAUNCH_FOLDER / AGENT_LOG
        return path.read_text(errors="replace") if path.exists() else ""

    # -- what it is told ------------------------------------------------------------------------------------

    def kill(self, rank: int | Iterable[int], *, why: str = "") -> None:
        """SIGKILL to workers, by global rank; see `signal`."""
        self.signal("SIGKILL", rank, why=why)

    def signal(
        self,
        signal: str | int,
        rank: int | Iterable[int],
        *,
        why: str = "",
        incarnation: int | None = None,
    ) -> None:
        """A signal to workers and what they have started.

        Args:
            signal: "SIGUSR1", or its number.
            rank: global rank, or several.
            why: goes into the record.
            incarnation: that is meant; with another one nothing is done. None is the one that runs now.

        Raises:
            ConfigurationError: no such rank or signal.
            ControlError: the agent refuses, or can't be asked.
        """
        wanted, name = global_ranks(rank), _signal(signal)
        by_node: dict[str, list[RankRow]] = {}
        for row in self._rows(wanted):
            by_node.setdefault(row.key[0], []).append(row)
        for node, rows in by_node.items():
            local = tuple(row.key[1] for row in rows)
            meant = rows[0].now.number if incarnation is None else incarnation
            action = Action(action="signal", signal=name, local_ranks=local, incarnation=meant, why=why)
            self._tell(node, action)

    def restart(self, *, why: str = "") -> None:
        """Have all nodes stop their workers and start them anew; the budget is not spent."""
        self._tell(self._some_node(), Action(action="restart", why=why))

    def drain(self, node: str, *, why: str = "") -> None:
        """Have one node stop its workers and leave; the others go on.

        Raises:
            ConfigurationError: no such node.
        """
        if node not in self.now.nodes:
            raise ConfigurationError(
                f"there is no node {node!r}; there are {', '.join(self.now.nodes) or 'none yet'}"
            )
        self._tell(node, Action(action="drain", why=why))

    def stop(self, *, why: str = "") -> None:
        """End the job on all nodes: SIGTERM to the workers, SIGKILL after the grace. Returns at once.

        Doing it again, or when it ends just now, changes nothing.
        """
        if self.over:
            return
        asked_before, self._stop_asked = self._stop_asked, True
        try:
            self._tell(self._some_node(), Action(action="stop", why=why))
        except (ConfigurationError, AgentGoneError):
            if self._process is None:
                raise
            self._process.send(Signals.SIGTERM)  # it has not begun to listen
        except ControlError:
            if not asked_before:
                raise

    def _some_node(self) -> str:
        found = next((node.name for node in self.now.nodes.values() if not node.result), None)
        if found is None:
            if self.over:
                raise ConfigurationError(_is_over(self))
            raise ConfigurationError(f"no agent of {self.name} runs yet; until('running') waits for it")
        return found

    def _tell(self, node: str, action: Action) -> None:
        if self.over:
            raise AgentGoneError(_is_over(self))
        outcome: Outcome = self._controller.act(node, action)
        if outcome.outcome != "done":
            raise ControlError(f"{self.name} refuses: {outcome.detail}")
        self._thread.wake()

    # -- how it shows itself --------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.report() if len(self._session.film) else repr(self)

    def _ipython_display_(self) -> None:
        from toolkit.fronts.notebook.display import show

        show(self)


def _is_over(job: Job) -> str:
    return f"{job.name} is over ({job.state}): nothing of it can be told what to do; launch it again"


def _number(signal: str) -> int:
    return int(Signals[signal]) if signal in Signals.__members__ else 0


def _signal_name(number: int) -> str:
    return Signals(number).name if number in set(Signals) else f"signal {number}"


def _signal(given: str | int) -> str:
    try:
        return Signals(given).name if isinstance(given, int) and not isinstance(given, bool) else str(given)
    except ValueError:
        raise ConfigurationError(f"signal is {given!r}; give a name such as SIGKILL or SIGUSR1") from None
