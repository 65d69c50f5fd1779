"""`toolkit.stop_requested()`: a worker that is told to end saves its work within the grace, and goes on from there."""

import signal
from pathlib import Path

import pytest

from toolkit.core.events import AgentFinished, FailureRecorded, WorkerExited, WorkersStopped

from .conftest import Python, Rally, Script
from .jobs import LONG_S, Job, alive

#: A training loop: one file is its checkpoint. It ends after 1,000,000 steps, which it never reaches.
TRAIN = """
    from toolkit import stop_requested, stop_seconds_left

    done = int(open("checkpoint").read()) if os.path.exists("checkpoint") else 0
    say("from", done, stop_seconds_left())
    for step in range(done, 1_000_000):
        time.sleep(0.001)
        if stop_requested():
            if os.environ["RANK"] == "0":
                with open("checkpoint", "w") as file:
                    file.write(str(step + 1))
            say("saved", step + 1, round(stop_seconds_left()))
            break
"""


def stopped(job: Job, sig: signal.Signals) -> list[int]:
    """Send the signal once it trains; returns the steps that were saved."""
    job.wait_for_lines("from", 2)
    job.signal(sig)
    assert job.wait() == 128 + sig, job.told()
    saved = [line.split() for line in job.lines if line.startswith("saved")]
    assert {left for *_, left in saved} <= {"20", "19", "18", "17"}, "the grace is that of the agent"
    return [int(step) for _, step, _ in saved]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sig: sig.name)
def test_a_worker_saves_its_work_and_the_next_run_goes_on_from_there(
    rally: Rally, script: Script, tmp_path: Path, sig: signal.Signals
) -> None:
    worker = script(TRAIN)
    words = ("--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "20", worker)
    job = rally(*words)
    assert len(stopped(job, sig)) == 2
    reached = int((tmp_path / "checkpoint").read_text())
    assert [event.result for event in job.events(AgentFinished)] == ["SIGNAL"]
    assert job.events(FailureRecorded) == [], "who stopped when it was told to has not failed"
    exits = [(end.exit_code, end.signal, end.stopped_by_agent) for end in job.events(WorkerExited)]
    assert exits == [(0, "", True)] * 2
    assert [event.killed for event in job.events(WorkersStopped)] == [[]]
    [node] = job.timeline().nodes.values()
    assert {rank.now.state for rank in node.ranks.values()} == {"stopped"}
    second = rally(*words)
    assert second.wait_for_lines("from", 2) == [f"from {reached} inf"] * 2
    stopped(second, sig)


def test_a_restart_goes_on_from_the_checkpoint(rally: Rally, script: Script, tmp_path: Path) -> None:
    """Rank 1 fails; rank 0, which is told to stop because of that, saves what it has."""
    worker = script(
        TRAIN
        + """
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and step == 50:
            sys.exit(3)
        """
    )
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", worker)
    lines = job.wait_for_lines("from", 4)
    reached = int((tmp_path / "checkpoint").read_text())
    assert lines[2:] == [f"from {reached} inf"] * 2
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()


def test_under_torchrun_too(python: Python, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    worker = script(TRAIN)
    job = python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", worker),
        env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "20"},
    )
    job.wait_for_lines("from", 2, LONG_S)
    job.signal(signal.SIGTERM)
    job.wait(LONG_S)
    assert [line.split()[2] for line in job.lines if line.startswith("saved")], job.told()
    assert int((tmp_path / "checkpoint").read_text()) > 0


def test_helpers_live_until_the_worker_has_ended(rally: Rally, script: Script) -> None:
    """torch's data loaders would raise an error in the midst of the checkpoint if one of them died."""
    worker = script("""
        import subprocess
        from toolkit import stop_requested

        stop_requested()
        helper = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        say("up", helper.pid)
        while not stop_requested():
            time.sleep(0.001)
        answer, _ = helper.communicate("saved")
        say(answer, "by its helper")
    """)
    job = rally("--standalone", worker)
    [up] = job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert job.lines[-1] == "saved by its helper"
    assert not alive(int(up.split()[1]))


def test_helpers_that_stay_behind_die_with_the_worker(rally: Rally, script: Script) -> None:
    worker = script("""
        import subprocess
        from toolkit import stop_requested

        stop_requested()
        say("up", subprocess.Popen(["/bin/sleep", "600"]).pid)
        while not stop_requested():
            time.sleep(0.001)
    """)
    job = rally("--standalone", worker)
    [up] = job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert not alive(int(up.split()[1]))


def test_who_asks_but_does_not_end_is_killed_when_the_grace_is_over(rally: Rally, script: Script) -> None:
    worker = script("""
        from toolkit import stop_requested

        say("up", stop_requested())
        wait_for("ever")
    """)
    job = rally("--standalone", "--shutdown-timeout", "1", worker)
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    assert [event.killed for event in job.events(WorkersStopped)] == [[0]]


def test_without_an_agent(python: Python, script: Script) -> None:
    """SIGTERM only: Ctrl-C stays what it is. A handler of the script's own is called as well."""
    job = python(
        script("""
            import math, signal
            from toolkit import stop_requested, stop_seconds_left

            signal.signal(signal.SIGTERM, lambda signum, frame: say("mine"))
            assert not stop_requested() and stop_seconds_left() == math.inf
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_requested() and 25 < stop_seconds_left() <= 30
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt:
                say("interrupted")
        """)
    )
    assert job.wait() == 0, job.told()
    assert job.lines == ["mine", "interrupted"]


def test_in_another_thread_it_says_what_to_do(python: Python, script: Script) -> None:
    job = python(
        script("""
            import threading
            from toolkit import stop_requested

            def ask():
                try:
                    stop_requested()
                except RuntimeError as error:
                    say(error)

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            stop_requested()
            thread = threading.Thread(target=lambda: say(stop_requested()))
            thread.start()
            thread.join()
        """)
    )
    assert job.wait() == 0, job.told()
    [refused, answer] = job.lines
    assert "call it once in the main thread" in refused
    assert answer == "False"


def test_it_loads_next_to_nothing(python: Python, script: Script) -> None:
    job = python(
        script("""
            before = set(sys.modules)
            from toolkit import stop_requested
            stop_requested()
            say(sorted(name for name in set(sys.modules) - before if name.startswith("toolkit")))
            say(sorted({"torch", "msgspec", "asyncio", "threading", "socket"} & set(sys.modules)))
        """)
    )
    assert job.wait() == 0, job.told()
    assert job.lines == [
        "['toolkit', 'toolkit.adapters', 'toolkit.adapters.stop_signals', 'toolkit.stop_request', "
        "'toolkit.surroundings']",
        "[]",
    ]


def test_who_does_not_ask_ends_at_once(rally: Rally, script: Script) -> None:
    job = rally("--standalone", script("import toolkit\nsay('up')\nsignal.pause()"))
    job.wait_for_lines("up")
    job.signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.told()
    [ended] = job.events(WorkerExited)
    assert ended.signal == "SIGTERM"
