"""A signal to the agent, whenever it comes and however often, ends it and all its workers within the grace."""

import os
import signal
import threading
from contextlib import suppress

import pytest

from toolkit.core.events import (
    AgentFinished,
    GraceShortened,
    SignalReceived,
    WorkersStarted,
    WorkersStarting,
    WorkersStopped,
    WorkersStopping,
)

from .conftest import Python, Rally, Script
from .jobs import Job, alive, until

DEATH_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]

#: ends as soon as it is told to
MEEK = """
    say("up", os.environ["RANK"])
    wait_for_signals()
"""
#: lets all death signals pass
STUBBORN = """
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(sig, signal.SIG_IGN)
    say("up", os.environ["RANK"])
    while True:
        signal.pause()
"""


def assert_stopped_by(job: Job, sig: signal.Signals) -> None:
    timeline = job.timeline()
    assert timeline.state == "stopped"
    assert timeline.reason == f"the agent got {sig.name}"
    assert [event.result for event in job.events(AgentFinished)] == ["SIGNAL"]
    assert f"stopped by {sig.name}" in job.stderr
    assert timeline.failures == {}, "workers that were told to stop have not failed"
    assert timeline.restarts_used == 0


@pytest.mark.parametrize("sig", DEATH_SIGNALS, ids=lambda sig: sig.name)
def test_one_signal_ends_everything_within_the_grace(
    rally: Rally, script: Script, sig: signal.Signals
) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", "3", script(MEEK))
    job.wait_for_lines("up", 2)
    job.signal(sig)
    assert job.wait(10) == 128 + sig, job.told()
    assert_stopped_by(job, sig)
    [stopping], [stopped] = job.events(WorkersStopping), job.events(WorkersStopped)
    assert (stopping.signal, stopping.grace_s) == (sig.name, 30.0)
    assert (stopped.killed, stopped.unkillable) == ([], [])
    [node] = job.timeline().nodes.values()
    assert {rank.now.state for rank in node.ranks.values()} == {"stopped"}
    assert [(seen.name, seen.count) for seen in node.signals] == [(sig.name, 1)]


def test_workers_that_do_not_listen_are_killed_when_the_grace_is_over(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "1", script(STUBBORN))
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGTERM)
    assert job.wait(10) == 128 + signal.SIGTERM, job.told()
    assert_stopped_by(job, signal.SIGTERM)
    [stopping], [stopped] = job.events(WorkersStopping), job.events(WorkersStopped)
    assert stopped.killed == [0, 1]
    assert 0.9 < (stopped.mono_ns - stopping.mono_ns) / 1e9 < 6
    assert "local ranks 0-1 did not end in time and got SIGKILL" in job.stderr


