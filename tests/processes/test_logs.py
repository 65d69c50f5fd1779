"""Where the workers' output goes: files by incarnation and rank that no restart overwrites, and the console."""

from pathlib import Path

import pytest

from toolkit.adapters.recording.log_file import LogFile
from toolkit.core.events import DecisionMade, WorkerStarted

from .conftest import Meet, Python, Rally, Script
from .jobs import Job, Up

#: all say a line on both streams; rank 1 fails once
WORKER = """
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.write(1, f"out {rank} {attempt}\\n".encode())
    os.write(2, f"err {rank} {attempt}\\n".encode())
    if rank == "1":
        wait_for(f"up 0 {attempt}")
        sys.exit(3 if attempt == "0" else 0)
    open(f"up 0 {attempt}", "w").close()
    if attempt == "0":
        signal.pause()
"""


@pytest.fixture
def worker(script: Script) -> Path:
    return script(WORKER)


def run(rally: Rally, *words: str | Path) -> Job:
    job = rally("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", *words)
    assert job.wait() == 0, job.told()
    return job


def files(root: Path) -> dict[str, str]:
    """Log files below `root`, without empty ones."""
    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.log")}
    return {name: text for name, text in sorted(found.items()) if text}


def said(text: str) -> list[str]:
    """The workers' lines in it, without the agent's."""
    # The agent's own lines, and those below them.
    return sorted(line for line in text.splitlines() if not line.startswith(("rally: ", "    that is: ")))


ALL_OUT = ["out 0 0", "out 0 1", "out 1 0", "out 1 1"]
ALL_ERR = ["err 0 0", "err 0 1", "err 1 0", "err 1 1"]
ALL_FILES = {
    f"attempt_{attempt}/{rank}/std{name}.log": f"{name} {rank} {attempt}\n"
    for attempt in range(2)
    for rank in range(2)
    for name in ("err", "out")
}


def test_without_options_all_goes_to_the_console(rally: Rally, worker: Path) -> None:
    job = run(rally, worker)
    assert (said(job.stdout), said(job.stderr)) == (ALL_OUT, ALL_ERR)
    assert files(job.run_dir) == {}


def test_redirected_streams_are_in_files_of_each_incarnation(rally: Rally, worker: Path) -> None:
    job = run(rally, "--redirects", "3", worker)
    assert (said(job.stdout), said(job.stderr)) == ([], [])
    [logs] = (job.run_dir / "logs").iterdir()
    assert files(logs) == ALL_FILES
    paths = [Path(path) for event in job.events(WorkerStarted) for path in (event.stdout, event.stderr)]
    assert sorted(paths) == sorted(logs / name for name in ALL_FILES), "the recording says where they are"


def test_teed_streams_are_in_both_places(rally: Rally, worker: Path) -> None:
    job = run(rally, "--tee", "3", worker)
    [logs] = (job.run_dir / "logs").iterdir()
    assert files(logs) == ALL_FILES
    assert said(job.stdout) == [f"[default{line.split()[1]}]:{line}" for line in ALL_OUT]
    assert said(job.stderr) == [f"[default{line.split()[1]}]:{line}" for line in ALL_ERR]


def test_maps_by_local_rank(rally: Rally, worker: Path) -> None:
    job = run(rally, "-r", "0:1", "-t", "1:2", worker)
    [logs] = (job.run_dir / "logs").iterdir()
    assert set(files(logs)) == {
        "attempt_0/0/stdout.log",
        "attempt_1/0/stdout.log",
        "attempt_0/1/stderr.log",
        "attempt_1/1/stderr.log",
    }
    assert said(job.stdout) == ["out 1 0", "out 1 1"]
    assert said(job.stderr) == ["[default1]:err 1 0", "[default1]:err 1 1", "err 0 0", "err 0 1"]


