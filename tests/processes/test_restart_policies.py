"""`--restart-policy` with real workers: what it says is what happens, and is on the screen and in the recording."""

from __future__ import annotations

import json
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from toolkit.core.actions import Action
from toolkit.core.events import AgentFinished, DecisionMade, WorkersStarting, WorkersStopped

from .conftest import Meet, Rally, Script
from .jobs import LONG_S, RALLY, Job, Up, clean_environment, until
from .test_bad_input import assert_refused
from .test_control import client_of, kill

#: ends as END_<how many starts there were before>, or as END says
WORKER = """
    starts = len(os.listdir("starts"))
    open(f"starts/{starts}", "w").close()
    say("up", starts)
    end = os.environ.get(f"END_{starts}") or os.environ["END"]
    if end == "wait":
        signal.pause()
    if end.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[end])
    sys.exit(int(end))
"""


@pytest.fixture
def worker(script: Script, tmp_path: Path) -> Path:
    (tmp_path / "starts").mkdir()
    return script(WORKER)


def starts(job: Job) -> int:
    return sum(line.startswith("up") for line in job.lines)


def made(job: Job, action: str = "restart") -> list[DecisionMade]:
    return [decision for decision in job.events(DecisionMade) if decision.action == action]


def test_a_crash_loop_ends_with_its_reason(rally: Rally, worker: Path) -> None:
    policy = ("--restart-policy", "crash-loop=3", "--max-restarts", "99")
    job = rally("--standalone", *policy, worker, env={"END": "7"})
    assert job.wait() == 7, job.told()
    assert starts(job) == 3
    why = "crash loop: 3 failures in a row with the same cause (exit code 7)"
    assert f"giving up: a worker failed; {why}" in job.stderr
    [fail] = made(job, "fail")
    assert why in fail.reason
    assert fail.policy == "crash-loop=3"
    shown = subprocess.run(
        [*RALLY, "show", str(job.run_dir)],
        env=clean_environment(job.run_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert why in " ".join(shown.stdout.split())


@pytest.mark.parametrize(("each", "count", "why"), [(100, 5, "used up"), (0, 3, "at about step 500")])
def test_where_workers_tell_their_steps_a_loop_is_at_the_same_step(
    rally: Rally, script: Script, tmp_path: Path, each: int, count: int, why: str
) -> None:
    (tmp_path / "starts").mkdir()
    tells = f"""
        import toolkit

        toolkit.progress(500 + {each} * len(os.listdir("starts")))
    """
    worker = script(textwrap.dedent(tells) + textwrap.dedent(WORKER))
    policy = ("--restart-policy", "crash-loop=3", "--max-restarts", "4")
    job = rally("--standalone", *policy, worker, env={"END": "7"})
    assert job.wait() == 7, job.told()
    assert starts(job) == count
    assert why in job.stderr


@pytest.mark.parametrize(
    ("end", "codes", "exit_code"), [("78", "2/78", 78), ("SIGSEGV", "SEGV", 128 + signal.SIGSEGV)]
)
def test_an_exit_code_that_forbids_a_restart_ends_at_once(
    rally: Rally, worker: Path, end: str, codes: str, exit_code: int
) -> None:
    policy = ("--restart-policy", f"never-on={codes}", "--max-restarts", "9")
    job = rally("--standalone", *policy, worker, env={"END": end, "END_0": "1"})
    assert job.wait() == exit_code, job.told()
    assert starts(job) == 2, "another code is another thing"
    assert "forbids a restart" in job.stderr


def test_never_is_never(rally: Rally, worker: Path) -> None:
    job = rally("--standalone", "--restart-policy", "never", "--max-restarts", "9", worker, env={"END": "5"})
    assert job.wait() == 5
    assert starts(job) == 1
    assert "the restart policy is never" in job.stderr


def test_what_asks_for_a_restart_gets_it_without_a_budget(rally: Rally, worker: Path) -> None:
    ends = {"END_0": "75", "END_1": "SIGUSR1", "END": "0"}
    job = rally("--standalone", "--restart-policy", "free-on=75/SIGUSR1", worker, env=ends)
    assert job.wait() == 0, job.told()
    assert starts(job) == 3
    assert [(d.free, d.spends_budget) for d in made(job)] == [(True, False), (True, False)]
    assert "restarting the worker (exit code 75 asks for a restart, which is free)" in job.stderr
    assert "restarting the worker (SIGUSR1 asks for a restart, which is free)" in job.stderr
    assert job.timeline().restarts_free == 2
    shown = subprocess.run(
        [*RALLY, "show", str(job.run_dir), "--json"],
        env=clean_environment(job.run_dir),
        capture_output=True,
        check=True,
    )
    told = json.loads(shown.stdout)["restarts"]
    assert (told["used"], told["free"], told["membership"]) == (0, 2, 0)
    assert [each["kind"] for each in told["each"]] == ["failure", "failure"]


def test_a_back_off_is_waited_out_without_workers(rally: Rally, worker: Path) -> None:
    policy = ("--restart-policy", "backoff=200ms..300ms", "--max-restarts", "9")
    job = rally("--standalone", *policy, worker, env={"END_0": "1", "END_1": "1", "END_2": "1", "END": "0"})
    assert job.wait() == 0, job.told()
    assert [decision.delay_s for decision in made(job)] == [0.2, 0.3, 0.3]
    stopped, started = job.events(WorkersStopped), job.events(WorkersStarting)[1:]
    for stop, start, decision in zip(stopped, started, made(job), strict=False):
        assert start.mono_ns - stop.mono_ns >= decision.delay_s * 1e9
    assert "restarting the worker (restart 2 of 9, back-off 0.3 s)" in job.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_back_off_at_once(rally: Rally, worker: Path, signum: signal.Signals) -> None:
    policy = ("--restart-policy", "backoff=10m..10m", "--max-restarts", "9")
    job = rally("--standalone", *policy, worker, env={"END": "1"})
    job.wait_for_events(WorkersStopped)
    job.signal(signum)
    assert job.wait() == 128 + signum, job.told()
    assert starts(job) == 1


def test_an_order_to_restart_ends_a_back_off(rally: Rally, worker: Path) -> None:
    policy = ("--restart-policy", "backoff=10m..10m", "--max-restarts", "9")
    job = rally("--standalone", *policy, worker, env={"END_0": "1", "END": "0"})
    job.wait_for_events(WorkersStopped)
    assert client_of(job).act(Action(action="restart", by="ada")).outcome == "done"
    assert job.wait() == 0, job.told()
    assert starts(job) == 2
    assert [decision.spends_budget for decision in made(job)] == [True], "it is the same restart, sooner"


def test_a_window_gives_restarts_back(rally: Rally, worker: Path) -> None:
    """One restart in a short window: the second start fails only after the first restart is old."""
    policy = ("--restart-policy", "window=300ms", "--max-restarts", "1")
    job = rally("--standalone", *policy, worker, env={"END_0": "1", "END_1": "wait", "END": "0"})
    job.wait_for_lines("up 1")
    [first] = job.wait_for_events(DecisionMade)
    until("the window to pass", lambda: time.monotonic_ns() > first.mono_ns + 400_000_000)
    assert client_of(job).act(kill(0, 1)).outcome == "done"
    assert job.wait() == 0, job.told()
    assert [decision.reason for decision in made(job)] == ["a worker failed; restart 1 of 1 within 0.3 s"] * 2
    assert job.timeline().restarts_used == 2


def test_a_long_window_is_used_up(rally: Rally, worker: Path) -> None:
    policy = ("--restart-policy", "window=1h", "--max-restarts", "1")
    job = rally("--standalone", *policy, worker, env={"END": "1"})
    assert job.wait() == 1
    assert starts(job) == 2
    assert "the only restart is used up within 3600 s" in job.stderr


# -- of one's own ---------------------------------------------------------------------------------------------

OWN = """
from toolkit import RestartVerdict


class Patient:
    def judge(self, cause, past, *, remaining, restarts_max, now_ns, draw):
        if len(past) == 2:
            return RestartVerdict(False, f"two are enough after {cause.key}")
        return RestartVerdict(True, f"once more, for the {len(past) + 1}. time", 0.01, free=True)


class Broken:
    def judge(self, cause, past, *, remaining, restarts_max, now_ns, draw):
        return 1 / 0
"""


def test_a_policy_of_ones_own_from_a_file(rally: Rally, worker: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    job = rally("--standalone", "--restart-policy", "mine.py:Patient", worker, env={"END": "7"})
    assert job.wait() == 7, job.told()
    assert starts(job) == 3
    assert "restarting the worker in 0.0 s (once more, for the 2. time)" in job.stderr
    assert "giving up: a worker failed; two are enough after exit code 7" in job.stderr
    assert {decision.policy for decision in job.events(DecisionMade)} == {"mine.py:Patient"}


def test_a_policy_of_ones_own_from_a_module(rally: Rally, worker: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    job = rally("--standalone", "--restart-policy", "mine:Patient", worker, env={"END": "7"})
    assert job.wait() == 7, job.told()
    assert starts(job) == 3


def test_of_a_policy_that_raises_the_plain_budget_decides(rally: Rally, worker: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    policy = ("--restart-policy", "mine.py:Broken", "--max-restarts", "1")
    job = rally("--standalone", *policy, worker, env={"END": "7"})
    assert job.wait() == 7, job.told()
    assert starts(job) == 2
    problem = "raised ZeroDivisionError: division by zero"
    said = f"the restart policy mine.py:Broken {problem}, so that the plain budget decides"
    assert f"restarting the worker ({said}: restart 1 of 1)" in job.stderr
    assert f"giving up: a worker failed; {said}: the only restart is used up" in job.stderr


# -- what can't be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bakoff", ["'bakoff' is not known", "did you mean backoff?"]),
        ("windw=1h", ["'windw' is not known", "did you mean window?"]),
        ("window=soon", ["window is 'soon'", "window=1h"]),
        ("never-on=SIGSEGW", ["'SIGSEGW' is neither", "SIGSEGV"]),
        ("never,window=1h", ["'never,window=1h'", "leave one of them out"]),
        ("", ["is empty", "words are budget"]),
        ("nowhere.py:Mine", ["'nowhere.py:Mine'", "there is no file"]),
        ("no_such_module_at_all:Mine", ["there is no module no_such_module_at_all"]),
        ("mine.py:Patiemt", ["has no Patiemt", "did you mean Patient?"]),
        ("mine.py:RestartVerdict", ["'mine.py:RestartVerdict'", "judge"]),
    ],
)
def test_a_policy_that_can_not_be_is_refused(
    rally: Rally, script: Script, tmp_path: Path, spec: str, words: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    worker = script("open('started', 'w').close()")
    assert_refused(rally("--standalone", "--restart-policy", spec, worker), "--restart-policy", *words)


# -- several nodes --------------------------------------------------------------------------------------------

TOGETHER = (
    Up.SCRIPT
    + """
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        sys.exit(3)
    if os.environ["RANK"] == "1" and sys.argv[1:]:
        sys.exit(int(sys.argv[1]))
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" or sys.argv[1:]:
        signal.pause()
"""
)


@pytest.mark.torch
def test_an_order_to_one_node_ends_the_back_off_of_all(meet: Meet, script: Script) -> None:
    worker = script(TOGETHER)
    nodes = meet("2", "--max-restarts", "3", "--restart-policy", "backoff=10m..10m")
    jobs = [nodes.start(worker), nodes.start(worker)]
    nodes.until("both wait", lambda: len(nodes.events(WorkersStopped)) >= 2)
    assert client_of(jobs[0]).act(Action(action="restart", by="ada")).outcome == "done"
    nodes.assert_all_end_with(0)
    assert {decision.delay_s for decision in nodes.events(DecisionMade) if decision.action == "restart"} == {
        600
    }


@pytest.mark.torch
def test_a_policy_that_forbids_ends_all_nodes_with_its_reason(meet: Meet, script: Script) -> None:
    worker = script(TOGETHER)
    nodes = meet("2", "--max-restarts", "3", "--restart-policy", "never-on=78")
    jobs = nodes.start_several(2, worker, "78")
    assert {job.wait(LONG_S) for job in jobs} == {78}, nodes.told()
    assert all("exit code 78 forbids a restart" in job.stderr for job in jobs), nodes.told()
    assert all("exit code 78" in end.reason for end in nodes.events(AgentFinished))
