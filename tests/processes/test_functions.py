"""Python functions as workers: what they return comes back by rank, and how they fail is told in words."""

import pytest

from toolkit.core.events import FailureRecorded, WorkerStarted

from .conftest import Python, Script
from .jobs import Job, alive

START_METHODS = ["spawn", "fork", "forkserver"]


def driven(python: Python, script: Script, text: str, code: int = 0) -> Job:
    """Run a program that supervises functions to its end."""
    job = python(script(text, "driver.py", agent=True))
    assert job.wait() == code, job.told()
    return job


def the_failure(job: Job) -> FailureRecorded:
    failures = job.events(FailureRecorded)
    assert [failure.first for failure in failures] == [True] + [False] * (len(failures) - 1)
    return failures[0]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_return_values_come_back_by_rank(python: Python, script: Script, start_method: str) -> None:
    job = driven(
        python,
        script,
        f"""
        def work(base, tag):
            return base + int(os.environ["RANK"]), tag, os.environ["WORLD_SIZE"]

        if __name__ == "__main__":
            result = supervise(work, 10, "local rank ${{local_rank}}", workers=3, start_method={start_method!r})
            assert result.state == "SUCCEEDED", result
            assert result.failures == {{}}
            say(result.return_values)
        """,
    )
    assert job.lines == [
        "{0: (10, 'local rank 0', '3'), 1: (11, 'local rank 1', '3'), 2: (12, 'local rank 2', '3')}"
    ]
    assert job.timeline().state == "succeeded"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_exception_is_told_with_its_traceback(python: Python, script: Script, start_method: str) -> None:
    job = driven(
        python,
        script,
        f"""
        def lose(shape):
            raise ValueError(f"bad shape {{shape}}")

        def work():
            if os.environ["RANK"] == "1":
                lose((2, 3))
            signal.pause()

        if __name__ == "__main__":
            result = supervise(work, start_method={start_method!r})
            assert result.is_failed(), result
            [(rank, failure)] = result.failures.items()
            assert (rank, failure.exitcode) == (1, 1), result
            say(failure.message["message"])
        """,
    )
    assert job.lines == ["ValueError: bad shape (2, 3)"]
    failure = the_failure(job)
    assert (failure.global_rank, failure.exit_code, failure.message) == (1, 1, "ValueError: bad shape (2, 3)")
    assert "in lose" in failure.traceback
    assert failure.traceback.rstrip().endswith("ValueError: bad shape (2, 3)")
    assert job.timeline().state == "failed"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_leaving_by_os_exit_0_is_a_failure(python: Python, script: Script, start_method: str) -> None:
    job = driven(
        python,
        script,
        f"""
        def work():
            if os.environ["RANK"] == "1":
                os._exit(0)
            return "returned"

        if __name__ == "__main__":
            result = supervise(work, start_method={start_method!r})
            assert result.is_failed(), result
            [(rank, failure)] = result.failures.items()
            assert (rank, failure.exitcode) == (1, 0)
            say(failure.message)
        """,
    )
    [message] = job.lines
    assert message.startswith("work ended its process with exit code 0 before it returned")
    failure = the_failure(job)
    assert (failure.exit_code, failure.message) == (0, message)
    assert job.timeline().state == "failed"


def test_leaving_by_os_exit_0_spends_a_restart(python: Python, script: Script) -> None:
    job = driven(
        python,
        script,
        """
        def work():
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os._exit(0)
            return os.environ["RANK"]

        if __name__ == "__main__":
            say(supervise(work, restarts=1, start_method="fork").return_values)
        """,
    )
    assert job.lines == ["{0: '0', 1: '1'}"]
    assert job.timeline().restarts_used == 1


def test_what_an_earlier_run_left_in_the_same_folder_is_nobodys_error(python: Python, script: Script) -> None:
    """Neither its error file, of who fails or is stopped, nor the end of its stderr; and both stay."""
    job = driven(
        python,
        script,
        """
        def work(how):
            if how == "silently":
                os._exit(7) if os.environ["RANK"] == "1" else signal.pause()
            if os.environ["RANK"] == "1":
                raise ValueError(how)
            signal.pause()

        def run(how):
            logs = LogLayout(str(Path(os.environ["RUN_DIR"]) / "logs"), redirects=3)
            spec = WorkerSpec("trainer", 2, SoloRendezvous("driven"), entrypoint=work, args=(how,))
            failures = LocalElasticAgent(spec, logs, "fork").run().failures
            said = [failure.message for failure in failures.values()]
            say(*failures, *(one["message"] if isinstance(one, dict) else one for one in said))

        if __name__ == "__main__":
            for how in ("once", "twice", "silently"):
                run(how)
        """,
    )
    assert job.lines == ["1 ValueError: once", "1 ValueError: twice", "1 exited with code 7"]
    folder = job.run_dir / "logs/attempt_0/1"
    assert [path.name for path in sorted(folder.glob("error.json*"))] == ["error.json.1", "error.json.2"]
    assert "ValueError: once" in (folder / "error.json.1").read_text()
    said = (folder / "stderr.log").read_text()
    assert said.count("ValueError: once\n") == said.count("ValueError: twice\n") == 1


