"""What the kernel has on record of a worker: counters of cgroups v1 and v2, its log, and what of it concerns whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.adapters.processes.kernel_record import KernelRecords
from toolkit.core.diagnosing.kernel_record import KernelRecord


class Machine:
    """Files such as those of /proc and /sys/fs/cgroup, and a log that is a file."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups, self.log = folder / "proc", folder / "cgroup", folder / "kmsg"
        self.proc.mkdir()
        self.cgroups.mkdir()
        self.log.write_text("6,1,1,-;Out of memory: Killed process 100 (old)\n")
        (self.proc / "vmstat").write_text("nr_free_pages 7\noom_kill 5\n")

    def process(self, pid: int, cgroup: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cgroup").write_text(cgroup)

    def v2(self, path: str, kills: int, limit: str) -> None:
        folder = self.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 1\noom_kill {kills}\n")
        (folder / "memory.max").write_text(f"{limit}\n")

    def v1(self, path: str, kills: int, limit: int) -> None:
        folder = self.cgroups / "memory" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")

    def says(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(text)

    def records(self) -> KernelRecords:
        return KernelRecords(self.proc, self.cgroups, self.log)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V1 = "4:memory:/job/pod\n3:cpuset:/\n0::/\n"
V2 = "0::/job/pod\n"


def test_the_cgroup_that_workers_get_from_their_agent_counts_nothing_but_those_above_do(
    machine: Machine,
) -> None:
    machine.process(100, "0::/job/pod/rally-1/rally-2\n")
    machine.v2("job/pod", 3, "max")
    machine.v2("job", 9, "max")
    records = machine.records()
    records.watch(100)
    machine.v2("job/pod", 4, "max")
    assert records.of(100, killed=True) == KernelRecord(counted=True, oom_kills=1, certain=True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_that_was_counted_meanwhile_is_told_with_the_nearest_limit(
    machine: Machine, version: int
) -> None:
    machine.process(100, V1 if version == 1 else V2)
    set_count = machine.v1 if version == 1 else machine.v2
    set_count("job/pod", 3, 8 << 30)  # type: ignore[operator]
    records = machine.records()
    records.watch(100)
    assert records.of(100, killed=True) == KernelRecord(counted=True, limit_bytes=8 << 30)
    set_count("job/pod", 4, 8 << 30)  # type: ignore[operator]
    assert records.of(100, killed=True) == KernelRecord(
        counted=True, oom_kills=1, certain=True, limit_bytes=8 << 30
    )


def test_a_limit_may_be_above(machine: Machine) -> None:
    machine.process(100, V2)
    machine.v2("job/pod", 0, "max")
    machine.v2("job", 0, str(1 << 30))
    records = machine.records()
    records.watch(100)
    assert records.of(100, killed=True).limit_bytes == 1 << 30


def test_no_limit_is_none(machine: Machine) -> None:
    machine.process(100, V1)
    machine.v1("job/pod", 0, 0x7FFFFFFFFFFFF000)
    records = machine.records()
    records.watch(100)
    assert records.of(100, killed=True).limit_bytes is None


def test_one_kill_explains_one_death(machine: Machine) -> None:
    machine.v2("job/pod", 0, "max")
    records = machine.records()
    for pid in (100, 101):
        machine.process(pid, V2)
        records.watch(pid)
    machine.v2("job/pod", 1, "max")
    assert records.of(100, killed=True).oom_kills == 1
    assert records.of(101, killed=True).oom_kills == 0


def test_the_log_says_whom_it_was(machine: Machine) -> None:
    machine.v2("job/pod", 0, "max")
    records = machine.records()
    for pid in (100, 101):
        machine.process(pid, V2)
        records.watch(pid)
    machine.v2("job/pod", 1, "max")
    machine.says(
        "3,2,2,-;Memory cgroup out of memory: Killed process 101 (python) total-vm:9kB, anon-rss:8kB\n"
    )
    assert records.of(101, killed=True).certain
    assert not records.of(100, killed=True).certain


def test_a_kill_from_before_counts_for_nobody(machine: Machine) -> None:
    machine.process(100, V2)
    machine.v2("job/pod", 7, "max")
    records = machine.records()
    records.watch(100)
    assert records.of(100, killed=True).oom_kills == 0


def test_without_a_cgroup_the_whole_machine_counts(machine: Machine) -> None:
    machine.process(100, "0::/\n")
    records = machine.records()
    records.watch(100)
    (machine.proc / "vmstat").write_text("oom_kill 6\n")
    assert records.of(100, killed=True) == KernelRecord(counted=True, oom_kills=1, certain=True)


def test_the_log_tells_of_gpus_and_faults(machine: Machine) -> None:
    machine.process(100, V2)
    records = machine.records()
    records.watch(100)
    machine.says(
        "3,3,3,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
    )
    machine.says("6,4,4,-;python[100]: segfault at 0 ip 00007f sp 00007e error 4 in libfoo.so[7f00+1000]\n")
    told = records.of(100, killed=False)
    assert told.xids == ("79 (GPU 0000:3b:00)",)
    assert told.fault == "in libfoo.so"
    records.close()


@pytest.mark.parametrize("content", ["", "garbage", "\0" * 100, "oom_kill x\n", "4:memory\n0:\n"])
def test_what_can_not_be_read_is_not_counted(machine: Machine, content: str) -> None:
    machine.process(100, content)
    (machine.proc / "vmstat").write_text(content)
    records = machine.records()
    records.watch(100)
    records.watch(4711)  # there is no such process
    for pid in (100, 4711, 4712):
        assert records.of(pid, killed=True) == KernelRecord()
    records.close()
    records.close()
