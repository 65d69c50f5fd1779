"""What the workers get: torchrun's environment, their arguments, and their place in files and on the console."""

import json
import sys
from pathlib import Path

import pytest

from .conftest import Python, Rally, Script
from .jobs import Job

TOLD = """
    import json
    say(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


#: of each run its own. torchrun's agent hosts the workers' store, ours leaves that to rank 0.
OWN_VALUES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
)
#: what the launchers of this test find, or set for themselves
BESIDE_THE_POINT = (
    *OWN_VALUES,
    "RUN_DIR",
    "TMPDIR",
    "PYTHONPATH",
    "LC_CTYPE",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
)


def told(job: Job) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of each worker, by RANK."""
    assert job.wait() == 0, job.told()
    return sorted((tuple(json.loads(line)) for line in job.lines), key=lambda said: int(said[1]["RANK"]))


def test_the_environment_is_torchruns(rally: Rally, script: Script, tmp_path: Path) -> None:
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "--role", "trainer", script(TOLD)
    )
    for rank, (_, env) in enumerate(told(job)):
        port = env["MASTER_PORT"]
        assert 1 <= int(port) <= 65535
        run_id = env["TORCHELASTIC_RUN_ID"]
        assert run_id == job.timeline().run_id
        expected = {
            "RANK": f"{rank}",
            "LOCAL_RANK": f"{rank}",
            "ROLE_RANK": f"{rank}",
            "GROUP_RANK": "0",
            "ROLE_NAME": "trainer",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_WORLD_SIZE": "1",
            "ROLE_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "3",
            "TORCHELASTIC_RUN_ID": run_id,
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
            "OMP_NUM_THREADS": "1",
        }
        assert {name: env.get(name) for name in expected} == expected
        assert Path(env["TORCHELASTIC_ERROR_FILE"]).parts[-2:] == (f"{rank}", "error.json")
        assert Path(env["TORCHELASTIC_ERROR_FILE"]).parent.is_dir()
        assert env["XDG_STATE_HOME"] == str(tmp_path / "state"), "the rest is inherited"


@pytest.mark.torch
def test_torchruns_workers_find_the_same(rally: Rally, python: Python, script: Script) -> None:
    pytest.importorskip("torch")
    worker = script(TOLD)
    words = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "--role", "trainer", worker)
    ours = told(rally(*words))
    torchruns = told(python("-m", "torch.distributed.run", *words))
    for (_, got), (_, wanted) in zip(ours, torchruns, strict=True):
        added = {name: value for name, value in wanted.items() if name not in BESIDE_THE_POINT}
        assert len(added) > 15
        assert {name: got.get(name) for name in added} == added
        assert set(OWN_VALUES) <= set(got)


def test_omp_num_threads_is_the_users_where_it_is_set(rally: Rally, script: Script) -> None:
    job = rally("--standalone", "--nproc-per-node", "2", script(TOLD), env={"OMP_NUM_THREADS": "5"})
    assert [env["OMP_NUM_THREADS"] for _, env in told(job)] == ["5", "5"]


def test_omp_num_threads_is_left_alone_for_one_worker(rally: Rally, script: Script) -> None:
    [(_, env)] = told(rally("--standalone", script(TOLD)))
    assert "OMP_NUM_THREADS" not in env


def test_local_rank_macros(rally: Rally, script: Script) -> None:
    words = ["--gpu", "${local_rank}", "x${local_rank}y", "$other", "a b", ""]
    job = rally("--standalone", "--nproc-per-node", "2", script(TOLD), *words)
    assert [args for args, _ in told(job)] == [
        ["--gpu", f"{rank}", f"x{rank}y", "$other", "a b", ""] for rank in range(2)
    ]


@pytest.mark.parametrize(("visible", "seen"), [(None, ["0", "1"]), ("7,3,5", ["7", "3"])])
def test_virtual_local_rank(rally: Rally, script: Script, visible: str | None, seen: list[str]) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    job = rally("--standalone", "--nproc-per-node", "2", "--virtual-local-rank", script(TOLD), env=env)
    got = [(env["RANK"], env["LOCAL_RANK"], env["CUDA_VISIBLE_DEVICES"]) for _, env in told(job)]
    assert got == [("0", "0", seen[0]), ("1", "0", seen[1])]


def test_a_program_that_is_not_python(rally: Rally) -> None:
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--no-python", "/bin/sh", "-c", "echo $RANK of $WORLD_SIZE"
    )
    assert job.wait() == 0, job.told()
    assert sorted(job.lines) == ["0 of 2", "1 of 2"]


def test_a_module(rally: Rally, script: Script, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    script("say(__name__, __package__, *sys.argv[1:])", "package/train.py")
    job = rally("--standalone", "-m", "package.train", "--lr", "1")
    assert job.wait() == 0, job.told()
    assert job.lines == ["__main__ package --lr 1"]


def test_a_script_inside_the_worker_s_interpreter(rally: Rally, script: Script) -> None:
    worker = script("say(__name__, os.environ['RANK'], *sys.argv[1:])")
    job = rally("--standalone", "--nproc-per-node", "2", "--run-path", worker, "--lr", "1")
    assert job.wait() == 0, job.told()
    assert sorted(job.lines) == ["__main__ 0 --lr 1", "__main__ 1 --lr 1"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(5)", 5),
        ("raise ValueError", 1),
        ("os._exit(0)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_how_such_a_script_ends(rally: Rally, script: Script, end: str, code: int) -> None:
    job = rally("--standalone", "--run-path", script(end))
    assert job.wait() == code, job.told()


def test_another_interpreter(rally: Rally, script: Script) -> None:
    job = rally("--standalone", script("say(sys.executable)"), env={"PYTHON_EXEC": sys.executable})
    assert job.wait() == 0, job.told()
    assert job.lines == [sys.executable]
