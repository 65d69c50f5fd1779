"""The judges of `rally doctor`, over machines that are well and machines that are not."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.core.doctor.amounts import GIB, MIB
from toolkit.core.doctor.checks import CHECKS, chosen_checks, facts_needed, judged
from toolkit.core.doctor.facts import (
    CgroupFacts,
    ClockFacts,
    EndpointFacts,
    FolderFacts,
    FqdnFacts,
    GpuFacts,
    GpusFacts,
    Interface,
    Limit,
    LimitsFacts,
    LocalhostFacts,
    Lookup,
    Machine,
    MemoryFacts,
    NameFacts,
    NetworkFacts,
    PeerNameFacts,
    PlaceFacts,
    ProcessFacts,
    PythonFacts,
    TorchFacts,
)
from toolkit.core.doctor.findings import Asked, Finding, Level, Silence, report
from toolkit.core.doctor.network import matched
from toolkit.core.errors import ConfigurationError

H100 = GpuFacts(
    index=0,
    name="NVIDIA H100 80GB HBM3",
    uuid="GPU-11111111-aaaa",
    memory_total_bytes=80 * GIB,
    memory_used_bytes=0,
    temperature_c=35.0,
    persistence=True,
    ecc=True,
    ecc_uncorrected=0,
    remap_pending=False,
    remap_failed=False,
    compute_mode="default",
    mig=False,
    fabric="completed",
)


def gpus(count: int = 8, **changes: object) -> GpusFacts:
    found = [
        msgspec.structs.replace(H100, index=index, uuid=f"GPU-{index}{index}{index}")
        for index in range(count)
    ]
    whole = GpusFacts(device_files=count, driver="570.86.15", cuda="12.8", gpus=found, nvlinks=True, xids=[])
    return msgspec.structs.replace(whole, **changes)


def one_bad(**changes: object) -> GpusFacts:
    """Eight GPUs of which the fourth is not well."""
    found = gpus()
    found.gpus[3] = msgspec.structs.replace(found.gpus[3], **changes)
    return found


LIMITS = LimitsFacts(
    nofile=Limit(1 << 20, 1 << 20),
    nproc=Limit(None, None),
    memlock=Limit(None, None),
    core=Limit(0, None),
    stack=Limit(8 * MIB, None),
    pid_max=4_194_304,
    threads_max=2_000_000,
)
HERE = Lookup(name="gpu-a", addresses=["10.0.0.5"], took_s=0.002)
WELL = Machine(
    place=PlaceFacts(host="gpu-a", system="Linux 6.8.0", machine="x86_64", now_s=1_790_000_000.0),
    limits=LIMITS,
    memory=MemoryFacts(
        total_bytes=1024 * GIB,
        available_bytes=1000 * GIB,
        shm_total_bytes=512 * GIB,
        shm_free_bytes=512 * GIB,
        overcommit=0,
    ),
    cgroup=CgroupFacts(version="v2", path="/", cores=96, child_possible=True, kill_possible=True),
    processes=ProcessFacts(kernel="6.8.0", means=["supervisor"], pyspy="/bin/py-spy", ptrace_self=True),
    name=NameFacts(hostname=HERE),
    fqdn=FqdnFacts(fqdn="gpu-a.cluster", took_s=0.003),
    peer_name=PeerNameFacts(address="10.0.0.4", name="gpu-a.cluster", took_s=0.003),
    localhost=LocalhostFacts(localhost=Lookup(name="localhost", addresses=["127.0.0.1", "::1"])),
    network=NetworkFacts(
        interfaces=[
            Interface(name="lo", addresses=["127.0.0.1"]),
            Interface(name="eth0", addresses=["10.0.0.5"]),
        ],
        towards_world="10.0.0.5",
        ephemeral_first=32768,
        ephemeral_last=60999,
        infiniband=["mlx5_0 ACTIVE"],
    ),
    endpoint=EndpointFacts(
        host="node0", port=29400, lookup=HERE, listening=True, took_s=0.001, local_addr="10.0.0.5"
    ),
    gpus=gpus(),
    torch=TorchFacts(
        python="python",
        version="2.13.0+cu128",
        cuda="12.8",
        nccl="2.27.5",
        backends=["gloo", "nccl"],
        devices=8,
    ),
    python=PythonFacts(version="3.11.9", rally="0.1.0"),
    clock=ClockFacts(synchronized=True, max_error_s=0.02, source="tsc", keepers=["chronyd"]),
    state_dir=FolderFacts(path="/home/u/runs", free_bytes=100 * GIB, filesystem="ext4"),
    log_dir=FolderFacts(path="/logs", free_bytes=100 * GIB, filesystem="ext4"),
    tmp_dir=FolderFacts(path="/tmp", free_bytes=100 * GIB, filesystem="ext4"),
)
ASKED = Asked(nproc=8, environ={"OMP_NUM_THREADS": "12"}, variables=("PET_NNODES", "PET_TEE"))
DOCKER = msgspec.structs.replace(WELL.place, container="docker")


def found(
    machine: Machine, asked: Asked = ASKED, silent: dict[str, Silence] | None = None
) -> dict[str, Finding]:
    return {finding.id: finding for finding in judged(CHECKS, machine, asked, silent or {})}


def where(**changes: object) -> Machine:
    return msgspec.structs.replace(WELL, **changes)


def facts_of(name: str, **changes: object) -> Machine:
    """The machine that is well, with some of its facts changed."""
    return where(**{name: msgspec.structs.replace(getattr(WELL, name), **changes)})


def asked(**environ: str) -> Asked:
    return msgspec.structs.replace(ASKED, environ={**ASKED.environ, **environ})


def test_of_a_machine_that_is_well_nothing_but_good_is_said() -> None:
    assert [finding for finding in found(WELL).values() if finding.level != "ok"] == []


def test_ids_are_unique_and_have_a_group_and_a_title() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.id.count(".") == 1 and check.title
        assert set(check.needs) <= set(Machine.__struct_fields__)


def test_every_fact_has_a_check_that_judges_it() -> None:
    assert {check.facts for check in CHECKS} == set(Machine.__struct_fields__)


BAD: list[tuple[str, Level, Machine, str]] = [
    ("limits.nofile", "problem", facts_of("limits", nofile=Limit(64, 64)), "64 open files"),
    ("limits.nofile", "warning", facts_of("limits", nofile=Limit(256, 4096)), "256 open files"),
    ("limits.nofile", "note", facts_of("limits", nofile=Limit(1024, 1 << 20)), "1,024 open files"),
    (
        "limits.nproc",
        "problem",
        facts_of("limits", nproc=Limit(120, 120), threads_now=110),
        "10 more threads",
    ),
    (
        "limits.nproc",
        "warning",
        facts_of("limits", nproc=Limit(400, 400), threads_now=100),
        "300 more threads",
    ),
    ("limits.nproc", "warning", facts_of("limits", pid_max=500), "kernel.pid_max is 500"),
    (
        "limits.memlock",
        "warning",
        facts_of("limits", memlock=Limit(8 * MIB, 8 * MIB), rdma=True),
        "8 MiB of memory",
    ),
    ("limits.core", "note", facts_of("limits", core=Limit(None, None), core_pattern="core"), "any size"),
    ("limits.stack", "warning", facts_of("limits", stack=Limit(64 << 10, None)), "64 KiB of stack"),
    (
        "memory.shm",
        "problem",
        msgspec.structs.replace(
            facts_of("memory", shm_total_bytes=64 * MIB, shm_free_bytes=64 * MIB), place=DOCKER
        ),
        "64 MiB free of 64 MiB",
    ),
    ("memory.shm", "problem", facts_of("memory", shm_there=False), "no /dev/shm"),
    ("memory.shm", "problem", facts_of("memory", shm_writable=False), "can't be written"),
    ("memory.available", "warning", facts_of("memory", available_bytes=GIB), "1 GiB of memory"),
    ("memory.overcommit", "warning", facts_of("memory", overcommit=2), "overcommit_memory is 2"),
    (
        "cgroup.memory",
        "warning",
        facts_of("cgroup", memory_limit_bytes=16 * GIB, memory_used_bytes=15 * GIB),
        "1 GiB are left",
    ),
    ("cgroup.oom", "note", facts_of("cgroup", oom_kills=3), "3 processes"),
    ("cgroup.cpu", "warning", facts_of("cgroup", cpu_quota_cores=4.0), "quota is 4 cores"),
    ("cgroup.pids", "problem", facts_of("cgroup", pids_limit=100, pids_used=90), "10 more threads"),
    ("cgroup.pids", "warning", facts_of("cgroup", pids_limit=300, pids_used=90), "210 more threads"),
    (
        "processes.means",
        "warning",
        facts_of("processes", means_enough=False, means_lacking={"supervisor": "no /bin/sh"}),
        "may outlive",
    ),
    ("processes.pidfd", "warning", facts_of("processes", pidfd=False), "no pidfds"),
    ("processes.proc", "note", facts_of("processes", hidepid="2"), "hidepid=2"),
    (
        "processes.init",
        "warning",
        msgspec.structs.replace(facts_of("processes", pid1="bash"), place=DOCKER),
        "process 1 of this container is bash",
    ),
    ("processes.stacks", "note", facts_of("processes", pyspy=""), "not installed"),
    (
        "processes.stacks",
        "note",
        facts_of("processes", ptrace_self=False, ptrace_scope=1),
        "ptrace_scope is 1",
    ),
    (
        "network.hostname",
        "warning",
        where(name=NameFacts(hostname=Lookup(name="gpu-a", addresses=["127.0.1.1"]))),
        "resolves to 127.0.1.1",
    ),
    (
        "network.hostname",
        "warning",
        where(name=NameFacts(hostname=Lookup(name="gpu-a", problem="Name or service not known"))),
        "has no address",
    ),
    (
        "network.hostname",
        "warning",
        where(name=NameFacts(hostname=msgspec.structs.replace(HERE, took_s=4.0))),
        "took 4.0 s",
    ),
    (
        "network.peer_name",
        "warning",
        where(peer_name=PeerNameFacts(address="10.0.0.4", took_s=9.8)),
        "looking up the name of 10.0.0.4 took 9.8 s",
    ),
    ("network.fqdn", "warning", where(fqdn=FqdnFacts(fqdn="gpu-a", took_s=4.9)), "took 4.9 s"),
    (
        "network.localhost",
        "problem",
        where(localhost=LocalhostFacts(localhost=Lookup(name="localhost", addresses=["10.1.1.1"]))),
        "is 10.1.1.1",
    ),
    ("network.addresses", "note", facts_of("network", interfaces=[]), "no address but loopback"),
    ("network.infiniband", "warning", facts_of("network", infiniband=["mlx5_0 DOWN"]), "mlx5_0 DOWN"),
    (
        "network.ephemeral",
        "problem",
        facts_of("network", ephemeral_first=60000, ephemeral_last=60020),
        "21 of ports 60000-60020",
    ),
    (
        "network.ephemeral",
        "note",
        facts_of("network", ephemeral_first=1024, ephemeral_last=65535),
        "29400 and 29500",
    ),
    (
        "network.rendezvous_port",
        "warning",
        facts_of("network", rendezvous_port_problem="in use by python (pid 7)"),
        "in use by python (pid 7)",
    ),
    ("network.master_port", "warning", facts_of("network", master_port_problem="in use"), "port 29500"),
    (
        "endpoint.name",
        "problem",
        facts_of("endpoint", lookup=Lookup(name="node0", problem="Name or service not known")),
        "has no address",
    ),
    (
        "endpoint.reach",
        "problem",
        facts_of("endpoint", listening=False, problem="no answer in 4.0 s"),
        "can't be reached",
    ),
    ("endpoint.reach", "warning", facts_of("endpoint", listening=False, refused=True), "nobody listens"),
    ("endpoint.address", "warning", facts_of("endpoint", local_addr="127.0.0.1"), "127.0.0.1"),
    (
        "gpu.driver",
        "problem",
        where(gpus=GpusFacts(device_files=8, problem="Driver/library version mismatch")),
        "mismatch",
    ),
    ("gpu.driver", "note", where(gpus=GpusFacts(device_files=8, library=False)), "8 NVIDIA GPUs"),
    ("gpu.devices", "problem", where(gpus=one_bad(lost=True)), "GPU 3 has fallen"),
    ("gpu.devices", "note", where(gpus=one_bad(name="NVIDIA A100")), "several kinds"),
    ("gpu.enough", "warning", where(gpus=gpus(4)), "4 GPUs"),
    ("gpu.in_use", "warning", where(gpus=one_bad(pids=[4711], memory_used_bytes=9 * GIB)), "by pid 4711"),
    ("gpu.ecc", "problem", where(gpus=one_bad(remap_failed=True)), "GPU 3 could not"),
    ("gpu.ecc", "warning", where(gpus=one_bad(ecc_uncorrected=2)), "(2)"),
    ("gpu.ecc", "warning", where(gpus=one_bad(remap_pending=True)), "waits for a reset"),
    ("gpu.xid", "warning", where(gpus=gpus(xids=["0000:18:00: 79"])), "1 XID error"),
    ("gpu.throttle", "warning", where(gpus=one_bad(throttled=["hw_slowdown"], temperature_c=91.0)), "91 °C"),
    ("gpu.persistence", "note", where(gpus=one_bad(persistence=False)), "off for GPU 3"),
    ("gpu.compute_mode", "problem", where(gpus=one_bad(compute_mode="prohibited")), "GPU 3 may not"),
    ("gpu.mig", "note", where(gpus=one_bad(mig=True)), "GPU 3 is split"),
    ("gpu.fabric", "problem", where(gpus=one_bad(fabric="in progress")), "in progress"),
    (
        "gpu.peers",
        "note",
        where(gpus=gpus(peers_blocked=[(0, 1), (0, 2)], peers_problem="chipset not supported")),
        "GPUs 0 and 1 and 1 other pair",
    ),
    ("software.python", "problem", facts_of("python", version="3.9.2"), "Python 3.9.2"),
    ("software.text", "warning", facts_of("python", encoding="ANSI_X3.4-1968", locale="C"), "locale C"),
    ("software.torch", "note", where(torch=TorchFacts(installed=False)), "not installed"),
    (
        "software.torch",
        "problem",
        where(torch=TorchFacts(problem="ImportError: libcudart.so.13: cannot open shared object file")),
        "libcudart.so.13",
    ),
    ("software.torch", "warning", facts_of("torch", version="2.4.1+cu121"), "2.4.1"),
    ("software.torch", "warning", facts_of("torch", took_s=40.0), "took 40.0 s"),
    ("software.distributed", "problem", facts_of("torch", distributed=False), "without torch.distributed"),
    (
        "software.cuda",
        "problem",
        facts_of("torch", cuda="13.0", devices=0),
        "driver 570.86.15 runs up to 12.8",
    ),
    ("software.cuda", "note", facts_of("torch", cuda="12.9"), "12.9"),
    ("software.cuda", "warning", facts_of("torch", version="2.13.0+cpu", cuda=""), "without CUDA"),
    ("software.cuda", "problem", facts_of("torch", devices=0, cuda_problem="Error 802"), "Error 802"),
    ("software.nccl", "warning", facts_of("torch", nccl=""), "no NCCL"),
    ("clock.sync", "warning", facts_of("clock", synchronized=False, keepers=[]), "not synchronised"),
    (
        "clock.sync",
        "note",
        facts_of("clock", synchronized=False, keepers=["chronyd"]),
        "although chronyd runs",
    ),
    ("clock.sync", "warning", facts_of("clock", max_error_s=12.0), "12.0 s off"),
    ("clock.source", "note", facts_of("clock", source="hpet"), "hpet"),
    (
        "storage.state",
        "problem",
        facts_of("state_dir", writable=False, problem="Permission denied"),
        "Permission denied",
    ),
    ("storage.state", "note", facts_of("state_dir", filesystem="nfs4"), "nfs4"),
    ("storage.logs", "warning", facts_of("log_dir", free_bytes=500 * MIB), "500 MiB"),
    ("storage.tmp", "problem", facts_of("tmp_dir", free_bytes=MIB), "1 MiB"),
    ("storage.tmp", "warning", facts_of("tmp_dir", free_inodes=12), "12 more files"),
    ("storage.tmp", "warning", facts_of("tmp_dir", took_s=3.0), "took 3.0 s"),
    ("place.systemd", "note", facts_of("place", systemd_unit="train.service"), "train.service"),
]


@pytest.mark.parametrize(
    ("check", "level", "machine", "words"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_bad_is_told_with_its_reason(check: str, level: Level, machine: Machine, words: str) -> None:
    finding = found(machine)[check]
    assert (finding.level, words in finding.what) == (level, True), finding
    assert finding.why
    if level in ("warning", "problem"):
        assert finding.remedy, "what is wrong has a remedy"
    for text in (finding.what, finding.why, finding.remedy):
        assert "\n" not in text and not text.endswith(".")


ENVIRONMENTS: list[tuple[str, Level, dict[str, str], str]] = [
    ("environment.threads", "warning", {"OMP_NUM_THREADS": "96"}, "768 threads on 96 cores"),
    ("environment.threads", "warning", {"OMP_NUM_THREADS": "many"}, "is no number"),
    ("environment.threads", "note", {"OMP_NUM_THREADS": ""}, "rally sets 1"),
    ("environment.options", "warning", {"PET_NNODE": "2"}, "PET_NNODE is set"),
    ("environment.options", "note", {"PET_NNODES": "2"}, "PET_NNODES=2"),
    ("environment.leftovers", "note", {"MASTER_ADDR": "old", "RANK": "3"}, "RANK and MASTER_ADDR are set"),
    ("environment.leftovers", "note", {"TORCHELASTIC_RUN_ID": "j1"}, "inside a worker of the job j1"),
    ("environment.switches", "warning", {"CUDA_LAUNCH_BLOCKING": "1"}, "CUDA_LAUNCH_BLOCKING=1"),
    ("environment.switches", "note", {"NCCL_DEBUG": "INFO"}, "NCCL_DEBUG=INFO"),
    ("network.socket_ifname", "problem", {"NCCL_SOCKET_IFNAME": "ib0"}, "NCCL_SOCKET_IFNAME=ib0"),
    ("network.socket_ifname", "problem", {"GLOO_SOCKET_IFNAME": "eth"}, "GLOO_SOCKET_IFNAME=eth"),
    ("network.socket_ifname", "ok", {"NCCL_SOCKET_IFNAME": "eth"}, "NCCL_SOCKET_IFNAME=eth"),
    ("gpu.visible", "problem", {"CUDA_VISIBLE_DEVICES": "0,8,1"}, "8 is beyond the last GPU, 7"),
    ("gpu.visible", "problem", {"CUDA_VISIBLE_DEVICES": "1,1"}, "names 1 twice"),
    ("gpu.visible", "problem", {"CUDA_VISIBLE_DEVICES": "GPU-999"}, "is no GPU of this machine"),
    ("gpu.visible", "warning", {"CUDA_VISIBLE_DEVICES": ""}, "hides all 8 GPUs"),
    ("gpu.visible", "ok", {"CUDA_VISIBLE_DEVICES": "GPU-333,GPU-444"}, "GPU-333"),
    ("gpu.enough", "warning", {"CUDA_VISIBLE_DEVICES": "0,1"}, "2 GPUs"),
    ("place.slurm", "warning", {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "8"}, "8 tasks on a node"),
    ("place.slurm", "warning", {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1790000120"}, "ends in 2 min"),
    ("place.slurm", "note", {"SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": "1(x4)"}, "KillWait"),
]


@pytest.mark.parametrize(
    ("check", "level", "environ", "words"), ENVIRONMENTS, ids=lambda value: str(value)[:40]
)
def test_variables_that_change_a_run_are_told(
    check: str, level: Level, environ: dict[str, str], words: str
) -> None:
    finding = found(WELL, asked(**environ))[check]
    assert (finding.level, words in finding.what) == (level, True), finding


def test_a_pod_is_told_what_its_grace_must_be() -> None:
    pod = facts_of("place", container="kubernetes")
    assert "set it to 35 at least" in found(pod)["place.kubernetes"].remedy
    short = msgspec.structs.replace(ASKED, shutdown_timeout_s=20)
    assert found(pod, short)["place.kubernetes"].level == "ok"


def test_the_remedy_is_for_where_this_is() -> None:
    small = facts_of("memory", shm_total_bytes=64 * MIB, shm_free_bytes=64 * MIB)
    commands = [
        found(msgspec.structs.replace(small, place=msgspec.structs.replace(WELL.place, container=container)))[
            "memory.shm"
        ].command
        for container in ("", "docker", "kubernetes")
    ]
    assert ["mount -o remount" in commands[0], "--shm-size" in commands[1], "emptyDir" in commands[2]] == [
        True
    ] * 3


def test_a_small_shm_breaks_nccl_and_not_gloo() -> None:
    small = facts_of("memory", shm_total_bytes=64 * MIB, shm_free_bytes=64 * MIB)
    without_gpus = msgspec.structs.replace(small, gpus=GpusFacts())
    assert (found(small)["memory.shm"].level, found(without_gpus)["memory.shm"].level) == (
        "problem",
        "warning",
    )


def test_a_limit_that_may_be_raised_is_raised_in_the_shell() -> None:
    assert found(facts_of("limits", nofile=Limit(256, 4096)))["limits.nofile"].command == "ulimit -n 4096"
    assert "limits.conf" in found(facts_of("limits", nofile=Limit(256, 256)))["limits.nofile"].command


def test_root_may_start_any_number_of_processes() -> None:
    assert found(facts_of("limits", nproc=Limit(10, 10), privileged=True))["limits.nproc"].level == "ok"


def test_more_workers_need_more() -> None:
    enough = facts_of("limits", nofile=Limit(4096, 4096))
    assert found(enough)["limits.nofile"].level == "ok"
    default_of_a_large_server = facts_of("limits", nofile=Limit(1024, 1 << 20))
    assert (
        found(default_of_a_large_server, msgspec.structs.replace(ASKED, nproc=128))["limits.nofile"].level
        == "note"
    )
    many = msgspec.structs.replace(ASKED, nproc=1000)
    assert found(enough, many)["limits.nofile"].level == "problem"


def test_facts_that_did_not_come_are_told_once() -> None:
    told = found(where(gpus=None), silent={"gpus": Silence(15.0)})
    silent = [finding for finding in told.values() if finding.id.startswith("gpu.")]
    assert [(finding.id, finding.level) for finding in silent] == [("gpu.driver", "warning")]
    assert "did not answer in 15 s" in silent[0].what


def test_facts_that_could_not_be_had_say_why() -> None:
    finding = found(where(clock=None), silent={"clock": Silence(None, "OSError: no")})["clock.sync"]
    assert (finding.level, "OSError: no" in finding.what) == ("note", True)


def test_nothing_is_said_of_what_was_not_looked_at() -> None:
    assert found(Machine()) == {}


@pytest.mark.parametrize("name", Machine.__struct_fields__)
def test_a_judge_gets_along_without_the_facts_beside_its_own(name: str) -> None:
    alone = Machine(**{name: getattr(WELL, name)})
    assert found(alone) or name == "torch"


def test_checks_are_chosen_by_id_group_and_pattern() -> None:
    assert [check.id for check in chosen_checks(["limits.nofile"], [])] == ["limits.nofile"]
    assert {check.group for check in chosen_checks(["gpu", "clock"], [])} == {"gpu", "clock"}
    assert all("port" in check.id for check in chosen_checks(["*port"], []))
    assert "gpu" not in {check.group for check in chosen_checks([], ["gpu.*"])}
    assert len(chosen_checks([], [])) == len(CHECKS)


@pytest.mark.parametrize(
    ("only", "skip", "words"),
    [
        (["gp"], [], "--only is 'gp', and no check is called so; did you mean gpu?"),
        ([], ["limits.nofiles"], "did you mean limits.nofile?"),
        ([], ["torch"], "did you mean software.torch?"),
        (["xyz"], [], "rally doctor --list"),
        (["clock"], ["clock.*"], "--skip leaves out all of 2 checks"),
    ],
)
def test_a_choice_of_nothing_is_refused(only: list[str], skip: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        chosen_checks(only, skip)
    assert words in str(refused.value)


def test_only_the_facts_that_are_needed_are_gathered() -> None:
    assert facts_needed(chosen_checks(["clock.source"], [])) == ["clock"]
    assert "gpus" in facts_needed(chosen_checks(["software.cuda"], []))


@pytest.mark.parametrize(
    ("value", "prefix", "names"),
    [
        ("eth", True, ["eth0", "eth1"]),
        ("=eth1", True, ["eth1"]),
        ("^lo,docker", True, ["eth0", "eth1"]),
        ("^=lo", True, ["eth0", "eth1", "docker0"]),
        ("eth", False, []),
        ("eth1", False, ["eth1"]),
    ],
)
def test_interfaces_are_chosen_as_nccl_and_gloo_choose_them(
    value: str, prefix: bool, names: list[str]
) -> None:
    assert matched(value, ["lo", "eth0", "eth1", "docker0"], prefix=prefix) == names


@pytest.mark.parametrize(
    ("machine", "strict", "code", "words"),
    [
        (WELL, False, 0, "no warnings, no problems"),
        (facts_of("torch", nccl=""), False, 0, "1 warning, no problems"),
        (facts_of("torch", nccl=""), True, 1, "1 warning, no problems"),
        (facts_of("memory", shm_there=False), False, 1, "1 problem, no warnings"),
    ],
)
def test_problems_make_the_exit_code_and_warnings_if_asked(
    machine: Machine, strict: bool, code: int, words: str
) -> None:
    said = report(judged(CHECKS, machine, ASKED, {}), ASKED, machine, {}, strict=strict, took_s=0.1)
    assert (said.exit_code, said.verdict_in_words()) == (code, words)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of that type may hold."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{name: values_of(hint) for name, hint in get_type_hints(kind).items()})
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if origin is UnionType:
        return st.one_of(*map(values_of, arguments))
    return PLAIN[kind]


PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.one_of(st.integers(0, 100), st.integers(0, 1 << 62)),
    float: st.floats(0, 1e9),
    str: st.sampled_from(
        ["", "0", "eth0", "127.0.0.1", "10.0.0.5", "fe80::1%eth0", "2.13.0+cu128", "completed"]
    ),
    bool: st.booleans(),
    type(None): st.none(),
}
ANY_ENVIRON = st.dictionaries(
    st.sampled_from(sorted({name for _, _, environ, _ in ENVIRONMENTS for name in environ})),
    st.sampled_from(
        ["", "0", "1", "0,1", "-1", "x", "1(x4)", "1790000000", "^lo", "=eth0", "GPU-1", "MIG-1", ",,"]
    ),
)


@given(values_of(Machine), ANY_ENVIRON, st.integers(1, 4096), st.integers(0, 3600))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_whatever_the_machine_is_it_is_judged_in_whole_sentences(
    machine: Machine, environ: dict[str, str], nproc: int, shutdown_timeout_s: int
) -> None:
    run = Asked(nproc=nproc, environ=environ, shutdown_timeout_s=shutdown_timeout_s)
    for finding in judged(CHECKS, machine, run, {}):
        assert finding.what
        assert finding.level == "ok" or finding.why
        assert finding.remedy or finding.level in ("ok", "note")
        assert "None" not in f"{finding.what} {finding.why} {finding.remedy} {finding.command}"


def test_the_report_keeps_the_environment_to_itself() -> None:
    secret = asked(WANDB_API_KEY="s3cr3t")
    said = report(judged(CHECKS, WELL, secret, {}), secret, WELL, {}, strict=False, took_s=0.1)
    assert b"s3cr3t" not in msgspec.json.encode(said)
