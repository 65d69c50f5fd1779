"""How `rally doctor` comes to its facts: from this machine, and from pictures of others."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.adapters.doctor import (
    cgroups,
    child,
    gpus,
    limits,
    memory,
    names,
    network,
    place,
    processes,
    software,
    storage,
)
from toolkit.adapters.doctor.child import output_of
from toolkit.adapters.doctor.gather import gather
from toolkit.core.doctor.facts import ClockFacts, FqdnFacts, Limit

LONG_S = 60.0


# -- gathering ------------------------------------------------------------------------------------------------


def test_what_hangs_is_silent_and_holds_up_nobody() -> None:
    never = threading.Event()
    gathered = gather(
        {"fqdn": lambda _: never.wait(), "clock": lambda _: ClockFacts(source="tsc")},
        {"fqdn": 0.2, "clock": LONG_S},
    )
    never.set()
    assert gathered.machine.clock == ClockFacts(source="tsc")
    assert gathered.machine.fqdn is None
    assert gathered.silent["fqdn"].words() == "did not answer in 0.2 s"


def test_what_raises_is_silent_and_says_why() -> None:
    def broken(patience_s: float) -> FqdnFacts:
        raise OSError(5, "Input/output error")

    silence = gather({"fqdn": broken}, {"fqdn": LONG_S}).silent["fqdn"]
    assert silence.after_s is None and "Input/output error" in silence.why


def test_who_gave_up_by_itself_did_not_answer() -> None:
    def late(patience_s: float) -> FqdnFacts:
        raise TimeoutError

    assert gather({"fqdn": late}, {"fqdn": LONG_S}).silent["fqdn"].after_s == LONG_S


def test_limits_are_told_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    gathered = gather(
        {"fqdn": lambda _: FqdnFacts(), "limits": lambda _: limits.limits()},
        {"fqdn": LONG_S, "limits": LONG_S},
    )
    assert gathered.machine.limits is not None
    assert gathered.silent["fqdn"].words() == "can't start new thread"


def test_all_are_asked_side_by_side() -> None:
    together = threading.Barrier(2)  # passed only if both are there at a time

    def meet(patience_s: float) -> FqdnFacts:
        together.wait(LONG_S)
        return FqdnFacts()

    gathered = gather({"fqdn": meet, "clock": meet}, {"fqdn": LONG_S, "clock": LONG_S})
    assert gathered.silent == {}


def test_a_program_that_hangs_is_ended() -> None:
    assert output_of((sys.executable, "-c", "import time; time.sleep(600)"), 0.2) is None


def test_one_that_is_not_gone_at_once_when_it_is_killed_is_reaped_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "_LAST_S", 0.0)
    assert output_of(("sh", "-c", "echo $$; exec sleep 600"), 0.2) is None
    [left] = child._left
    os.waitid(os.P_PID, left.pid, os.WEXITED | os.WNOWAIT)
    assert output_of(("true",), LONG_S) == (0, "", "")
    assert child._left == []
    assert left.returncode == -signal.SIGKILL


# -- this machine ---------------------------------------------------------------------------------------------


def test_limits_are_those_of_this_process() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = limits.limits()
    assert found.nofile == Limit(soft, hard)
    assert found.threads_now >= 1


def test_memory_is_there(tmp_path: Path) -> None:
    found = memory.memory(shm=tmp_path)
    assert found.shm_there and found.shm_writable
    assert 0 < (found.available_bytes or 0) <= (found.total_bytes or 0)
    assert not memory.memory(shm=tmp_path / "absent").shm_there


def test_this_kernel_is_told_of() -> None:
    found = processes.processes(LONG_S)
    assert found.kernel and found.pidfd == hasattr(os, "pidfd_open")
    assert "process groups" in found.means


def test_names_are_looked_up() -> None:
    assert names.localhost().localhost.addresses
    unknown = names.look_up("no-such-host.invalid")
    assert unknown.addresses == [] and unknown.problem


def test_the_clock_is_only_asked() -> None:
    found = software.clock()
    assert found.synchronized is None or (found.max_error_s or 0.0) >= 0.0


@contextmanager
def listener() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_port_in_use_is_told_with_its_holder() -> None:
    with listener() as port:
        found = network.network(port, port)
    assert f"pid {os.getpid()}" in found.rendezvous_port_problem
    assert any("127.0.0.1" in face.addresses for face in found.interfaces)


def test_an_endpoint_that_listens_is_reached() -> None:
    with listener() as port:
        found = network.endpoint("127.0.0.1", port, LONG_S)
    assert (found.listening, found.own, found.local_addr) == (True, True, "127.0.0.1")


def test_an_endpoint_where_nobody_listens_is_this_machine() -> None:
    with listener() as port:
        pass
    found = network.endpoint("127.0.0.1", port, LONG_S)
    assert (found.listening, found.own, found.refused) == (False, True, True)


def test_an_endpoint_without_an_address_says_so() -> None:
    assert network.endpoint("no-such-host.invalid", 1, LONG_S).lookup.problem


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    found = storage.folder(tmp_path / "a" / "b")
    assert (found.writable, found.exists) == (True, str(tmp_path))
    assert (found.free_bytes or 0) > 0 and found.filesystem
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in storage.folder(tmp_path / "file").problem


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_can_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    found = storage.folder(tmp_path)
    tmp_path.chmod(stat.S_IRWXU)
    assert not found.writable and found.problem


def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount() -> None:
    mounts = (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "22 21 0:40 / /home rw - nfs4 server:/home rw\n"
        "23 22 0:41 / /home/a\\040b rw - tmpfs tmpfs rw\n"
    )
    kinds = [storage._kind_of(Path(path), mounts) for path in ("/var", "/home/u/runs", "/home/a b/x")]
    assert kinds == ["ext4", "nfs4", "tmpfs"]


# -- control groups -------------------------------------------------------------------------------------------


def proc(folder: Path, cgroup: str, mountinfo: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc" / "cgroup").write_text(cgroup)
    (folder / "proc" / "mountinfo").write_text(mountinfo)
    return folder / "proc"


def test_limits_of_version_2_hold_on_the_way_to_the_root(tmp_path: Path) -> None:
    mount = tmp_path / "cg"
    inner = mount / "slurm" / "job_7"
    inner.mkdir(parents=True)
    (mount / "slurm" / "memory.max").write_text("8589934592\n")
    (mount / "slurm" / "memory.current").write_text("1024\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("400000 100000\n")
    (mount / "slurm" / "cpu.max").write_text("max 100000\n")
    (inner / "pids.max").write_text("512\n")
    (inner / "pids.current").write_text("12\n")
    (inner / "memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    where = proc(tmp_path, "0::/slurm/job_7\n", f"30 1 0:26 / {mount} rw - cgroup2 cgroup2 rw\n")
    found = cgroups.cgroup(where, trial=False)
    assert (found.version, found.memory_limit_bytes, found.memory_used_bytes) == ("v2", 8 << 30, 1024)
    assert (found.cpu_quota_cores, found.pids_limit, found.pids_used, found.oom_kills) == (4.0, 512, 12, 2)


def test_limits_of_version_1_in_a_container(tmp_path: Path) -> None:
    memory_mount, cpu_mount = tmp_path / "memory", tmp_path / "cpu"
    for mount in (memory_mount, cpu_mount):
        mount.mkdir()
    (memory_mount / "memory.limit_in_bytes").write_text("4294967296\n")
    (memory_mount / "memory.usage_in_bytes").write_text("1000\n")
    (memory_mount / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (cpu_mount / "cpu.cfs_quota_us").write_text("150000\n")
    (cpu_mount / "cpu.cfs_period_us").write_text("100000\n")
    # The path is that of the host, of which only the container's own part is mounted.
    where = proc(
        tmp_path,
        "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
        f"31 1 0:1 /docker/abc {memory_mount} rw - cgroup cgroup rw,memory\n"
        f"32 1 0:2 /docker/abc {cpu_mount} rw - cgroup cgroup rw,cpu,cpuacct\n",
    )
    found = cgroups.cgroup(where, trial=False)
    assert (found.version, found.memory_limit_bytes, found.cpu_quota_cores, found.oom_kills) == (
        "v1",
        4 << 30,
        1.5,
        1,
    )


def test_a_limit_of_version_1_that_is_none(tmp_path: Path) -> None:
    mount = tmp_path / "memory"
    mount.mkdir()
    (mount / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    where = proc(tmp_path, "5:memory:/\n", f"31 1 0:1 / {mount} rw - cgroup cgroup rw,memory\n")
    assert cgroups.cgroup(where, trial=False).memory_limit_bytes is None


def test_the_trial_leaves_nothing() -> None:
    found = cgroups.cgroup()
    assert found.child_possible or found.child_problem
    assert not list(Path("/sys/fs/cgroup").glob(f"**/rallypoint-doctor-{os.getpid()}"))


# -- places ---------------------------------------------------------------------------------------------------


def test_places_are_told_apart(tmp_path: Path) -> None:
    def here(environ: dict[str, str]) -> str:
        return place.place(environ, terminal=False, root=tmp_path).container

    assert here({}) == ""
    (tmp_path / ".dockerenv").write_text("")
    assert here({}) == "docker"
    assert here({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "kubernetes"
    assert here({"APPTAINER_NAME": "torch.sif"}) == "apptainer"


def test_a_service_is_told_from_a_session() -> None:
    assert place._unit("0::/system.slice/train.service\n") == "train.service"
    assert place._unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/tmux.scope\n") == ""
    assert (
        place._unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/nightly.service\n")
        == "nightly.service"
    )


# -- torch and GPUs -------------------------------------------------------------------------------------------


def test_an_interpreter_without_torch_says_so(tmp_path: Path) -> None:
    # Without site-packages there is no torch, whatever is installed here.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    found = software.torch(str(bare), dict(os.environ), LONG_S)
    assert (found.installed, found.problem, found.version) == (False, "", "")


def test_an_interpreter_that_dies_says_how(tmp_path: Path) -> None:
    bad = tmp_path / "python"
    bad.write_text("#!/bin/sh\nkill -SEGV $$\n")
    bad.chmod(0o755)
    assert software.torch(str(bad), dict(os.environ), LONG_S).problem.startswith("killed by signal 11")


def test_a_torch_that_can_not_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    found = software.torch(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)}, LONG_S)
    assert found.problem == "ImportError: libcudart.so.13: cannot open shared object file"


def test_a_torch_that_hangs_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
    with pytest.raises(TimeoutError):
        software.torch(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)}, 0.5)


@pytest.mark.torch
def test_the_torch_that_is_here_says_what_it_is() -> None:
    found = software.torch(sys.executable, dict(os.environ), LONG_S)
    assert found.problem == "" and found.version and "gloo" in found.backends


def test_where_there_is_no_gpu_nobody_is_asked(tmp_path: Path) -> None:
    assert gpus.gpus(LONG_S, devices=tmp_path).device_files == 0
    (tmp_path / "kfd").write_text("")
    assert gpus.gpus(LONG_S, devices=tmp_path).other == ["AMD GPU"]


class Refused(Exception):
    """Stands for `pynvml.NVMLError`."""


class FakeLibrary(SimpleNamespace):
    """Stands for `pynvml`; what it has not been given the driver refuses."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("c_nvml"):
            raise AttributeError(name)  # as a package that is older than the question

        def refused(*_: object) -> None:
            raise Refused(name)

        return refused