def test_sys_exit_counts_as_for_a_script(python: Python, script: Script) -> None:
    job = driven(
        python,
        script,
        """
        def work(code):
            sys.exit(code)

        if __name__ == "__main__":
            well = supervise(work, None, start_method="fork")
            assert well.return_values == {0: None, 1: None}, well
            badly = supervise(work, 4, workers=1, start_method="fork")
            assert badly.failures[0].exitcode == 4, badly
        """,
    )
    assert len(job.events(WorkerStarted)) == 3


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_function_that_cannot_be_sent_starts_nothing(
    python: Python, script: Script, start_method: str
) -> None:
    job = driven(
        python,
        script,
        f"""
        from toolkit.core.errors import LaunchError

        if __name__ == "__main__":
            try:
                supervise(lambda: 1, start_method={start_method!r})
            except LaunchError as error:
                say(error)
        """,
    )
    [message] = job.lines
    assert message.startswith("local rank 0 can't be started: <lambda> or its arguments can't be sent")
    assert "top level of an importable module" in message
    assert job.events(WorkerStarted) == []
    assert job.timeline().state == "error"
    assert message in job.timeline().reason


def test_a_return_value_that_cannot_be_sent_is_a_failure(python: Python, script: Script) -> None:
    job = driven(
        python,
        script,
        """
        def work():
            return lambda: 1

        if __name__ == "__main__":
            result = supervise(work, workers=1)
            say(result.failures[0].message["message"])
        """,
    )
    [message] = job.lines
    assert "the return value of work can't be sent to the agent: function object can't be pickled" in message
    assert "return plain data instead" in message


def test_a_return_value_that_cannot_be_read_is_a_failure(python: Python, script: Script) -> None:
    job = driven(
        python,
        script,
        """
        def explode():
            raise RuntimeError("not here")

        class OneWay:
            def __reduce__(self):
                return explode, ()

        def work():
            return OneWay()

        if __name__ == "__main__":
            result = supervise(work, workers=1)
            say(result.failures[0].message)
        """,
    )
    assert job.lines == ["the return value of work can't be read: RuntimeError: not here"]


def test_a_large_return_value_comes_back_whole(python: Python, script: Script) -> None:
    job = driven(
        python,
        script,
        """
        def work():
            return bytes([int(os.environ["RANK"]) + 1]) * 50_000_000

        if __name__ == "__main__":
            values = supervise(work).return_values
            say([(rank, len(value), set(value)) for rank, value in values.items()])
        """,
    )
    assert job.lines == ["[(0, 50000000, {1}), (1, 50000000, {2})]"]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_nothing_is_left_of_a_run_with_restarts(python: Python, script: Script, start_method: str) -> None:
    """Neither processes nor folders for return values."""
    job = driven(
        python,
        script,
        f"""
        import tempfile

        def work():
            return 1 / (int(os.environ["TORCHELASTIC_RESTART_COUNT"]) - 2) + 1

        if __name__ == "__main__":
            tempfile.tempdir = "scratch"
            os.mkdir("scratch")
            result = supervise(work, restarts=3, start_method={start_method!r})
            say(sorted(os.listdir("scratch")))
        """,
    )
    left = [name for line in job.lines for name in line.split() if "rally" in name]
    assert left == []
    assert job.timeline().restarts_used in (0, 3)
    assert not any(alive(event.pid) for event in job.events(WorkerStarted))


REAPER = """
        def reap_anybody(signum, frame):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
"""


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_in_a_program_that_reaps_all_children_functions_still_return(
    python: Python, script: Script, start_method: str
) -> None:
    job = driven(
        python,
        script,
        REAPER
        + f"""
        def work():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return os.environ["RANK"]

        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, reap_anybody)
            result = supervise(work, start_method={start_method!r})
            assert result.state == "SUCCEEDED", result
            say(result.return_values)
        """,
    )
    assert job.lines == ["{0: '0', 1: '1'}"]


def test_in_a_program_that_reaps_all_children_a_program_s_end_is_a_failure_that_says_why(
    python: Python, script: Script
) -> None:
    job = driven(
        python,
        script,
        REAPER
        + """
        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, reap_anybody)
            result = supervise("/bin/true")
            assert result.is_failed(), result
            say(result.failures[0].message)
        """,
    )
    assert "its exit code was taken by another part of this program" in job.lines[0]
