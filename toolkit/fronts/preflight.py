"""What can be found wrong on this machine before anything starts.

Each check raises ConfigurationError with one sentence: what was asked for, what is in its way, what to do.
Cheap checks come first; nothing is created, and no module is imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from stat import S_ISDIR

from toolkit import wiring
from toolkit.adapters import accelerators
from toolkit.adapters.endpoint import RESOLVE_TIMEOUT_S, OnWait, check_endpoint, port_problem, resolve_within
from toolkit.adapters.from_torch.handlers import NO_HANDLER, event_handlers
from toolkit.adapters.from_torch.tcp_store import foreign_service
from toolkit.adapters.limits import processes_max
from toolkit.core.errors import ConfigurationError
from toolkit.core.launch_plan import Std
from toolkit.fronts.command_line.option_values import NPROC_WORDS
from toolkit.fronts.command_line.options import RunOptions
from toolkit.fronts.command_line.rendezvous_settings import ETCD, ETCD_V2, KEYS, RALLY
from toolkit.fronts.script_checks import check_script, mode_of

Count = Callable[[str, Mapping[str, str], str], int]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks found out.

    Args:
        nproc: workers of this node.
        hosts_endpoint: whether the endpoint is served by this agent, or is on this machine; None without one.
        local_addr: what peers can call this machine; None without an endpoint.
    """

    nproc: int
    hosts_endpoint: bool | None = None
    local_addr: str | None = None


def check(
    options: RunOptions, environ: Mapping[str, str], cwd: Path, executable: str, on_wait: OnWait
) -> Checked:
    """Make all checks.

    Args:
        environ: what the workers will inherit.
        cwd: where relative paths start.
        executable: the interpreter if PYTHON_EXEC names none.
        on_wait: told how long (seconds) the endpoint has not answered, and why.

    Raises:
        ConfigurationError: the run can't be.
    """
    check_script(options, environ, cwd, executable)
    check_directory(options.log_dir, "--log-dir", cwd)
    check_directory(options.run_dir, "--run-dir", cwd)
    check_plugins(options)
    nproc = resolve_nproc(options.nproc, environ, options.python or executable)
    check_processes(nproc)
    check_numa(options, environ, options.python or executable)
    check_local_ranks(options, nproc)
    check_visible_devices(options, environ, nproc)
    check_fixed_port(options)
    wiring.check_watch(options.hangs, environ)
    return check_rendezvous(options, nproc, on_wait)


def check_directory(path: str | None, name: str, cwd: Path) -> None:
    """That files can be made in a folder that exists or can be made. Makes nothing."""
    if path is None:
        return
    folder = cwd / path
    while not mode_of(folder, follow_symlinks=False):
        folder = folder.parent
    if not S_ISDIR(mode_of(folder)):
        what = "a file" if mode_of(folder) else "a link to nothing"
        which = "which" if folder == cwd / path else f"and {folder}"
        raise ConfigurationError(f"{name} is {path}, {which} is {what}; give the path of a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{name} is {path}, and nothing can be written to {folder}; give another folder"
        )


def check_plugins(options: RunOptions) -> None:
    """That everything that is asked for by name is installed."""
    _check_plugin(options.logs_specs, "torchrun.logs_specs", "--logs-specs", ())
    _check_event_handler(options.event_log_handler)
    if options.solo:
        return
    _check_plugin(options.rdzv_backend, "torchrun.handlers", "--rdzv-backend", tuple(KEYS))
    if importlib.util.find_spec("torch") is None:
        what = "meets in a store of torch" if options.rdzv_backend == RALLY else "is torch's"
        raise ConfigurationError(
            f"the rendezvous backend {options.rdzv_backend} {what}, and torch is not installed; install "
            "rallypoint[torch], or use --standalone for one node"
        )
    if options.rdzv_backend in (ETCD, ETCD_V2) and importlib.util.find_spec("etcd") is None:
        raise ConfigurationError(
            f"the rendezvous backend {options.rdzv_backend} needs the package python-etcd; install it, or use "
            "--rdzv-backend c10d, which needs nothing"
        )


def _check_event_handler(name: str) -> None:
    if name == NO_HANDLER:
        return
    known = event_handlers()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        listed = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
        raise ConfigurationError(
            f"--event-log-handler is {name!r}, and torch has no handler of that name; {listed}"
        )


def check_numa(options: RunOptions, environ: Mapping[str, str], python: str) -> None:
    """That there are GPUs to be near to."""
    if options.numa_binding is not None and accelerators.count("gpu", environ, python) == 0:
        raise ConfigurationError(
            f"--numa-binding {options.numa_binding} binds workers to CPUs near their GPUs, and there is no GPU here "
            "that torch can use; leave it out"
        )


