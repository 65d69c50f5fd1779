"""LocalElasticAgent with real processes: results, failures, environment, arguments, start methods."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record

from . import worker_functions
from .scripted import ScriptedRendezvous
from .subjects import Subject, subject_named

pytestmark = [
    pytest.mark.torch,
    # Python 3.12 warns of start method fork where there are threads; users choose it all the same.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

DUMP = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
#: ends by a signal only
WAIT = "import signal\nwhile True: signal.pause()\n"

#: an error file that torch's @record did not write
SOMEBODY_ELSES = json.dumps({"message": "no lease", "timestamp": 1_700_000_000, "site": "b"})


def script(code: str, *args: Any) -> dict[str, Any]:
    """The fields of a spec for a Python program."""
    return {"entrypoint": sys.executable, "args": ("-c", code, *args)}


def second_node(workers_before: int, workers: int) -> ScriptedRendezvous:
    """A rendezvous as the second of two nodes sees it; the first has already finished its workers."""
    store, total = HashStore(), workers_before + workers
    store.set("torchelastic/assigned_ranks/1", json.dumps([workers_before, total, workers_before, total]))
    store.add("torchelastic/agent/terminal_state/num_members", 1)
    return ScriptedRendezvous(rounds=[(1, 2)], store=store)


# -- results ----------------------------------------------------------------------------------------------------


def test_programs_have_no_return_values(local_subject: Subject, tmp_path: Path) -> None:
    agent = local_subject.local(second_node(3, 2), tmp_path, local_world_size=2, **script("pass"))
    result = agent.run()
    assert result.state == "SUCCEEDED"
    assert result.return_values == {3: None, 4: None}
    assert result.failures == {}


@pytest.mark.parametrize("start_method", ["spawn", "fork", "forkserver"])
def test_functions_return_by_global_rank(local_subject: Subject, tmp_path: Path, start_method: str) -> None:
    agent = local_subject.local(
        second_node(3, 2),
        tmp_path,
        {"start_method": start_method},
        local_world_size=2,
        entrypoint=worker_functions.rank_and_args,
        args=(7, "shard-${local_rank}", None),
    )
    result = agent.run()
    pids = {worker.global_rank: worker.id for worker in agent.get_worker_group().workers}
    assert result.return_values == {
        3: ("3", pids[3], (7, "shard-0", None)),
        4: ("4", pids[4], (7, "shard-1", None)),
    }


def test_the_group_is_started_again_until_it_succeeds(local_subject: Subject, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "open(f\"{sys.argv[1]}/{attempt}.{os.environ['RANK']}\", 'w').write(os.environ['TORCHELASTIC_MAX_RESTARTS'])\n"
        "sys.exit(attempt < 2)\n"
    )
    seen = tmp_path / "seen"
    seen.mkdir()
    agent = local_subject.local(
        ScriptedRendezvous(), tmp_path / "logs", local_world_size=2, max_restarts=3, **script(code, seen)
    )
    assert agent.run().state == "SUCCEEDED"
    assert agent._remaining_restarts == 1
    # A sibling of the one that fails may be stopped before it has written.
    names = {path.name for path in seen.iterdir()}
    assert {"2.0", "2.1"} <= names
    assert {name.split(".")[0] for name in names} == {"0", "1", "2"}
    assert {path.read_text() for path in seen.iterdir() if path.stat().st_size} == {"3"}


def test_a_change_of_membership_starts_the_workers_again(local_subject: Subject, tmp_path: Path) -> None:
    handler = ScriptedRendezvous(waiting=[1])
    agent = local_subject.local(handler, tmp_path, **script("import time; time.sleep(0.3)"))
    assert agent.run().state == "SUCCEEDED"
    assert handler.rounds == 2
    assert agent._remaining_restarts == 0


# -- failures ---------------------------------------------------------------------------------------------------


def run_with_one_failure(subject: Subject, tmp_path: Path, **fields: Any) -> tuple[Any, Any]:
    """The result of two workers of which local rank 1 fails, and its failure."""
    agent = subject.local(second_node(3, 2), tmp_path, local_world_size=2, **fields)
    began = int(time.time())
    result = agent.run()
    assert result.is_failed()
    with_stopped = subject.name != "rally" and isinstance(fields["entrypoint"], str)
    assert sorted(result.failures) == ([3, 4] if with_stopped else [4])
    failure = result.failures[4]
    assert failure.local_rank == 1
    assert failure.pid == agent.get_worker_group().workers[1].id
    assert fields.get("args", ())[-1:] == (SOMEBODY_ELSES,) or began <= failure.timestamp <= time.time()
    return result, failure


def failing(how: str) -> dict[str, Any]:
    return script(f"import os, signal, sys\nif os.environ['LOCAL_RANK'] == '1': {how}\n{WAIT}")


def test_an_exit_code(subject: Subject, tmp_path: Path) -> None:
    _, failure = run_with_one_failure(subject, tmp_path, **failing("sys.exit(3)"))
    assert (failure.exitcode, failure.error_file) == (3, "<N/A>")
    assert failure.signal_name() == "<N/A>"
    assert failure.message == subject.expects("message of an exit code without error file")
    assert failure.error_file_data["message"] == "<NONE>"
    traits = subject.expects("errorTraits where there is no error file")
    assert ("errorTraits" in failure.error_file_data) == traits


def test_workers_that_the_agent_stopped(subject: Subject, tmp_path: Path) -> None:
    result, _ = run_with_one_failure(subject, tmp_path, **failing("sys.exit(3)"))
    assert (3 in result.failures) == subject.expects("failures hold workers that the agent stopped")


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGABRT], ids=lambda sig: sig.name)
def test_a_signal(subject: Subject, tmp_path: Path, sig: signal.Signals) -> None:
    how = f"os.kill(os.getpid(), {int(sig)})"
    _, failure = run_with_one_failure(subject, tmp_path, **failing(how))
    assert (failure.exitcode, failure.signal_name()) == (-sig, sig.name)
    assert failure.message == f"Signal {int(sig)} ({sig.name}) received by PID {failure.pid}"
    assert failure.error_file == "<N/A>"
    assert time.strptime(failure.timestamp_isoformat(), "%Y-%m-%d_%H:%M:%S")


def test_a_function_that_raises(subject: Subject, tmp_path: Path) -> None:
    _, failure = run_with_one_failure(
        subject, tmp_path, entrypoint=worker_functions.fail, args=("${local_rank}",)
    )
    assert failure.exitcode == 1
    assert failure.message["message"] == "ValueError: bad shape (3, 4)"
    callstack = failure.message["extraInfo"]["py_callstack"]
    assert callstack.endswith("ValueError: bad shape (3, 4)\n")
    assert 'raise ValueError("bad shape (3, 4)")' in callstack
    assert int(failure.message["extraInfo"]["timestamp"]) == failure.timestamp
    assert json.loads(Path(failure.error_file).read_text()) == failure.error_file_data
    assert failure.error_file_data["message"] == failure.message


RECORDED = (
    "import os\n"
    "from torch.distributed.elastic.multiprocessing.errors import record\n"
    "@record\n"
    "def main(): raise ValueError('bad shape (3, 4)')\n"
    "main()\n"
)


def test_the_error_file_of_torchs_record(local_subject: Subject, tmp_path: Path) -> None:
    code = f"import os\nif os.environ['LOCAL_RANK'] == '1':\n  exec({RECORDED!r})\n{WAIT}"
    _, failure = run_with_one_failure(local_subject, tmp_path, **script(code))
    assert failure.exitcode == 1
    assert failure.message["message"] == "ValueError: bad shape (3, 4)"
    assert failure.message["extraInfo"]["py_callstack"].startswith("Traceback")
    assert json.loads(Path(failure.error_file).read_text()) == failure.error_file_data


def test_an_error_file_of_somebody_else(local_subject: Subject, tmp_path: Path) -> None:
    how = "open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write(sys.argv[1]) and sys.exit(5)"
    fields = failing(how)
    fields["args"] = (*fields["args"], SOMEBODY_ELSES)
    _, failure = run_with_one_failure(local_subject, tmp_path, **fields)
    assert (failure.exitcode, failure.message, failure.timestamp) == (5, "no lease", 1_700_000_000)
    assert failure.error_file_data == json.loads(SOMEBODY_ELSES)


def test_torchs_error_is_made_of_the_failures(both: tuple[Subject, Subject], tmp_path: Path) -> None:
    told = []
    for subject in both:
        _, failure = run_with_one_failure(
            subject, tmp_path / subject.name, entrypoint=worker_functions.fail, args=("${local_rank}",)
        )
        error = ChildFailedError("train.py", {4: failure})
        assert error.get_first_failure() == (4, failure)
        text = str(error).replace(failure.timestamp_isoformat(), "TIME").replace(str(failure.pid), "PID")
        told.append(text.replace(failure.error_file, "FILE"))
    theirs, ours = ([line for line in text.splitlines() if not is_frame(line)] for text in told)
    assert ours == theirs
    assert any("train.py FAILED" in line for line in ours)


def is_frame(line: str) -> bool:
    """Lines of a traceback, and rulers, whose length depends on it."""
    return line.startswith("    ") or "File " in line or set(line.strip()) <= {"=", "-"} or "raise " in line


@pytest.mark.parametrize("how", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_torchs_error_is_made_of_failures_without_error_file(
    both: tuple[Subject, Subject], tmp_path: Path, how: str
) -> None:
    told = []
    for subject in both:
        _, failure = run_with_one_failure(subject, tmp_path / subject.name, **failing(how))
        text = str(ChildFailedError("train.py", {4: failure})).replace(str(failure.pid), "PID")
        lines = text.replace(failure.timestamp_isoformat(), "TIME").splitlines()
        told.append([line for line in lines if set(line) != {"="} and set(line) != {"-"}])
    theirs, ours = told
    assert [line.strip() for line in ours if "traceback :" not in line] == [
        line.strip() for line in theirs if "traceback :" not in line
    ]


def test_torchs_record_hands_the_first_failure_on(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torchrun's main does: the agent's own error file gets the root cause, for the scheduler.
    _, failure = run_with_one_failure(
        subject, tmp_path, entrypoint=worker_functions.fail, args=("${local_rank}",)
    )
    own_error_file = tmp_path / "agent_error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(own_error_file))

    @record
    def main() -> None:
        raise ChildFailedError("train.py", {4: failure})

    with pytest.raises(ChildFailedError):
        main()
    handed_on = json.loads(own_error_file.read_text())
    assert handed_on["message"]["message"] == "ValueError: bad shape (3, 4)"
    assert handed_on["message"]["errorCode"] == 1


def test_a_program_that_is_not_there(subject: Subject, tmp_path: Path) -> None:
    agent = subject.local(ScriptedRendezvous(), tmp_path, entrypoint="/no/such/program")
    with pytest.raises(Exception, match="/no/such/program") as raised:
        agent.run()
    assert type(raised.value).__name__ == subject.expects("a program that is not there")


def test_a_function_that_leaves_without_returning() -> None:
    # torch waits for its return value for ever, so there is nothing to compare with.
    subject = subject_named("rally")
    agent = subject.local(ScriptedRendezvous(), Path(os.devnull), {"start_method": "fork"},
                          entrypoint=worker_functions.leave, args=(0,))  # fmt: skip
    result = agent.run()
    assert result.state == subject.expects("a function that leaves by os._exit(0)")
    assert "before it returned" in result.failures[0].message


def test_the_signal_handlers_after_a_run(subject: Subject, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    subject.local(ScriptedRendezvous(), tmp_path, **script("pass")).run()
    now = "restored" if signal.getsignal(signal.SIGTERM) is before else "replaced"
    assert now == subject.expects("signal handlers after a run")


# -- environment and arguments ----------------------------------------------------------------------------------


def dumped_environments(subject: Subject, tmp_path: Path, **fields: Any) -> list[dict[str, str]]:
    """What two workers found, by local rank; nothing of it depends on the side."""
    folder = tmp_path / subject.name
    folder.mkdir()
    agent = subject.local(second_node(3, 2), folder / "logs", local_world_size=2, **fields)
    assert agent.run().state == "SUCCEEDED"
    found = [json.loads((tmp_path / f"env_{rank}.json").read_text()) for rank in (0, 1)]
    for rank, environment in enumerate(found):
        error_file = Path(environment.pop("TORCHELASTIC_ERROR_FILE"))
        assert error_file.parts[-3:] == ("attempt_0", str(rank), "error.json")
        assert folder in error_file.parents
        own = {name for name in environment if name.startswith("RALLY_")}
        # "rebased" is torch's local agent over our loop.
        side = "rally" if subject.name == "rally" else "torch"
        assert own == subject_named(side).expects("variables that only one side gives")
        for name in own:
            del environment[name]
    return found


def program_that_dumps(tmp_path: Path) -> dict[str, Any]:
    return script(DUMP, f"{tmp_path}/env_${{local_rank}}.json")


def test_programs_find_the_same_environment(both: tuple[Subject, Subject], tmp_path: Path) -> None:
    theirs, ours = (
        dumped_environments(subject, tmp_path, **program_that_dumps(tmp_path), max_restarts=2, role="trainer")
        for subject in both
    )
    assert ours == theirs


def test_functions_find_the_same_environment(both: tuple[Subject, Subject], tmp_path: Path) -> None:
    theirs, ours = (
        dumped_environments(
            subject,
            tmp_path,
            entrypoint=worker_functions.dump_environment,
            args=(f"{tmp_path}/env_${{local_rank}}.json",),
        )
        for subject in both
    )
    assert ours == theirs


def test_what_the_environment_says(local_subject: Subject, tmp_path: Path) -> None:
    _, second = dumped_environments(
        local_subject,
        tmp_path,
        **program_that_dumps(tmp_path),
        max_restarts=2,
        role="trainer",
        master_addr="node-0",
    )
    said = {name: value for name, value in second.items() if name not in os.environ}
    said.pop("LC_CTYPE", None)  # Python itself sets it where there is no locale
    assert said == {
        "RANK": "4",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "ROLE_RANK": "4",
        "ROLE_NAME": "trainer",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "5",
        "MASTER_ADDR": "node-0",
        "MASTER_PORT": "29555",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "2",
        "TORCHELASTIC_RUN_ID": "parity-run",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "5"},
        {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
        {"RANK": "99", "LOCAL_RANK": "99", "MASTER_ADDR": "elsewhere"},
    ],
    ids=",".join,
)
@pytest.mark.parametrize("virtual", [False, True], ids=["", "virtual local rank"])
def test_variables_of_the_agent_reach_the_workers_alike(
    both: tuple[Subject, Subject],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    virtual: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    theirs, ours = (
        dumped_environments(subject, tmp_path, **program_that_dumps(tmp_path), virtual_local_rank=virtual)
        for subject in both
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("visible", "seen"), [(None, ["0", "1"]), ("5,7,9", ["5", "7"]), (" 4 , 6 ", ["4", "6"])]
)
def test_with_virtual_local_ranks_each_worker_sees_one_device(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = dumped_environments(subject, tmp_path, **program_that_dumps(tmp_path), virtual_local_rank=True)
    assert [(env["CUDA_VISIBLE_DEVICES"], env["LOCAL_RANK"]) for env in found] == [(gpu, "0") for gpu in seen]


def test_with_virtual_local_ranks_too_few_devices_are_a_value_error(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    agent = subject.local(
        ScriptedRendezvous(), tmp_path, local_world_size=2, virtual_local_rank=True, **script("pass")
    )
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=5"):
        agent.run()


def test_macros_are_replaced_in_strings_only(subject: Subject, tmp_path: Path) -> None:
    code = f"import json, sys; json.dump(sys.argv[1:], open({str(tmp_path)!r} + '/args_' + sys.argv[1], 'w'))"
    args = ("${local_rank}", "$local_rank", "a-${local_rank}-b", "$$", "${other}", "100%", 5, 0.5)
    agent = subject.local(ScriptedRendezvous(), tmp_path / "logs", local_world_size=2, **script(code, *args))
    assert agent.run().state == "SUCCEEDED"
    for rank in ("0", "1"):
        found = json.loads((tmp_path / f"args_{rank}").read_text())
        assert found == [rank, rank, f"a-{rank}-b", "$", "${other}", "100%", "5", "0.5"]


def test_a_path_that_is_an_argument(subject: Subject, tmp_path: Path) -> None:
    # Not a string: torch turns it into one without looking for macros.
    code = "import sys; open(sys.argv[1], 'w')"
    agent = subject.local(ScriptedRendezvous(), tmp_path / "logs", **script(code, tmp_path / "${local_rank}"))
    agent.run()
    assert (tmp_path / "${local_rank}").exists()