def test_the_grace_also_holds_when_a_worker_fails(rally: Rally, script: Script) -> None:
    worker = script(
        "if os.environ['RANK'] == '1':\n    wait_for('ready')\n    sys.exit(3)\n"
        + """\
for sig in (signal.SIGINT, signal.SIGTERM):
    signal.signal(sig, signal.SIG_IGN)
open('ready', 'w').close()
while True:
    signal.pause()
"""
    )
    job = rally("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "1", worker)
    assert job.wait(15) == 3, job.told()
    [stopped] = job.events(WorkersStopped)
    assert stopped.killed == [0]


def test_the_second_signal_shortens_the_grace_and_the_third_ends_it(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "600", script(STUBBORN))
    job.wait_for_lines("up", 2)
    job.signal(signal.SIGTERM)
    job.wait_for_events(WorkersStopping)
    job.signal(signal.SIGINT)
    job.signal(signal.SIGTERM)
    assert job.wait(15) == 128 + signal.SIGTERM, job.told()
    assert_stopped_by(job, signal.SIGTERM)
    [stopped] = job.events(WorkersStopped)
    assert stopped.killed == [0, 1]


def test_the_second_signal_leaves_five_seconds_of_a_long_grace(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--shutdown-timeout", "600", script(STUBBORN))
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    [stopping] = job.wait_for_events(WorkersStopping)
    job.signal(signal.SIGTERM)
    assert job.wait(20) == 128 + signal.SIGTERM, job.told()
    [stopped] = job.events(WorkersStopped)
    assert stopped.killed == [0]
    assert 4.9 < (stopped.mono_ns - stopping.mono_ns) / 1e9 < 10


def test_the_first_signal_is_told_at_once_also_while_workers_are_stopped_after_a_failure(
    rally: Rally, script: Script
) -> None:
    worker = script(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.environ["RANK"] == "0":
            open("deaf", "w").close()
            while True:
                time.sleep(60)
        while not os.path.exists("deaf"):
            time.sleep(0.01)
        sys.exit(3)
        """
    )
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--shutdown-timeout", "600", worker
    )
    job.wait_for_events(WorkersStopping)
    job.signal(signal.SIGTERM)
    [heard] = job.wait_for_events(GraceShortened)
    assert heard.signals == 1 and 500 < heard.left_s <= 600
    job.signal(signal.SIGTERM)
    job.wait_for_events(GraceShortened, 2)
    job.signal(signal.SIGTERM)
    assert job.wait(15) == 128 + signal.SIGTERM, job.told()
    assert "rally: asked to stop: SIGKILL in" in job.stderr


def test_ten_signals_never_break_the_clean_up_off(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "600", script(STUBBORN))
    job.wait_for_lines("up", 2)
    for sig in (DEATH_SIGNALS * 3)[:10]:
        job.signal(sig)
    code = job.wait(15)
    assert code - 128 in DEATH_SIGNALS, job.told()
    assert job.timeline().state == "stopped"
    assert "Traceback" not in job.stderr


def test_a_worker_s_children_die_with_it(rally: Rally, script: Script) -> None:
    """They are in its process group: also those that let SIGTERM pass, and those whose parent is gone already."""
    worker = script("""
        import subprocess
        child = ("import signal\\n"
                 "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
                 "print('child', flush=True)\\n"
                 "while True: signal.pause()")
        started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
        started.stdout.readline()
        say("up", started.pid)
        if os.environ["RANK"] == "1":
            wait_for("crash")
            os._exit(3)
        signal.pause()
    """)
    job = rally("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "20", worker)
    pids = [int(line.split()[1]) for line in job.wait_for_lines("up", 2)]
    assert all(alive(pid) for pid in pids)
    (job.run_dir.parent / "crash").touch()
    assert job.wait(15) == 3, job.told()
    until("the end of the workers' children", lambda: not any(alive(pid) for pid in pids), 2)


@pytest.mark.parametrize("start_method", ["spawn", "fork", "forkserver"])
def test_a_function_s_children_die_with_it(python: Python, script: Script, start_method: str) -> None:
    driver = script(
        f"""
        import subprocess

        def work():
            child = subprocess.Popen(["/bin/sleep", "600"])
            say("up", child.pid)
            if os.environ["RANK"] == "1":
                wait_for("crash")
                os._exit(3)
            signal.pause()

        if __name__ == "__main__":
            assert supervise(work, start_method={start_method!r}).failures[1].exitcode == 3
        """,
        agent=True,
    )
    job = python(driver)
    pids = [int(line.split()[1]) for line in job.wait_for_lines("up", 2)]
    (job.run_dir.parent / "crash").touch()
    assert job.wait(15) == 0, job.told()
    until("the end of the workers' children", lambda: not any(alive(pid) for pid in pids), 2)


def test_an_ignored_hangup_stays_ignored(rally: Rally, script: Script) -> None:
    """What nohup does: neither the agent nor its workers end with the terminal."""
    worker = script("""
        say("up")
        wait_for("go on")
        sys.exit(5 if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else 0)
    """)

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    job = rally("--standalone", worker, before_exec=nohup)
    job.wait_for_lines("up")
    job.signal(signal.SIGHUP)
    (job.run_dir.parent / "go on").touch()
    assert job.wait() == 0, job.told()
    [node] = job.timeline().nodes.values()
    assert node.signals == ()


@pytest.mark.parametrize("moment", range(9))
def test_a_signal_at_any_moment_of_the_start_leaves_nothing(
    rally: Rally, script: Script, moment: int
) -> None:
    """Each moment is one more step of what the agent does: files it makes, events it tells."""
    job = rally("--standalone", "--nproc-per-node", "2", script(MEEK))
    until(f"{moment} events", lambda: _events_told(job) >= moment or job.ended())
    job.signal(signal.SIGTERM)
    assert job.wait(10) in (-signal.SIGTERM, 128 + signal.SIGTERM), job.told()
    assert "Traceback" not in job.stderr


def _events_told(job: Job) -> int:
    return sum(path.read_bytes().count(b"\n") for path in job.run_dir.glob("events-*.jsonl"))


def test_a_signal_during_a_restart_ends_the_restart(rally: Rally, script: Script) -> None:
    worker = script("""
        if os.environ["RANK"] == "1":
            wait_for("ready")
            sys.exit(3)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("ready", "w").close()
        while True:
            signal.pause()
    """)
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "--shutdown-timeout", "600", worker
    )
    job.wait_for_events(WorkersStopping)
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # of one kind they would count as one
        job.signal(sig)
    assert job.wait(15) - 128 in DEATH_SIGNALS, job.told()
    assert job.timeline().state == "stopped"
    assert len(job.events(WorkersStarting)) == len(job.events(WorkersStarted)) == 1
    assert len(job.events(SignalReceived)) == 1


def test_handlers_of_before_are_back_after_the_run(python: Python, script: Script) -> None:
    driver = script(
        """
        def mine(signum, frame):
            say("mine")

        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        for sig in signals:
            signal.signal(sig, mine)
        supervise("/bin/true")
        assert all(signal.getsignal(sig) is mine for sig in signals)
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        agent=True,
    )
    job = python(driver)
    assert job.wait() == 0, job.told()
    assert job.lines == ["mine"]


def test_a_burst_of_signals_raises_once(python: Python, script: Script) -> None:
    """Two that arrive together end a wait in foreign code; the clean-up after that is left in peace."""
    program = script("""
        from toolkit.adapters.interrupts import SignalInterrupts
        from toolkit.adapters.loop_bell import LoopBell
        from toolkit.core.errors import SignalException

        pair = {signal.SIGINT, signal.SIGTERM}
        interrupts, bell = SignalInterrupts(os.getpid()), LoopBell()
        with interrupts.handling(bell):
            try:
                with interrupts.interruptible():
                    signal.pthread_sigmask(signal.SIG_BLOCK, pair)
                    for sig in pair:
                        os.kill(os.getpid(), sig)
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, pair)
                    time.sleep(60)
            except SignalException as error:
                os.kill(os.getpid(), signal.SIGHUP)
                say("cleaned up after", error.sigval.name, "of", interrupts.count())
        bell.close()
    """)
    job = python(program)
    assert job.wait() == 0, job.told()
    assert job.lines == ["cleaned up after SIGINT of 3"]


def test_foreign_code_cannot_swallow_a_signal(python: Python, script: Script) -> None:
    program = script("""
        from toolkit.adapters.interrupts import SignalInterrupts
        from toolkit.adapters.loop_bell import LoopBell
        from toolkit.core.errors import SignalException

        interrupts, bell = SignalInterrupts(os.getpid()), LoopBell()
        with interrupts.handling(bell):
            try:
                with interrupts.interruptible():
                    try:
                        os.kill(os.getpid(), signal.SIGTERM)
                        time.sleep(60)
                    except Exception:
                        pass
            except SignalException as error:
                say(error.sigval.name)
        bell.close()
    """)
    job = python(program)
    assert job.wait() == 0, job.told()
    assert job.lines == ["SIGTERM"]


@pytest.mark.parametrize(("start_method", "restarts"), [("spawn", 2), ("fork", 15), ("forkserver", 2)])
def test_a_function_that_is_stopped_in_its_first_moment(
    python: Python, script: Script, start_method: str, restarts: int
) -> None:
    """Before it has taken off the agent's handlers, which would keep the signal to themselves."""
    driver = script(
        f"""
        def work():
            if os.environ["RANK"] == "0":
                os._exit(3)
            signal.pause()

        if __name__ == "__main__":
            result = supervise(work, workers=3, restarts={restarts}, start_method={start_method!r})
            assert result.failures[0].exitcode == 3
        """,
        agent=True,
    )
    job = python(driver)
    assert job.wait(25) == 0, job.told()
    assert [event.killed for event in job.events(WorkersStopped)] == [[]] * (restarts + 1)


def test_a_signal_ends_the_wait_for_a_slow_console(rally: Rally, script: Script) -> None:
    """The run is over, and has succeeded; its output still waits for somebody who reads."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    done = threading.Event()

    def read_slowly() -> None:
        while not done.wait(0.1):
            with suppress(BlockingIOError):
                os.read(reader, 2000)  # all of it would take a minute

    reading = threading.Thread(target=read_slowly)
    reading.start()
    try:
        worker = script("for _ in range(200):\n    print('x' * 5000)")
        job = rally("--standalone", "--tee", "3", worker, before_exec=lambda: os.dup2(writer, 1))
        job.wait_for_events(AgentFinished)
        job.signal(signal.SIGTERM)
        assert job.wait(10) == 0, job.told()
    finally:
        done.set()
        reading.join()
        os.close(reader)
        os.close(writer)


def test_a_signal_in_the_middle_of_a_long_start_ends_it(rally: Rally, script: Script) -> None:
    """Starting hundreds of workers takes seconds; a signal counts between any two of them."""
    job = rally("--standalone", "--nproc-per-node", "600", script("wait_for('for ever')"))
    job.wait_for_events(WorkersStarting)
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM
    assert not job.events(WorkersStarted), "the signal came too late to test anything"
