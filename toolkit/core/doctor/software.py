"""Judges of Python, torch, CUDA and NCCL, of text, and of the clock."""

from __future__ import annotations

import re

from toolkit.core.doctor.amounts import seconds
from toolkit.core.doctor.facts import ClockFacts, Machine, PythonFacts, TorchFacts
from toolkit.core.doctor.findings import Asked, Said, note, ok, problem, warning
from toolkit.core.words import plural, some

PYTHON_MIN = (3, 11)
TORCH_MIN = (2, 6)
#: importing torch takes so long where its files come from a slow disk or over a network
_SLOW_IMPORT_S = 15.0
#: clocks that are further off make the logs of several nodes hard to hold against each other
_CLOCK_OFF_S = 1.0
_SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")


def version_of(text: str) -> tuple[int, int]:
    """The first two numbers of a version; (0, 0) where there are none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def python(facts: PythonFacts, asked: Asked, machine: Machine) -> Said:
    """The interpreter."""
    if version_of(facts.version) < PYTHON_MIN:
        return problem(
            f"this is Python {facts.version}",
            "rally needs 3.11 or later",
            "make an environment with a newer one",
        )
    return ok(f"Python {facts.version}")


def text(facts: PythonFacts, asked: Asked, machine: Machine) -> Said:
    """Whether text may have more than ASCII."""
    if facts.encoding.lower().replace("-", "") == "utf8":
        return ok("UTF-8")
    return warning(
        f"text is {facts.encoding} here (locale {facts.locale or 'not set'})",
        "a worker that prints or opens a file with another letter ends with UnicodeEncodeError",
        "have UTF-8",
        "export PYTHONUTF8=1",
    )


def torch(facts: TorchFacts, asked: Asked, machine: Machine) -> Said:
    """Whether torch is there, works and is new enough."""
    if not facts.installed:
        return note(
            f"torch is not installed for {facts.python}",
            "one node runs without it; several nodes meet in a store of torch",
            "install it, unless workers have their own",
            "pip install 'rallypoint[torch]'",
        )
    if facts.problem:
        return problem(
            f"torch can't be imported: {facts.problem}",
            "every worker that uses it fails at its start",
            "mend the installation",
            "pip install --force-reinstall torch",
        )
    if version_of(facts.version) < TORCH_MIN:
        return warning(
            f"torch is {facts.version}",
            "rally is tested with 2.6 and later; rendezvous and plug-ins use what came with it",
            "take a newer one",
            "pip install 'torch>=2.6'",
        )
    if facts.took_s > _SLOW_IMPORT_S:
        return warning(
            f"importing torch {facts.version} took {seconds(facts.took_s)}",
            "each worker does at each start and restart, all at once",
            "have the environment on a disk of this machine",
        )
    return ok(f"torch {facts.version}")


def distributed(facts: TorchFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether workers can talk to each other."""
    if not facts.version:
        return None
    if not facts.distributed:
        return problem(
            f"torch {facts.version} was built without torch.distributed",
            "workers can't form a process group",
            "take a build that has it",
            "pip install --force-reinstall torch",
        )
    return ok("backends " + ", ".join(facts.backends))


def cuda(facts: TorchFacts, asked: Asked, machine: Machine) -> Said | None:
    """Whether torch's CUDA and the driver go together, and torch finds the GPUs."""
    gpus = machine.gpus
    count = len(gpus.gpus) if gpus is not None else 0
    if not facts.version or gpus is None or not (count or gpus.device_files):
        return None
    if not facts.cuda:
        if facts.hip:
            return None
        return warning(
            f"torch {facts.version} was built without CUDA, and there is a GPU",
            "workers compute on the CPU",
            "take a build for this driver",
            _build_for(gpus.cuda or "12.8"),
        )
    wants, has = version_of(facts.cuda), version_of(gpus.cuda)
    if gpus.cuda and wants[0] > has[0] and not facts.devices:
        return problem(
            f"torch is built for CUDA {facts.cuda}, and driver {gpus.driver} runs up to {gpus.cuda}",
            'torch finds no GPU: "the NVIDIA driver on your system is too old"',
            "update the driver, or take a torch for it",
            _build_for(gpus.cuda),
        )
    hidden = asked.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if facts.devices == 0 and count and not hidden:
        return problem(
            f"torch finds none of {plural(count, 'GPU')}: {facts.cuda_problem or 'it does not say why'}",
            "workers find none either",
            "see what CUDA says",
            'python -c "import torch; torch.cuda.init()"',
        )
    if gpus.cuda and wants > has:
        return note(
            f"torch is built for CUDA {facts.cuda}, and driver {gpus.driver} is of {gpus.cuda}",
            "that works within one major version, but for kernels that are compiled while running (PTX)",
            "update the driver when you can",
        )
    seen = f", {plural(facts.devices, 'GPU')}" if facts.devices is not None else ""
    return ok(f"CUDA {facts.cuda}{seen}")


def nccl(facts: TorchFacts, asked: Asked, machine: Machine) -> Said | None:
    """Which NCCL."""
    gpus = machine.gpus
    if facts.nccl:
        return ok(f"NCCL {facts.nccl}")
    if not facts.version or not facts.cuda or gpus is None or not gpus.gpus:
        return None
    return warning(
        f"torch {facts.version} has no NCCL",
        "GPUs then talk by gloo, through the memory of the host",
        "take a build that has it",
        "pip install --force-reinstall torch",
    )


def clock_sync(facts: ClockFacts, asked: Asked, machine: Machine) -> Said:
    """Whether the clock is set by a server."""
    keepers = some(facts.keepers)
    if facts.synchronized is None:
        return note(
            "whether the clock is right is not known",
            "logs of several nodes are put in order by their clocks",
        )
    if facts.synchronized and (facts.max_error_s or 0.0) <= _CLOCK_OFF_S:
        off = f" within {seconds(facts.max_error_s)}" if facts.max_error_s is not None else ""
        return ok(f"clock synchronised{off}" + (f" by {keepers}" if keepers else ""))
    why = "events and logs of several nodes are then put in the wrong order; rally's decisions do not depend on it"
    if facts.synchronized:
        return warning(
            f"the clock may be {seconds(facts.max_error_s or 0.0)} off",
            why,
            "see what its server says",
            "chronyc tracking || timedatectl timesync-status",
        )
    if facts.keepers or machine.container:
        # The host of a container may set the clock without telling this kernel; from inside nobody can say.
        although = f", although {keepers} runs" if facts.keepers else ""
        return note(
            f"the kernel does not call the clock synchronised{although}",
            why,
            "look on the host",
            "timedatectl",
        )
    return warning(
        "the clock is not synchronised", why, "have it set by a time server", "sudo timedatectl set-ntp true"
    )


def clock_source(facts: ClockFacts, asked: Asked, machine: Machine) -> Said | None:
    """What time is measured with."""
    if facts.source not in _SLOW_CLOCKS:
        return None
    return note(
        f"the kernel measures time with {facts.source}",
        "each look at the clock is a hundred times slower than with tsc; tracing and data loading suffer",
        "see why tsc was given up",
        "sudo dmesg | grep -i tsc",
    )


def _build_for(cuda: str) -> str:
    """What installs a torch for this version of CUDA."""
    return f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu{cuda.replace('.', '')}"
