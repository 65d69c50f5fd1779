"""The table of checks: which facts each needs, and who judges them. Their ids stay the same over versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from toolkit.core.doctor import environment, gpus, limits, memory, network, processes, software, storage
from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import Asked, Finding, Said, Silence
from toolkit.core.errors import ConfigurationError
from toolkit.core.words import plural

#: facts, the run they are judged for, and all other facts -> what is to be said, or None where it does not apply
Judge = Callable[[Any, Asked, Machine], Said | None]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        id: group and name.
        title: what is looked at, in words.
        facts: the field of `Machine` that it judges.
        judge: makes a finding of it.
        also: fields of `Machine` that it looks at besides, if they are there.
        silent: why it matters if the facts do not come.
    """

    id: str
    title: str
    facts: str
    judge: Judge
    also: tuple[str, ...] = ()
    silent: str = "what it would say is not known"

    @property
    def group(self) -> str:
        """The first part of its id."""
        return self.id.partition(".")[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """All fields of `Machine` that it looks at."""
        return (self.facts, *self.also)

    def found(self, machine: Machine, asked: Asked, silent: dict[str, Silence]) -> Finding | None:
        """The finding; None where this check does not apply, or its facts were not asked for."""
        facts = getattr(machine, self.facts)
        if facts is not None:
            said = self.judge(facts, asked, machine)
        elif self.facts in silent:
            said = self._unanswered(silent[self.facts])
        else:
            return None
        if said is None:
            return None
        return Finding(
            id=self.id,
            title=self.title,
            level=said.level,
            what=said.what,
            why=said.why,
            remedy=said.remedy,
            command=said.command,
        )

    def _unanswered(self, silence: Silence) -> Said:
        if silence.after_s is None:
            return Said("note", f"{self.title}: not known, {silence.words()}", self.silent)
        what = f"{self.title}: {silence.words()}"
        return Said(
            "warning",
            what,
            self.silent,
            "see what it hangs in, or leave it out",
            f"rally doctor --skip {self.id}",
        )


_CONTAINER = ("place",)
_SLOW_PEERS = (
    "torch's store asks for the name of each peer that connects, and serves nobody until it is answered"
)
_SLOW_DNS = "each process that looks it up waits as long, at every start and restart"

CHECKS: tuple[Check, ...] = (
    Check("limits.nofile", "open files", "limits", limits.nofile, _CONTAINER),
    Check("limits.nproc", "processes and threads", "limits", limits.nproc, _CONTAINER),
    Check("limits.memlock", "locked memory", "limits", limits.memlock, _CONTAINER),
    Check("limits.stack", "stack", "limits", limits.stack),
    Check("limits.core", "core dumps", "limits", limits.core),
    Check("memory.shm", "shared memory", "memory", memory.shm, ("place", "gpus")),
    Check("memory.available", "free memory", "memory", memory.available),
    Check("memory.overcommit", "overcommitment of memory", "memory", memory.overcommit),
    Check("cgroup.memory", "memory limit of the control group", "cgroup", memory.group_memory, ("memory",)),
    Check("cgroup.oom", "earlier kills for want of memory", "cgroup", memory.oom_kills),
    Check("cgroup.cpu", "CPU quota", "cgroup", memory.group_cpu),
    Check("cgroup.pids", "processes of the control group", "cgroup", memory.group_pids),
    Check("processes.means", "means by which nothing outlives the agent", "processes", processes.means),
    Check("processes.cgroup", "a control group for the workers", "cgroup", processes.kill_group),
    Check("processes.pidfd", "waiting for a process's end", "processes", processes.pidfd),
    Check("processes.proc", "what /proc shows", "processes", processes.proc),
    Check("processes.init", "process 1 of the container", "processes", processes.init, _CONTAINER),
    Check("processes.stacks", "stacks of hanging workers", "processes", processes.stacks, _CONTAINER),
    Check("network.hostname", "this machine's name", "name", network.hostname, ("network",), _SLOW_DNS),
    Check("network.fqdn", "this machine's full name", "fqdn", network.fqdn, (), _SLOW_DNS),
    Check("network.peer_name", "names of addresses", "peer_name", network.peer_name, (), _SLOW_PEERS),
    Check("network.localhost", "the name localhost", "localhost", network.localhost, (), _SLOW_DNS),
    Check("network.addresses", "addresses that peers could use", "network", network.addresses),
    Check("network.socket_ifname", "interfaces that variables name", "network", network.socket_ifname),
    Check("network.infiniband", "RDMA devices", "network", network.infiniband),
    Check("network.ephemeral", "free ports", "network", network.ephemeral),
    Check("network.rendezvous_port", "default port of the rendezvous", "network", network.rendezvous_port),
    Check("network.master_port", "default MASTER_PORT", "network", network.master_port),
    Check("endpoint.name", "name of the endpoint", "endpoint", network.endpoint_name, (), _SLOW_DNS),
    Check("endpoint.reach", "way to the endpoint", "endpoint", network.endpoint_reach),
    Check("endpoint.address", "our address towards the endpoint", "endpoint", network.endpoint_address),
    Check(
        "gpu.driver", "driver of the GPUs", "gpus", gpus.driver, (), "workers that use a GPU may hang as well"
    ),
    Check("gpu.devices", "GPUs", "gpus", gpus.devices),
    Check("gpu.enough", "a GPU for each worker", "gpus", gpus.enough),
    Check("gpu.visible", "CUDA_VISIBLE_DEVICES", "gpus", gpus.visible),
    Check("gpu.in_use", "others on the GPUs", "gpus", gpus.in_use),
    Check("gpu.ecc", "memory of the GPUs", "gpus", gpus.ecc),
    Check("gpu.xid", "errors of GPUs in the kernel's log", "gpus", gpus.xids),
    Check("gpu.throttle", "clocks of the GPUs", "gpus", gpus.throttled),
    Check("gpu.persistence", "persistence of the driver", "gpus", gpus.persistence),
    Check("gpu.compute_mode", "who may use the GPUs", "gpus", gpus.compute_mode),
    Check("gpu.mig", "GPUs that are split", "gpus", gpus.mig),
    Check("gpu.fabric", "NVLink fabric", "gpus", gpus.fabric),
    Check("gpu.peers", "access between GPUs", "gpus", gpus.peers),
    Check("software.python", "Python", "python", software.python),
    Check("software.text", "encoding of text", "python", software.text),
    Check("software.torch", "torch", "torch", software.torch, (), "each worker imports it at each start"),
    Check("software.distributed", "torch.distributed", "torch", software.distributed),
    Check("software.cuda", "CUDA of torch and of the driver", "torch", software.cuda, ("gpus",)),
    Check("software.nccl", "NCCL", "torch", software.nccl, ("gpus",)),
    Check("clock.sync", "setting of the clock", "clock", software.clock_sync, _CONTAINER),
    Check("clock.source", "source of time", "clock", software.clock_source),
    Check(
        "storage.state",
        "where runs are recorded",
        "state_dir",
        storage.state_dir,
        (),
        "runs are recorded there",
    ),
    Check(
        "storage.logs",
        "the folder of --log-dir",
        "log_dir",
        storage.log_dir,
        (),
        "workers' output goes there",
    ),
    Check("storage.tmp", "temporary files", "tmp_dir", storage.tmp_dir, (), "everybody puts files there"),
    Check("environment.threads", "OMP_NUM_THREADS", "place", environment.threads, ("cgroup",)),
    Check("environment.options", "PET_ variables", "place", environment.options),
    Check("environment.leftovers", "variables of a worker", "place", environment.leftovers),
    Check("environment.switches", "variables that slow a run down", "place", environment.switches),
    Check("place.where", "where this is", "place", environment.place),
    Check("place.slurm", "a Slurm job's end", "place", environment.slurm),
    Check("place.kubernetes", "a pod's end", "place", environment.kubernetes),
    Check("place.systemd", "a service's end", "place", environment.systemd),
)


def chosen_checks(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """The checks to be made.

    Args:
        only: ids or patterns such as "gpu.*"; the name of a group stands for all of it; empty for all checks.
        skip: likewise, those to be left out.

    Raises:
        ConfigurationError: one of them means no check, or nothing is left.
    """
    wanted = [check for check in CHECKS if not only or any(_means(word, check) for word in only)]
    left = [check for check in wanted if not any(_means(word, check) for word in skip)]
    for option, words in (("--only", only), ("--skip", skip)):
        for word in words:
            if not any(_means(word, check) for check in CHECKS):
                raise ConfigurationError(_no_check(word, option))
    if not left:
        raise ConfigurationError(f"--skip leaves out all of {plural(len(wanted), 'check')}; leave some in")
    return left


def _means(word: str, check: Check) -> bool:
    return word == check.group or fnmatchcase(check.id, word)


def _no_check(word: str, option: str) -> str:
    # Who remembers the second part of an id alone is told the whole.
    names = {check.id.partition(".")[2]: check.id for check in CHECKS}
    names |= {check.group: check.group for check in CHECKS} | {check.id: check.id for check in CHECKS}
    near = get_close_matches(word, names, n=1)
    remedy = f"did you mean {names[near[0]]}?" if near else "`rally doctor --list` has them all"
    return f"{option} is {word!r}, and no check is called so; {remedy}"


def facts_needed(checks: Sequence[Check]) -> list[str]:
    """The fields of `Machine` that these checks look at."""
    return list(dict.fromkeys(field for check in checks for field in check.needs))


def judged(
    checks: Sequence[Check], machine: Machine, asked: Asked, silent: dict[str, Silence]
) -> list[Finding]:
    """What the checks find, in the order of the table. Of facts that did not come only the first check tells."""
    told: set[str] = set()
    findings = []
    for check in checks:
        if check.facts in told:
            continue
        found = check.found(machine, asked, silent)
        if check.facts in silent:
            told.add(check.facts)
        if found is not None:
            findings.append(found)
    return findings
