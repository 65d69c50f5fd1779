"""Judges of variables that change a run, and of the place where it would run: Slurm, Kubernetes, systemd."""

from __future__ import annotations

from difflib import get_close_matches

from toolkit.core.doctor.facts import Machine, PlaceFacts
from toolkit.core.doctor.findings import Asked, Said, note, ok, warning
from toolkit.core.words import plural, some

#: what a worker is given; who has them outside of one has them from somewhere else
_OF_WORKERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
)
#: Slurm's KillWait, and what Kubernetes gives a pod unless told otherwise
_KILL_WAIT_S, _POD_GRACE_S = 30, 30
#: left over for the agent itself
_OURS_S = 5
_SOON_S = 600

#: variable and value -> why it is told, and whether it is more than good to know. None: any value that is on.
_TELLING: tuple[tuple[str, tuple[str, ...] | None, bool, str], ...] = (
    (
        "CUDA_LAUNCH_BLOCKING",
        None,
        True,
        "each kernel is waited for: several times slower; for debugging only",
    ),
    ("NCCL_P2P_DISABLE", None, True, "GPUs of this machine talk through the memory of the host"),
    (
        "NCCL_SHM_DISABLE",
        None,
        True,
        "ranks of one machine talk over the network where they have no peer access",
    ),
    ("NCCL_IB_DISABLE", None, False, "NCCL goes over plain sockets between machines"),
    ("NCCL_DEBUG", ("TRACE",), True, "NCCL prints each call; the logs grow by the minute"),
    ("NCCL_DEBUG", ("INFO", "VERSION", "WARN"), False, "NCCL prints to each worker's stdout"),
    ("TORCH_DISTRIBUTED_DEBUG", ("DETAIL",), True, "each collective is checked across ranks first: slow"),
    (
        "TORCH_NCCL_BLOCKING_WAIT",
        None,
        False,
        "a collective that times out raises, and none overlaps computing",
    ),
    (
        "NCCL_ASYNC_ERROR_HANDLING",
        ("0",),
        True,
        "a worker whose peer has died waits for ever; its name is TORCH_NCCL_... now",
    ),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", ("0",), True, "a worker whose peer has died waits for ever"),
    ("PYTORCH_NO_CUDA_MEMORY_CACHING", None, True, "memory is asked of the driver each time: slow"),
)
_OFF = ("", "0", "false", "no", "off")


