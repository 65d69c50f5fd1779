"""Judges of GPUs, their driver, and which of them workers see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from toolkit.core.doctor.amounts import GIB, size
from toolkit.core.doctor.facts import GpuFacts, GpusFacts, Machine
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning
from toolkit.core.words import plural, some

#: memory of a GPU that its driver and a desktop may take
_USED_BY_NOBODY = GIB
#: reasons for which clocks are held down by a fault or heat, and not by what was set
_BAD_REASONS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")


def driver(facts: GpusFacts, asked: Asked, machine: Machine) -> Said:
    """Whether the driver works."""
    if facts.device_files == 0 and not facts.gpus:
        if facts.other:
            return note(
                f"no NVIDIA GPU, but {some(facts.other)}", "accelerators of others are not looked at yet"
            )
        return ok("no GPU here")
    if not facts.library:
        return note(
            f"{plural(facts.device_files, 'NVIDIA GPU')}, which nobody can ask",
            "their health is then not looked at, and readings are missing in `rally top`",
            "install what reads them",
            "pip install 'rallypoint[gpu]'",
        )
    if facts.problem:
        return problem(
            f"there is an NVIDIA GPU, and its driver does not work: {facts.problem}",
            "no worker can use it",
            "see what the driver says; after an update of it, reboot",
            "nvidia-smi",
        )
    return ok(f"driver {facts.driver}, CUDA {facts.cuda}")


def devices(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Which GPUs there are, and whether any is lost."""
    lost = [gpu for gpu in facts.gpus if gpu.lost]
    if lost:
        return problem(
            f"{_named(lost)} has fallen off the bus",
            "workers that get it fail at once",
            "reset or drain the machine",
            f"sudo nvidia-smi --gpu-reset -i {lost[0].index}",
        )
    if not facts.gpus:
        return None
    kinds = Counter(gpu.name for gpu in facts.gpus)
    text = " and ".join(f"{count}x {name}" for name, count in kinds.items())
    memory = {gpu.memory_total_bytes for gpu in facts.gpus if gpu.memory_total_bytes}
    if len(kinds) > 1:
        return note(f"GPUs of several kinds: {text}", "the slowest sets the pace of all")
    return ok(f"{text} ({size(memory.pop())})" if len(memory) == 1 else text)


