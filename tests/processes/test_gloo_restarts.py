"""Workers that have formed a process group crash, and one restart brings all of them back: 30 times out of 30.

torchrun 2.13 manages 5 of 20: its restarted workers read the last attempt's keys from the agent's store. Here each
round has a store, and a port, of its own.
"""

from itertools import pairwise

import pytest

from toolkit.core.events import RendezvousCompleted, WorkerStarted

from .conftest import Python, Rally, Script
from .jobs import Job, counted

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

RESTARTS = 30

#: forms a group and uses it; rank 1 then crashes, in turn by exit code and by signal, in all incarnations but the last,
#: while rank 0 waits for it in a collective
GLOO = """
import torch
import torch.distributed as dist

def work(crashes):
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.init_process_group("gloo")
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    assert total.item() == 3, total
    say("init", attempt, rank)
    open(f"init {attempt} {rank}", "w").close()
    if attempt < crashes:
        if rank == 1:
            wait_for(f"init {attempt} 0")
            os._exit(7) if attempt % 2 else os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
        raise AssertionError("the barrier of a crashed group was passed")
    dist.barrier()
    dist.destroy_process_group()
    return total.item()
"""

#: forks its workers from a server that has imported torch: 30 restarts in seconds, as fast as races like them
WARM_DRIVER = """
import multiprocessing
import gloo_worker

if __name__ == "__main__":
    restarts = int(sys.argv[1])
    multiprocessing.set_forkserver_preload(["gloo_worker"])
    result = supervise(gloo_worker.work, restarts, restarts=restarts, start_method="forkserver")
    say("returned", result.return_values)
"""


def assert_each_restart_was_enough(job: Job, restarts: int) -> None:
    """That all workers formed a group in each incarnation, and that no restart was spent on anything else."""
    inits = counted(line for line in job.lines if line.startswith("init"))
    assert inits == {f"init {attempt} {rank}": 1 for attempt in range(restarts + 1) for rank in range(2)}
    timeline = job.timeline()
    assert (timeline.state, timeline.restarts_used, timeline.rounds) == ("succeeded", restarts, restarts + 1)
    # Who is told as the first is left open: a dying process closes its sockets a moment before it is gone, and rank 0,
    # whose collective then fails, can be faster.
    first = [failure.incarnation for failure in timeline.failures.values() if failure.first]
    assert first == list(range(restarts))
    ports = [event.master_port for event in job.events(RendezvousCompleted)]
    assert all(before != after for before, after in pairwise(ports))
    assert len(job.events(WorkerStarted)) == 2 * (restarts + 1)


@pytest.mark.slow
def test_thirty_of_thirty_restarts_are_clean(python: Python, script: Script) -> None:
    script(GLOO, "gloo_worker.py")
    job = python(script(WARM_DRIVER, "driver.py", agent=True), str(RESTARTS))
    assert job.wait(120) == 0, job.told()
    assert "returned {0: 3, 1: 3}" in job.stdout
    assert_each_restart_was_enough(job, RESTARTS)


@pytest.mark.slow
def test_scripts_that_import_torch_each_time_restart_cleanly(rally: Rally, script: Script) -> None:
    restarts = 7  # each costs two imports of torch; thirty of them pass as well, in 90 s
    worker = script(GLOO + "\nwork(int(sys.argv[1]))\n")
    job = rally(
        "--standalone", "--nproc-per-node", "2", "--max-restarts", f"{restarts}", worker, f"{restarts}"
    )
    assert job.wait(150) == 0, job.told()
    assert_each_restart_was_enough(job, restarts)
