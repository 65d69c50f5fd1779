"""Facts of a machine, as values. What could not be read is None; a unit is in the name."""

from __future__ import annotations

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """A limit of this process; None is no limit.

    Args:
        soft: what holds.
        hard: to where the soft one may be raised without root.
    """

    soft: int | None
    hard: int | None


class LimitsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What processes may have.

    Args:
        nofile: open files, of one process.
        nproc: processes and threads, of this user.
        memlock: bytes locked in memory.
        core: bytes of a core dump.
        stack: bytes of stack.
        pid_max: process ids of the machine.
        threads_max: threads of the machine.
        file_max: open files of the machine.
        threads_now: threads of this user that are there now, as far as they can be seen.
        privileged: whether the number of processes does not bind this user.
        core_pattern: where core dumps go.
        rdma: whether there is an RDMA device, which locks memory.
    """

    nofile: Limit
    nproc: Limit
    memlock: Limit
    core: Limit
    stack: Limit
    pid_max: int | None = None
    threads_max: int | None = None
    file_max: int | None = None
    threads_now: int = 0
    privileged: bool = False
    core_pattern: str = ""
    rdma: bool = False


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Memory, and that which is shared.

    Args:
        total_bytes: of the machine.
        available_bytes: without swapping.
        shm_there: whether /dev/shm is there.
        shm_writable: whether a file can be made there.
        shm_total_bytes: its size.
        shm_free_bytes: of it.
        overcommit: vm.overcommit_memory; 2 refuses what may not be there.
    """

    total_bytes: int | None = None
    available_bytes: int | None = None
    shm_there: bool = True
    shm_writable: bool = True
    shm_total_bytes: int | None = None
    shm_free_bytes: int | None = None
    overcommit: int | None = None


class CgroupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The control groups that this process is in.

    Args:
        version: "v1", "v2", "v1 and v2" (hybrid), or empty where there are none.
        path: of this process in the unified hierarchy.
        memory_limit_bytes: the smallest on the way to the root; None for none.
        memory_used_bytes: of that group.
        oom_kills: that group has seen.
        cpu_quota_cores: CPU time per time; None for no quota.
        cores: that this process may run on.
        pids_limit: the smallest; None for none.
        pids_used: of that group.
        child_possible: whether a child group could be made; None if it was not tried.
        child_problem: why not.
        kill_possible: whether a group can be killed as one (cgroup.kill, Linux 5.14).
    """

    version: str = ""
    path: str = ""
    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None
    oom_kills: int | None = None
    cpu_quota_cores: float | None = None
    cores: int = 1
    pids_limit: int | None = None
    pids_used: int | None = None
    child_possible: bool | None = None
    child_problem: str = ""
    kill_possible: bool = False


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What this kernel lets an agent do with its workers.

    Args:
        kernel: its release.
        pidfd: whether a process can be waited for by a descriptor.
        parent_death: whether the kernel ends a process with its parent.
        subreaper: whether orphans can be adopted.
        children_listed: whether /proc says which children a process has.
        hidepid: of the mount of /proc: "", "0", "1", "2", "invisible", ...
        pid1: what process 1 is called.
        is_pid1_child: whether process 1 started us, or is us.
        means: by which nothing outlives the agent, strongest first.
        means_lacking: those that are not there, and why.
        means_enough: whether they also reach what a worker has made a daemon.
        pyspy: path of py-spy; empty without.
        ptrace_scope: kernel.yama.ptrace_scope; None without Yama.
        ptrace_self: whether a child of ours may be read; None if it was not tried.
        ptrace_problem: why not.
    """

    kernel: str = ""
    pidfd: bool = True
    parent_death: bool = True
    subreaper: bool = True
    children_listed: bool = True
    hidepid: str = ""
    pid1: str = ""
    is_pid1_child: bool = False
    means: list[str] = []
    means_lacking: dict[str, str] = {}
    means_enough: bool = True
    pyspy: str = ""
    ptrace_scope: int | None = None
    ptrace_self: bool | None = None
    ptrace_problem: str = ""


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """A name that was looked up.

    Args:
        name: that was asked for.
        addresses: those it has.
        took_s: how long that took.
        problem: why there are none.
    """

    name: str = ""
    addresses: list[str] = []
    took_s: float = 0.0
    problem: str = ""


class NameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The name of this machine, and what it resolves to."""

    hostname: Lookup


class FqdnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The full name of this machine.

    Args:
        fqdn: as the name service has it.
        took_s: how long that took.
    """

    fqdn: str = ""
    took_s: float = 0.0


class PeerNameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The name that belongs to an address, as torch's store asks for that of each peer.

    Args:
        address: of this machine, as others see it.
        name: as the name service has it; the address itself if it has none.
        took_s: how long that took.
    """

    address: str = ""
    name: str = ""
    took_s: float = 0.0


class LocalhostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `localhost` is."""

    localhost: Lookup


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface.

    Args:
        name: such as "eth0".
        up: whether it is.
        addresses: IPv4 and IPv6, without those of the link.
        speed_mbit: per second; None where it does not say.
        mtu: bytes of a packet.
    """

    name: str
    up: bool = True
    addresses: list[str] = []
    speed_mbit: int | None = None
    mtu: int | None = None


class NetworkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Interfaces and ports.

    Args:
        interfaces: all but those without any use.
        towards_world: our address towards other machines, if there is a route.
        ephemeral_first: of the ports that the kernel gives away.
        ephemeral_last: of them.
        ports_used: how many of these are in use.
        ipv6: whether this machine speaks it.
        rendezvous_port: the default port of the rendezvous.
        rendezvous_port_problem: why nobody can listen there; empty if it is free.
        master_port: the default MASTER_PORT.
        master_port_problem: likewise.
        infiniband: RDMA devices, with their state: "mlx5_0 ACTIVE".
    """

    interfaces: list[Interface] = []
    towards_world: str = ""
    ephemeral_first: int | None = None
    ephemeral_last: int | None = None
    ports_used: int = 0
    ipv6: bool = False
    rendezvous_port: int = 29400
    rendezvous_port_problem: str = ""
    master_port: int = 29500
    master_port_problem: str = ""
    infiniband: list[str] = []


class EndpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The rendezvous endpoint, seen from here.

    Args:
        host: that was asked for.
        port: likewise.
        lookup: of the host.
        own: whether it is an address of this machine.
        listening: whether somebody listens there.
        took_s: to connect.
        local_addr: our address towards it.
        problem: why it can't be reached.
        refused: whether a machine answered that nobody listens there.
    """

    host: str
    port: int
    lookup: Lookup
    own: bool = False
    listening: bool = False
    took_s: float = 0.0
    local_addr: str = ""
    problem: str = ""
    refused: bool = False


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. What the driver does not say is None.

    Args:
        index: as the driver counts.
        name: as the vendor calls it.
        uuid: "GPU-...".
        pci: its bus id.
        memory_total_bytes: of it.
        memory_used_bytes: by programs.
        temperature_c: of the chip.
        power_w: of the board.
        power_limit_w: of the board.
        persistence: whether the driver stays loaded without users.
        ecc: whether memory errors are corrected.
        ecc_uncorrected: errors since the driver was loaded that could not be.
        remap_pending: whether memory rows wait for a reset to be replaced.
        remap_failed: whether replacing one has failed.
        retired_pending: the same of older GPUs.
        throttled: why its clocks are held down.
        compute_mode: "default", "exclusive" or "prohibited".
        mig: whether it is split.
        fabric: state of the NVLink fabric: "not supported", "not started", "in progress", "completed".
        fabric_problem: why the fabric did not come up.
        pids: that compute on it.
        lost: whether it does not answer any more.
    """

    index: int
    name: str = ""
    uuid: str = ""
    pci: str = ""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    ecc_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    retired_pending: bool | None = None
    throttled: list[str] = []
    compute_mode: str = ""
    mig: bool | None = None
    fabric: str = ""
    fabric_problem: str = ""
    pids: list[int] = []
    lost: bool = False


class GpusFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs and their driver.

    Args:
        device_files: of NVIDIA GPUs that this process sees.
        other: device files of other vendors.
        library: whether the package that reads the driver is installed.
        problem: why the driver can't be read.
        driver: its version.
        cuda: the newest CUDA that it runs, such as "12.8".
        gpus: those there are.
        peers_blocked: pairs of GPUs that can't reach each other's memory.
        peers_problem: why not.
        nvlinks: whether any pair is joined by NVLink.
        xids: errors in the kernel's log, as "GPU 0000:18:00: 79"; None if it may not be read.
    """

    device_files: int = 0
    other: list[str] = []
    library: bool = True
    problem: str = ""
    driver: str = ""
    cuda: str = ""
    gpus: list[GpuFacts] = []
    peers_blocked: list[tuple[int, int]] = []
    peers_problem: str = ""
    nvlinks: bool | None = None
    xids: list[str] | None = None


class TorchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """torch of the interpreter that workers run with.

    Args:
        python: that interpreter.
        installed: whether it has torch.
        problem: why it can't be imported.
        version: such as "2.13.0+cu130".
        cuda: it was built for; empty for none.
        hip: it was built for; empty for none.
        nccl: version; empty for none.
        backends: of torch.distributed that are there.
        distributed: whether there is torch.distributed.
        devices: GPUs that it can use; None if it does not say.
        cuda_problem: why it can't use any.
        took_s: to import.
    """

    python: str = ""
    installed: bool = True
    problem: str = ""
    version: str = ""
    cuda: str = ""
    hip: str = ""
    nccl: str = ""
    backends: list[str] = []
    distributed: bool = True
    devices: int | None = None
    cuda_problem: str = ""
    took_s: float = 0.0


class PythonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Python and text.

    Args:
        version: of this interpreter.
        executable: it.
        encoding: of text that is printed to files.
        locale: LC_ALL, LC_CTYPE or LANG, whichever holds.
        rally: version of rallypoint.
        unsafe_path: whether the working directory is not searched for modules.
    """

    version: str = ""
    executable: str = ""
    encoding: str = "utf-8"
    locale: str = ""
    rally: str = ""
    unsafe_path: bool = False


class ClockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The clock.

    Args:
        synchronized: whether the kernel takes it to be; None if it does not say.
        max_error_s: as far as it may be off.
        source: what the kernel measures time with.
        keepers: programs that set it and run: "chronyd", "systemd-timesyncd".
    """

    synchronized: bool | None = None
    max_error_s: float | None = None
    source: str = ""
    keepers: list[str] = []


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A folder, or the nearest one above that exists.

    Args:
        path: that was asked for.
        exists: at which folder it was looked.
        filesystem: its kind, such as "ext4" or "nfs4".
        writable: whether a file could be made there.
        problem: why not.
        free_bytes: for this user.
        total_bytes: of it.
        free_inodes: for this user; None where the file system has no fixed number.
        total_inodes: of it.
        took_s: to make and remove a file.
    """

    path: str
    exists: str = ""
    filesystem: str = ""
    writable: bool = True
    problem: str = ""
    free_bytes: int | None = None
    total_bytes: int | None = None
    free_inodes: int | None = None
    total_inodes: int | None = None
    took_s: float = 0.0


class PlaceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where this machine lives.

    Args:
        host: its name.
        system: operating system and kernel.
        machine: such as "x86_64".
        container: "docker", "podman", "kubernetes", "lxc", ...; empty for none.
        virtual: "wsl", "gvisor", ...; empty for none that matters.
        systemd_unit: that this process is in, if it is one of a service.
        terminal: whether somebody sits before it.
        now_s: seconds since 1970, to tell how long a job may still run.
    """

    host: str = ""
    system: str = ""
    machine: str = ""
    container: str = ""
    virtual: str = ""
    systemd_unit: str = ""
    terminal: bool = False
    now_s: float = 0.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """All facts. None: not asked for, or they did not come."""

    place: PlaceFacts | None = None
    limits: LimitsFacts | None = None
    memory: MemoryFacts | None = None
    cgroup: CgroupFacts | None = None
    processes: ProcessFacts | None = None
    name: NameFacts | None = None
    fqdn: FqdnFacts | None = None
    peer_name: PeerNameFacts | None = None
    localhost: LocalhostFacts | None = None
    network: NetworkFacts | None = None
    endpoint: EndpointFacts | None = None
    gpus: GpusFacts | None = None
    torch: TorchFacts | None = None
    python: PythonFacts | None = None
    clock: ClockFacts | None = None
    state_dir: FolderFacts | None = None
    log_dir: FolderFacts | None = None
    tmp_dir: FolderFacts | None = None

    @property
    def container(self) -> str:
        """Which kind of container this is in; empty for none, or if that is not known."""
        return self.place.container if self.place is not None else ""
