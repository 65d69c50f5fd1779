"""A worker that can't be started takes those with it that were, and the message says which and why."""

import os
import resource
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.adapters.clock import SystemClock
from toolkit.adapters.loop_bell import LoopBell
from toolkit.adapters.processes.launcher import ProcessLauncher
from toolkit.core.errors import LaunchError
from toolkit.core.events import WorkersStarting, WorkerStarted
from toolkit.core.launch_plan import LaunchPlan, WorkerPlan
from toolkit.wiring import new_pump, standard_console

from .conftest import Python, Rally, Script
from .jobs import alive, children, until


def test_those_that_were_started_are_gone_when_the_third_cannot_be() -> None:
    environment: Mapping[str, str] = os.environ
    workers = [WorkerPlan(local_rank=rank, global_rank=rank, env={}, args=("600",)) for rank in range(4)]
    workers[2] = replace(workers[2], args=("no\0program takes this",))
    plan = LaunchPlan(role="trainer", incarnation=0, entrypoint="/bin/sleep", workers=tuple(workers))
    console, bell = standard_console(), LoopBell()
    before = children(os.getpid())
    try:
        with pytest.raises(
            LaunchError, match="local rank 2 can't be started: /bin/sleep: embedded null byte"
        ):
            ProcessLauncher(SystemClock(), environment, new_pump(console)).start(plan, bell)
        assert children(os.getpid()) == before
    finally:
        bell.close()
        console.close()


@pytest.mark.parametrize("failure", ["spawn", "given up"])
def test_what_those_had_started_is_gone_as_well(failure: str, tmp_path: Path) -> None:
    """The third worker can't be started, or the start is given up, when the first has left a daemon behind."""
    said = tmp_path / "pid"
    leave = f"setsid sh -c 'echo $$ > {said}.part; mv {said}.part {said}; exec sleep 600' & exec sleep 600"
    workers = [
        WorkerPlan(
            local_rank=rank, global_rank=rank, env={}, args=("-c", leave if rank == 0 else "sleep 600")
        )
        for rank in range(4)
    ]
    if failure == "spawn":
        workers[2] = replace(workers[2], args=("no\0program takes this",))
    plan = LaunchPlan(role="trainer", incarnation=0, entrypoint="/bin/sh", workers=tuple(workers))
    asked = []

    def give_up() -> bool:
        asked.append(True)
        if len(asked) == 3:
            until("the daemon of the first worker", said.exists)
        return len(asked) == 3 and failure == "given up"

    console, bell = standard_console(), LoopBell()
    environment: Mapping[str, str] = os.environ
    launcher = ProcessLauncher(SystemClock(), environment, new_pump(console))
    try:
        with pytest.raises(LaunchError):
            launcher.start(plan, bell, give_up)
        assert not alive(int(said.read_text()))
    finally:
        launcher.close()
        bell.close()
        console.close()


def test_that_limit_is_also_named_where_it_keeps_a_port_from_being_had(rally: Rally) -> None:
    def fewest_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (11, 11))

    job = rally("--standalone", "--no-python", "/bin/true", before_exec=fewest_descriptors)
    assert job.wait() == 1, job.told()
    assert "raise the limit of open files (ulimit -n)" in job.stderr
    assert "Traceback" not in job.stderr
    assert "ip_local_port_range" not in job.stderr


def test_the_limit_of_open_files_is_named(rally: Rally) -> None:
    """Forty workers with two pipes each under a limit of sixty-four descriptors: some start, one can't."""

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    job = rally(
        "--standalone",
        "--nproc-per-node",
        "40",
        "--max-restarts",
        "3",
        "--tee",
        "3",
        "--no-python",
        "/bin/sleep",
        "600",
        before_exec=few_descriptors,
    )
    assert job.wait() == 1, job.told()
    assert "rally: the workers can't be started: " in job.stderr
    assert "ulimit -n" in job.stderr
    assert "Traceback" not in job.stderr
    assert len(job.events(WorkersStarting)) == 1, "a start that failed is not tried again"
    timeline = job.timeline()
    assert (timeline.state, timeline.restarts_used) == ("error", 0)
    assert "LaunchError" in timeline.reason


def test_a_program_whose_interpreter_is_missing(rally: Rally, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    job = rally("--standalone", "--nproc-per-node", "2", "--no-python", program)
    assert job.wait() == 1, job.told()
    assert (
        f"the workers can't be started: local rank 0 can't be started: {program}: No such file" in job.stderr
    )
    assert job.events(WorkerStarted) == []
    assert job.timeline().state == "error"


def test_functions_that_were_started_are_gone_when_the_third_cannot_be(
    python: Python, script: Script
) -> None:
    driver = script(
        """
        from toolkit.core.errors import LaunchError

        class SentTwice:
            left = 2

            def __reduce__(self):
                if not SentTwice.left:
                    raise RuntimeError("sent twice already")
                SentTwice.left -= 1
                return str, ("sent",)

        def work(sent):
            signal.pause()

        if __name__ == "__main__":
            try:
                supervise(work, SentTwice(), workers=4)
            except LaunchError as error:
                say(error)
        """,
        agent=True,
    )
    job = python(driver)
    assert job.wait() == 0, job.told()
    [message] = job.lines
    assert message.startswith("local rank 2 can't be started: work or its arguments can't be sent")
    assert "RuntimeError: sent twice already" in message
    assert job.events(WorkerStarted) == []