def enough(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether each worker has a GPU."""
    seen = visible_count(facts, asked)
    if not facts.gpus or asked.nproc <= seen or asked.nproc_from != "--nproc-per-node":
        return None
    return warning(
        f"{plural(asked.nproc, 'worker')}, and {plural(seen, 'GPU')} that they see",
        "those with a higher LOCAL_RANK find no device, or share one, which NCCL refuses",
        "start as many as there are GPUs",
        "rally run --nproc-per-node gpu ...",
    )


def visible_count(facts: GpusFacts, asked: Asked) -> int:
    """GPUs that workers would see, as CUDA counts: up to the first entry that means nothing."""
    text = asked.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return len(facts.gpus)
    count = 0
    for word in _entries(text):
        if _trouble(word, facts.gpus):
            break
        count += 1
    return count


def visible(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether CUDA_VISIBLE_DEVICES makes sense."""
    text = asked.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return ok("CUDA_VISIBLE_DEVICES is not set") if facts.gpus else None
    shown = f"CUDA_VISIBLE_DEVICES={text}"
    words = _entries(text)
    if not facts.gpus:
        return note(shown, "there is no GPU here that it could mean") if words else None
    if not words:
        return warning(
            f"{shown} hides all {plural(len(facts.gpus), 'GPU')}",
            "workers find none",
            "leave it out",
            "unset CUDA_VISIBLE_DEVICES",
        )
    wrong = next(((word, why) for word in words if (why := _trouble(word, facts.gpus))), None)
    if wrong is not None:
        seen = visible_count(facts, asked)
        return problem(
            f"{shown}: {wrong[0]} {wrong[1]}",
            f"CUDA stops reading there without a word, and workers see {plural(seen, 'GPU')}",
            "name those that are there",
            f"export CUDA_VISIBLE_DEVICES={','.join(str(gpu.index) for gpu in facts.gpus)}",
        )
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice:
        return problem(
            f"{shown} names {some(twice)} twice",
            "CUDA then shows no GPU at all",
            "name each once",
            f"export CUDA_VISIBLE_DEVICES={','.join(dict.fromkeys(words))}",
        )
    return ok(shown)


def _entries(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _trouble(word: str, gpus: Sequence[GpuFacts]) -> str:
    """Why an entry of CUDA_VISIBLE_DEVICES means no GPU; empty if it does."""
    if word.startswith("MIG-"):
        return ""
    if word.startswith("GPU-"):
        return "" if any(gpu.uuid.startswith(word) for gpu in gpus) else "is no GPU of this machine"
    if not word.isdecimal():
        return "is no number of a GPU"
    return "" if int(word) < len(gpus) else f"is beyond the last GPU, {len(gpus) - 1}"


def ecc(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Memory of GPUs that is broken."""
    failed = [gpu for gpu in facts.gpus if gpu.remap_failed]
    if failed:
        return problem(
            f"{_named(failed)} could not replace a broken row of memory",
            "computing there gives wrong numbers or XID errors",
            "take it out of service, and have it replaced",
            f"nvidia-smi -q -d ROW_REMAPPER -i {failed[0].index}",
        )
    wrong = [gpu for gpu in facts.gpus if gpu.ecc_uncorrected]
    pending = [gpu for gpu in facts.gpus if gpu.remap_pending or gpu.retired_pending]
    if wrong or pending:
        gpu = (wrong or pending)[0]
        what = (
            f"{_named(wrong)} had memory errors that could not be corrected ({gpu.ecc_uncorrected})"
            if wrong
            else f"{_named(pending)} waits for a reset to replace broken memory"
        )
        return warning(
            what,
            "a worker that comes upon them is killed, with XID 48 or 94 in the kernel's log",
            "reset it when nobody uses it",
            f"sudo nvidia-smi --gpu-reset -i {gpu.index}",
        )
    off = [gpu for gpu in facts.gpus if gpu.ecc is False]
    if off and any(gpu.ecc for gpu in facts.gpus):
        return note(
            f"{_named(off)} does not correct memory errors, others do", "it may compute other numbers"
        )
    return ok("memory sound") if facts.gpus else None


def throttled(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """GPUs that are slower than they could be."""
    held = [gpu for gpu in facts.gpus if set(gpu.throttled).intersection(_BAD_REASONS)]
    if not held:
        return ok("clocks free") if facts.gpus else None
    reasons = sorted({reason for gpu in held for reason in gpu.throttled if reason in _BAD_REASONS})
    hottest = max(gpu.temperature_c or 0 for gpu in held)
    return warning(
        f"the clocks of {_named(held)} are held down: {some(reasons)}, at up to {hottest:g} °C",
        "the slowest GPU sets the pace of all",
        "look after cooling and power",
        "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER",
    )


def in_use(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """GPUs that somebody else computes on."""
    taken = [gpu for gpu in facts.gpus if gpu.pids or (gpu.memory_used_bytes or 0) > _USED_BY_NOBODY]
    if not taken:
        return ok("nobody else on them") if facts.gpus else None
    used = size(max(gpu.memory_used_bytes or 0 for gpu in taken))
    pids = sorted({pid for gpu in taken for pid in gpu.pids})
    by = f" by {'pid' if len(pids) == 1 else 'pids'} {some([str(pid) for pid in pids], 4)}" if pids else ""
    return warning(
        f"{_named(taken)} {'is' if len(taken) == 1 else 'are'} in use{by}, with up to {used} of memory",
        "workers get what is left, and run out of memory earlier; perhaps a dead run has left something",
        "see who that is",
        "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,name --format=csv",
    )


def compute_mode(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """GPUs that may not be used, or by one process alone."""
    closed = [gpu for gpu in facts.gpus if gpu.compute_mode == "prohibited"]
    if closed:
        return problem(
            f"{_named(closed)} may not be computed on",
            "CUDA shows it and refuses it",
            "open it",
            f"sudo nvidia-smi -c DEFAULT -i {closed[0].index}",
        )
    single = [gpu for gpu in facts.gpus if gpu.compute_mode == "exclusive"]
    if single:
        return note(
            f"{_named(single)} takes one process alone",
            "a second worker there, or a restart that is too early, fails",
        )
    return None


def mig(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """GPUs that are split."""
    split = [gpu for gpu in facts.gpus if gpu.mig]
    if not split:
        return None
    return note(
        f"{_named(split)} is split by MIG",
        "NCCL does not join parts of one GPU; name MIG devices for each worker",
    )


def persistence(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether the driver stays loaded."""
    off = [gpu for gpu in facts.gpus if gpu.persistence is False]
    if not off:
        return ok("persistence on") if facts.gpus else None
    return note(
        f"persistence is off for {_named(off)}",
        "the driver is loaded anew by each first user: seconds at each start and restart",
        "switch it on",
        "sudo nvidia-smi -pm 1",
    )


def fabric(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """The NVLink fabric of machines with NVSwitch."""
    states = [gpu for gpu in facts.gpus if gpu.fabric and gpu.fabric != "not supported"]
    late = [gpu for gpu in states if gpu.fabric != "completed" or gpu.fabric_problem]
    if not late:
        return ok("NVLink fabric up") if states else None
    return problem(
        f"the NVLink fabric of {_named(late)} is not up: {late[0].fabric_problem or late[0].fabric}",
        'CUDA can\'t be initialised: error 802, "system not yet initialized"',
        "start the fabric manager, of the same version as the driver",
        "sudo systemctl restart nvidia-fabricmanager",
    )


def peers(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether GPUs reach each other's memory."""
    if len(facts.gpus) < 2:
        return None
    if facts.peers_blocked:
        first, second = facts.peers_blocked[0]
        more = f" and {len(facts.peers_blocked) - 1} other pairs" if len(facts.peers_blocked) > 1 else ""
        return note(
            f"GPUs {first} and {second}{more} can't reach each other's memory: {facts.peers_problem}",
            "NCCL goes through the memory of the host instead, which is slower, and needs /dev/shm",
            "see how they are joined",
            "nvidia-smi topo -m",
        )
    return ok("peers by NVLink" if facts.nvlinks else "peers by PCIe")


def xids(facts: GpusFacts, asked: Asked, machine: Machine) -> Said | None:
    """Errors of GPUs in the kernel's log."""
    if not facts.gpus or facts.xids is None:
        return None
    if facts.xids:
        return warning(
            f"the kernel's log has {plural(len(facts.xids), 'XID error')}: {some(facts.xids[-4:])}",
            "a GPU, its memory or its links may be failing",
            "look the numbers up, and when they were",
            "sudo dmesg -T | grep -i xid",
        )
    return ok("no XID")


def _named(gpus: Sequence[GpuFacts]) -> str:
    indices = [str(gpu.index) for gpu in gpus]
    return f"GPU {indices[0]}" if len(indices) == 1 else f"GPUs {some(indices, 8)}"
