"""Python, torch and the clock."""

from __future__ import annotations

import ctypes
import locale
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from toolkit.adapters.doctor.child import output_of
from toolkit.adapters.doctor.limits import text_in
from toolkit.core.doctor.facts import ClockFacts, PythonFacts, TorchFacts

_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_STA_UNSYNC = 0x40
#: as the kernel calls them, at 15 letters
_KEEPERS = {
    "chronyd": "chronyd",
    "ntpd": "ntpd",
    "systemd-timesyn": "systemd-timesyncd",
    "ptp4l": "ptp4l",
    "phc2sys": "phc2sys",
    "openntpd": "openntpd",
}

# The answer is on a pipe of its own, because plug-ins that torch loads may print to stdout. It makes no CUDA context:
# counting devices only initialises the driver.
_ASK = """
import importlib.util, json, os, sys, time, warnings
answer = {"installed": importlib.util.find_spec("torch") is not None}
start = time.monotonic()
try:
    if answer["installed"]:
        import torch
        answer["took_s"] = round(time.monotonic() - start, 2)
        answer["version"] = str(torch.__version__)
        answer["cuda"] = torch.version.cuda or ""
        answer["hip"] = getattr(torch.version, "hip", None) or ""
        import torch.distributed as dist
        answer["distributed"] = dist.is_available()
        if answer["distributed"]:
            names = ("gloo", "nccl", "mpi", "ucc", "xccl")
            answer["backends"] = [n for n in names if getattr(dist, f"is_{n}_available", bool)()]
        if "nccl" in answer.get("backends", ()):
            answer["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer["devices"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
            answer["cuda_problem"] = str(told[0].message).split(" (Triggered")[0] if told else ""
except BaseException as error:
    answer["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
os.write(int(sys.argv[1]), json.dumps(answer).encode())
"""


def torch(python: str, environ: Mapping[str, str], patience_s: float) -> TorchFacts:
    """What another interpreter's torch says of itself.

    Args:
        python: that of the workers.
        environ: what workers inherit.
        patience_s: how long importing it may take.

    Raises:
        TimeoutError: it took longer.
        OSError: no such interpreter.
    """
    reader, writer = os.pipe()
    try:
        done = output_of((python, "-c", _ASK, str(writer)), patience_s, environ, pass_fds=(writer,))
        os.set_blocking(reader, False)
        text = _waiting_in(reader)
    finally:
        os.close(reader)
        os.close(writer)
    if done is None:
        raise TimeoutError(f"importing torch took longer than {patience_s:g} s")
    if not text:
        last = (done[2].strip().splitlines() or [""])[-1]
        ended = f"killed by signal {-done[0]}" if done[0] < 0 else f"exit code {done[0]}"
        return TorchFacts(python=python, problem=f"{ended} {last}".strip())
    return msgspec.structs.replace(msgspec.json.decode(text, type=TorchFacts), python=python)


def _waiting_in(reader: int) -> bytes:
    """What is in the pipe now; its other end is open here, too, and must not make this wait."""
    try:
        return os.read(reader, 1 << 16)
    except BlockingIOError:
        return b""


def python(environ: Mapping[str, str], rally: str) -> PythonFacts:
    """This interpreter.

    Args:
        environ: what says how text is encoded.
        rally: version of rallypoint.
    """
    return PythonFacts(
        version=platform.python_version(),
        executable=sys.executable,
        encoding="utf-8" if sys.flags.utf8_mode else locale.getencoding(),
        locale=next((environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environ.get(name)), ""),
        rally=rally,
        unsafe_path=bool(sys.flags.safe_path),
    )


class _Timex(ctypes.Structure):
    """The beginning of what adjtimex(2) fills, and room for all of it."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


def clock() -> ClockFacts:
    """What the kernel thinks of its clock. Asks; sets nothing."""
    state = _Timex()
    try:
        code = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        code = -1
    known = code >= 0
    return ClockFacts(
        synchronized=not state.status & _STA_UNSYNC if known else None,
        max_error_s=round(state.maxerror / 1e6, 4) if known else None,
        source=text_in(_CLOCK_SOURCE) or "",
        keepers=_keepers(),
    )


def _keepers(proc: Path = Path("/proc")) -> list[str]:
    names = {text_in(path) for path in proc.glob("[0-9]*/comm")}
    return sorted(keeper for comm, keeper in _KEEPERS.items() if comm in names)