def rows_of(handle: str) -> tuple[int, int, int, int]:
    if handle == "gpu1":
        raise Refused
    return 0, 1, 1, 0


def two_gpus() -> FakeLibrary:
    """Two GPUs joined by PCIe, of which the second does not say much."""
    return FakeLibrary(
        NVMLError=Refused,
        NVMLError_GpuIsLost=type("Lost", (Refused,), {}),
        NVMLError_ResetRequired=type("Reset", (Refused,), {}),
        NVMLError_NoPermission=type("NoPermission", (Refused,), {}),
        NVML_P2P_STATUS_OK=0,
        NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED=1,
        nvmlClocksEventReasonHwSlowdown=0x8,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetName=lambda handle: b"NVIDIA L4",
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x8 if handle == "gpu0" else 0,
        nvmlDeviceGetRemappedRows=rows_of,
        nvmlDeviceGetP2PStatus=lambda one, other, index: 1,
        nvmlSystemGetDriverVersion=lambda: "570.86.15",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 12080,
    )


def test_gpus_say_what_the_driver_says() -> None:
    from toolkit.adapters.readings.nvml import Nvml

    found = gpus.facts_of_driver(Nvml(two_gpus()), device_files=2)
    assert (found.driver, found.cuda, len(found.gpus)) == ("570.86.15", "12.8", 2)
    first, second = found.gpus
    assert (first.name, first.uuid, first.remap_pending, first.throttled) == (
        "NVIDIA L4",
        "GPU-gpu0",
        True,
        ["hw_slowdown"],
    )
    assert (second.remap_pending, second.throttled, second.persistence) == (None, [], None)
    assert (found.peers_blocked, found.peers_problem, found.nvlinks) == (
        [(0, 1)],
        "chipset not supported",
        False,
    )