def leftovers(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """Variables of a worker, outside of any."""
    if asked.environ.get("TORCHELASTIC_RUN_ID"):
        return note(
            f"this is inside a worker of the job {asked.environ['TORCHELASTIC_RUN_ID']}",
            "what is started here ends with that worker, and shares its GPUs",
        )
    found = [name for name in _OF_WORKERS if asked.environ.get(name)]
    if not found:
        return None
    return note(
        f"{some(found, 4)} {'is' if len(found) == 1 else 'are'} set in this shell",
        "rally gives each worker its own; a script that is started without it takes these and waits for others",
        "leave them out",
        f"unset {' '.join(found)}",
    )


def options(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """Variables that stand for options of `rally run` and torchrun."""
    given = sorted(name for name in asked.environ if name.startswith("PET_"))
    unknown = [name for name in given if name not in asked.variables]
    if unknown:
        near = get_close_matches(unknown[0], asked.variables, n=1)
        return warning(
            f"{some(unknown)} {'is' if len(unknown) == 1 else 'are'} set, and no option is called so",
            "nobody reads it",
            f"did you mean {near[0]}" if near else "leave it out",
            f"unset {' '.join(unknown)}",
        )
    if given:
        shown = some([f"{name}={asked.environ[name]}" for name in given], 3)
        return note(shown, "that holds for every run that does not say otherwise")
    return None


def threads(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said:
    """How many threads a worker computes with."""
    text = asked.environ.get("OMP_NUM_THREADS", "")
    cgroup = machine.cgroup
    cores = cgroup.cores if cgroup is not None else None
    if cgroup is not None and cgroup.cpu_quota_cores is not None:
        cores = max(int(min(cgroup.cpu_quota_cores, cgroup.cores)), 1)
    share = max((cores or 1) // asked.nproc, 1)
    if not text:
        if asked.nproc == 1 or share == 1:
            return ok("OMP_NUM_THREADS is left to rally")
        return note(
            f"OMP_NUM_THREADS is not set, and rally sets 1 for each of {asked.nproc} workers, as torchrun does",
            f"{cores} cores would allow {share} each, which helps where the CPU computes or loads data",
            "say how many",
            f"export OMP_NUM_THREADS={share}",
        )
    first = text.split(",")[0].strip()
    if not first.isdecimal() or int(first) == 0:
        why = "each library makes of that what it likes"
        return warning(
            f"OMP_NUM_THREADS={text} is no number", why, "give one", f"export OMP_NUM_THREADS={share}"
        )
    if cores is not None and int(first) * asked.nproc > 2 * cores:
        return warning(
            f"OMP_NUM_THREADS={text} for {plural(asked.nproc, 'worker')} makes {int(first) * asked.nproc} threads on "
            f"{plural(cores, 'core')}",
            "they push each other off the cores, and all are slower",
            "share the cores",
            f"export OMP_NUM_THREADS={share}",
        )
    return ok(f"OMP_NUM_THREADS={text}")


def switches(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """Variables that make a run slow or talkative."""
    found: list[tuple[bool, str, str]] = []
    for name, values, slow, why in _TELLING:
        value = asked.environ.get(name)
        if value is None:
            continue
        if value.upper() in values if values is not None else value.lower() not in _OFF:
            found.append((slow, name, why))
    if not found:
        return None
    found.sort(key=lambda one: not one[0])
    shown = some([f"{name}={asked.environ[name]}" for _, name, _ in found], 3)
    slowing = [name for slow, name, _ in found if slow]
    if slowing:
        return warning(
            shown, found[0][2], "leave it out unless you look for a fault", f"unset {' '.join(slowing)}"
        )
    return note(shown, found[0][2])


# -- the place ------------------------------------------------------------------------------------------------


def place(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said:
    """What kind of place this is."""
    return ok(where(facts, asked))


def where(facts: PlaceFacts, asked: Asked) -> str:
    """In a few words, such as "in a Slurm job, in docker"."""
    found = []
    if asked.environ.get("SLURM_JOB_ID"):
        found.append(f"Slurm job {asked.environ['SLURM_JOB_ID']}")
    if facts.container:
        found.append(
            "a pod of Kubernetes" if facts.container == "kubernetes" else f"a container ({facts.container})"
        )
    if facts.virtual:
        found.append(facts.virtual)
    if facts.systemd_unit:
        found.append(f"unit {facts.systemd_unit}")
    return "in " + " in ".join(found) if found else "no container or job scheduler"


def slurm(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """What follows from being in a Slurm job."""
    environ = asked.environ
    if not environ.get("SLURM_JOB_ID"):
        return None
    tasks = (
        environ.get("SLURM_NTASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", "1"))
        .split("(")[0]
        .split(",")[0]
    )
    if tasks.isdecimal() and int(tasks) > 1:
        return warning(
            f"Slurm starts {tasks} tasks on a node",
            "`srun rally run` then starts as many agents, each with all workers",
            "ask for one task a node; the agent starts the workers",
            "#SBATCH --ntasks-per-node=1",
        )
    end = environ.get("SLURM_JOB_END_TIME", "")
    left_s = int(end) - facts.now_s if end.isdecimal() and facts.now_s else None
    grace_s = asked.shutdown_timeout_s + _OURS_S
    signal = f"#SBATCH --signal=TERM@{max(4 * asked.shutdown_timeout_s, 60)}"
    if left_s is not None and left_s < _SOON_S:
        return warning(
            f"this Slurm job ends in {max(int(left_s // 60), 0)} min",
            "what is started now is ended then",
            "have a longer one",
            "squeue -j $SLURM_JOB_ID -o '%L'",
        )
    if grace_s > _KILL_WAIT_S:
        return note(
            f"at its end Slurm sends SIGTERM, and SIGKILL after KillWait ({_KILL_WAIT_S} s unless set otherwise)",
            f"workers may take {asked.shutdown_timeout_s} s to save their state (--shutdown-timeout), and are cut off",
            "have the signal earlier, and start the agents with srun",
            signal,
        )
    return ok("Slurm gives time to stop")


def kubernetes(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """What follows from being in a pod."""
    if facts.container != "kubernetes":
        return None
    need_s = asked.shutdown_timeout_s + _OURS_S
    if need_s <= _POD_GRACE_S:
        return ok("the pod's grace is enough")
    return note(
        f"a pod has {_POD_GRACE_S} s to end, or terminationGracePeriodSeconds, which can't be seen from inside",
        f"workers may take {asked.shutdown_timeout_s} s (--shutdown-timeout), and are then killed with the agent",
        f"set it to {need_s} at least, or give the workers less",
        f"rally run --shutdown-timeout {_POD_GRACE_S - _OURS_S} ...",
    )


def systemd(facts: PlaceFacts, asked: Asked, machine: Machine) -> Said | None:
    """What follows from being a service."""
    if not facts.systemd_unit:
        return None
    return note(
        f"this is the unit {facts.systemd_unit} of systemd",
        "KillMode=control-group sends SIGTERM to agent and workers at once, TimeoutStopSec (90 s) must be above "
        f"--shutdown-timeout ({asked.shutdown_timeout_s} s)",
        "let the agent alone have it",
        "KillMode=mixed",
    )