def _check_plugin(wanted: str | None, group: str, name: str, built_in: Sequence[str]) -> None:
    if wanted is None or wanted in built_in:
        return
    from importlib.metadata import entry_points  # takes as long to import as all the rest of a start

    known = list(dict.fromkeys((*built_in, *sorted(entry_points(group=group).names))))
    if wanted in known:
        return
    near = get_close_matches(wanted, known, n=1, cutoff=0.4)
    listed = f"did you mean {near[0]}?" if near else f"there is {', '.join(known) or 'none'}"
    raise ConfigurationError(f"{name} is {wanted!r}, and no installed package has that; {listed}")


def resolve_nproc(
    nproc: int | str, environ: Mapping[str, str], python: str, count: Count = accelerators.count
) -> int:
    """The number of workers that `--nproc-per-node` stands for.

    Args:
        environ: what the workers will inherit.
        python: the interpreter of the workers.
        count: counts devices.
    """
    if isinstance(nproc, int):
        return nproc
    try:
        found = count(nproc, environ, python)
    except ConfigurationError as error:
        raise ConfigurationError(f"--nproc-per-node is {nproc!r}: {error}") from error
    if found > 0:
        return found
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    seen = f" with CUDA_VISIBLE_DEVICES={visible!r}" if visible is not None and nproc == "gpu" else ""
    known = nproc.upper() if nproc in NPROC_WORDS else nproc
    raise ConfigurationError(
        f"--nproc-per-node is {nproc}, and there is no {known} that torch can use{seen}; give a number, cpu or auto"
    )


def check_processes(nproc: int) -> None:
    """That so many workers can exist at all."""
    limit = processes_max()
    if limit is not None and nproc >= limit[0]:
        raise ConfigurationError(
            f"--nproc-per-node is {nproc}, and this machine allows {limit[0]} processes ({limit[1]}); "
            "start fewer workers or raise the limit"
        )


def check_local_ranks(options: RunOptions, nproc: int) -> None:
    """That the options name only local ranks that there are."""
    named: tuple[tuple[str, Sequence[int]], ...] = (
        ("--redirects", _ranks_of(options.redirects)),
        ("--tee", _ranks_of(options.tee)),
        ("--local-ranks-filter", sorted(options.local_ranks_filter or ())),
    )
    for name, ranks in named:
        beyond = [rank for rank in ranks if rank >= nproc]
        if beyond:
            there = "the only local rank is 0" if nproc == 1 else f"the local ranks are 0 to {nproc - 1}"
            raise ConfigurationError(
                f"{name} names local rank {beyond[0]}, and {there}; see --nproc-per-node"
            )


def _ranks_of(setting: Std | Mapping[int, Std]) -> Sequence[int]:
    return () if isinstance(setting, Std) else sorted(setting)


def check_visible_devices(options: RunOptions, environ: Mapping[str, str], nproc: int) -> None:
    """That each worker finds a GPU of its own where `--virtual-local-rank` gives it one."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not options.virtual_local_rank or visible is None:
        return
    devices = [device for device in visible.split(",") if device.strip()]
    if len(devices) < nproc:
        raise ConfigurationError(
            f"--virtual-local-rank gives each of {nproc} workers a GPU of its own, and CUDA_VISIBLE_DEVICES="
            f"{visible} shows {len(devices)}; start fewer workers or show more GPUs"
        )


def check_fixed_port(options: RunOptions) -> None:
    """That the port which was asked for is free."""
    port = options.fixed_port
    problem = None if port is None else port_problem(port)
    if problem is None:
        return
    asked = "the rendezvous endpoint" if options.rdzv_endpoint else "--master-port"
    free = "or leave --master-port out for a free one" if options.solo else "the same on every node"
    raise ConfigurationError(f"port {port} of {asked} is {problem}; give another port, {free}")


def check_rendezvous(options: RunOptions, nproc: int, on_wait: OnWait) -> Checked:
    """That the nodes can meet: the endpoint is on this machine, or it answers, and what answers is not foreign.

    Waits for it as long as torch's handler would; ours as long as the store may be gone.
    """
    address = options.endpoint_address
    if options.solo or address is None:
        return Checked(nproc)
    try:
        if options.hosted_endpoint:
            # Not whether it is an address of this machine: behind a cluster's service it is not, and works.
            resolve_within(address.host, address.port, RESOLVE_TIMEOUT_S, on_wait)
            return Checked(nproc, True, address.host)
        # An address of this machine needs no listener yet where this agent may be the one that is to listen.
        may_be_own = options.hosted_endpoint is None
        reached = check_endpoint(
            address.host, address.port, options.endpoint_timeout_s, on_wait, may_be_own=may_be_own
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"rendezvous endpoint: {error}") from error
    foreign = foreign_service(*address) if options.rally is not None and reached.listening else None
    if foreign is not None:
        raise ConfigurationError(
            f"rendezvous endpoint: at {address} answers {foreign}; give another port, the same on every node"
        )
    return Checked(nproc, reached.own, reached.local_addr)