def test_the_log_dir_has_a_folder_for_each_run(rally: Rally, worker: Path, tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    for _ in range(2):
        run(rally, "--log-dir", log_dir, "--redirects", "1", worker)
        for flag in tmp_path.glob("up *"):
            flag.unlink()
    folders = sorted(log_dir.iterdir())
    assert len(folders) == 2, "torchrun's layout: <log-dir>/<run id>_<unique>/attempt_<n>/<rank>/stdout.log"
    for folder in folders:
        assert files(folder) == {name: text for name, text in ALL_FILES.items() if "stdout" in name}


def test_the_layout_is_torchruns(rally: Rally, python: Python, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    # Rank 0 alone fails, so that both launchers have the same to tell.
    worker = script("""
        rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
        say("out", rank, attempt, "loss")
        os.write(2, f"err {rank} {attempt}\\n".encode())
        sys.exit(3 if attempt == "0" else 0)
    """)
    words = (
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "1",
        "--rdzv-id",
        "my job",
        "--tee",
        "1",
        "--redirects",
        "2",
    )
    filters = ("--duplicate-stdout-filters", "loss", "--duplicate-stderr-filters", "err")
    ours = rally("--standalone", *words, *filters, "--log-dir", tmp_path / "ours", worker)
    theirs = python(
        "-m",
        "torch.distributed.run",
        "--standalone",
        *words,
        *filters,
        "--log-dir",
        tmp_path / "theirs",
        worker,
    )
    assert (ours.wait(), theirs.wait(90.0)) == (0, 0), f"{ours.told()}\n{theirs.told()}"
    assert ours.stdout.splitlines() == [line for line in theirs.stdout.splitlines() if line]
    [our_root], [their_root] = (list((tmp_path / name).iterdir()) for name in ("ours", "theirs"))
    assert files(our_root) == files(their_root)
    assert "attempt_1/0/stdout.log" in files(our_root)
    assert "attempt_1/filtered_stdout.log" in files(our_root)


def test_a_run_directory_that_is_used_twice_keeps_the_logs_of_both(
    python: Python, script: Script, tmp_path: Path
) -> None:
    worker = script("say(os.environ['SAID'])")
    # As in a container, each agent has the same name: its host's and its process id.
    agent = script(
        """
        import toolkit.wiring
        from toolkit.fronts.cli import main
        toolkit.wiring.node_name = lambda: "container_1"
        sys.exit(main(sys.argv[1:]))
    """,
        "agent.py",
    )
    words = ("run", "--run-dir", tmp_path / "run", "--rdzv-id", "job", "--redirects", "1")
    for word in ("first", "second"):
        job = python(agent, *words, worker, env={"SAID": word})
        assert job.wait() == 0, job.told()
    assert files(tmp_path / "run" / "logs") == {
        "container_1-2/attempt_0/0/stdout.log": "second\n",
        "container_1/attempt_0/0/stdout.log": "first\n",
    }


def test_a_change_of_members_keeps_the_logs_of_the_first_incarnation(
    meet: Meet, script: Script, tmp_path: Path
) -> None:
    nodes = meet("1:2", "--redirects", "3", join_window=0.2, last_call_timeout=1)
    worker = script(
        Up.SCRIPT
        + """
    os.write(2, f"world {os.environ['WORLD_SIZE']}\\n".encode())
    if os.environ["WORLD_SIZE"] == "1":
        signal.pause()
    """
    )
    first = nodes.start(worker)
    nodes.wait_for_events(WorkerStarted)
    nodes.start(worker)
    nodes.assert_all_end_with(0)
    [membership] = [event for event in nodes.of(first, DecisionMade) if event.action == "restart"]
    assert not membership.spends_budget
    [logs] = (nodes.run_dir / "logs").glob(f"*_{first.pid}")
    told = {name: text for name, text in files(logs).items() if "stderr" in name}
    assert told == {"attempt_0/0/stderr.log": "world 1\n", "attempt_1/0/stderr.log": "world 2\n"}


def test_maps_take_local_ranks_of_two_digits(rally: Rally, script: Script) -> None:
    worker = script("say('rank', os.environ['RANK'])")
    job = rally("--standalone", "--nproc-per-node", "12", "--redirects", "11:3", "--tee", "10:1", worker)
    assert job.wait() == 0, job.told()
    [logs] = (job.run_dir / "logs").iterdir()
    assert files(logs) == {"attempt_0/10/stdout.log": "rank 10\n", "attempt_0/11/stdout.log": "rank 11\n"}
    assert said(job.stdout) == sorted([*(f"rank {rank}" for rank in range(10)), "[default10]:rank 10"])


def test_logs_are_kept_within_a_size(rally: Rally, script: Script) -> None:
    worker = script("""
        for number in range(20_000):
            print(f"line {number:06}")
    """)
    job = rally("--standalone", "--redirects", "1", "--log-max-size", "64kB", worker)
    assert job.wait() == 0, job.told()
    [folder] = (job.run_dir / "logs").glob("*/attempt_0/0")
    assert sum(path.stat().st_size for path in folder.glob("stdout.log*")) <= 64_000
    assert (folder / "stdout.log.1").read_text().startswith("line 000000\n")
    assert (folder / "stdout.log").read_text().endswith("line 019999\n")
    shown = LogFile(folder / "stdout.log")
    while shown.read_new():
        pass
    assert (shown.lines[0], shown.lines[-1]) == ("line 000000", "line 019999"), "as top and notebooks see it"


@pytest.mark.parametrize(
    ("size", "told"), [("10", "give at least 64kB"), ("much", "give a size such as 500MB")]
)
def test_a_size_that_can_not_be_is_refused(rally: Rally, script: Script, size: str, told: str) -> None:
    job = rally("--standalone", "--log-max-size", size, script("say('started')"))
    assert job.wait() == 2
    assert f"--log-max-size is '{size}'; {told}" in job.stderr
    assert job.stdout == ""


def test_the_local_ranks_filter_is_for_the_console_only(rally: Rally, worker: Path) -> None:
    job = run(rally, "--local-ranks-filter", "1", "--tee", "1", worker)
    [logs] = (job.run_dir / "logs").iterdir()
    assert files(logs) == {name: text for name, text in ALL_FILES.items() if "stdout" in name}
    assert said(job.stdout) == ["[default1]:out 1 0", "[default1]:out 1 1"]
    assert said(job.stderr) == ["err 1 0", "err 1 1"]


def test_a_prefix_of_one_s_own(rally: Rally, worker: Path) -> None:
    job = rally(
        *("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--tee", "1", worker),
        env={"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "<${role_name} ${rank}/${local_rank}> "},
    )
    assert job.wait() == 0, job.told()
    assert said(job.stdout) == [f"<default {line.split()[1]}/{line.split()[1]}> {line}" for line in ALL_OUT]


def test_nothing_of_what_a_dying_worker_said_is_lost(rally: Rally, script: Script) -> None:
    worker = script("""
        for line in range(20_000):
            sys.stdout.write(f"line {line}\\n")
        sys.stdout.write("no newline")
        sys.stdout.flush()
        os._exit(3)
    """)
    job = rally("--standalone", "--tee", "1", worker)
    assert job.wait() == 3, job.told()
    [logs] = (job.run_dir / "logs").iterdir()
    expected = "".join(f"line {line}\n" for line in range(20_000)) + "no newline"
    assert (logs / "attempt_0/0/stdout.log").read_text() == expected
    shown = [line.removeprefix("[default0]:") for line in job.stdout.splitlines()]
    assert "\n".join(shown) == expected
