"""What a worker died of, in words: from its exit code, its last words, and what the kernel has on record. Pure.

The error file of torch's `@record` counts more than stderr, and both count more than the exit code alone. Never raises,
whatever a dying process has left; the time it takes is bounded by the length of what is looked at.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Sequence

import msgspec

from toolkit.core.diagnosing.kernel_record import KernelRecord
from toolkit.core.diagnosing.known_errors import LESS_MEMORY, Kind, Known, first_known, is_crash_line
from toolkit.core.diagnosing.tracebacks import Found, clean_lines, last_traceback
from toolkit.core.hanging.watched import HUNG
from toolkit.core.job_report import Hand, hand_of
from toolkit.core.launch_plan import WorkerExit
from toolkit.core.words import in_short, signal_name

#: the last lines that are looked at where there is no traceback, and that may follow one that still counts
_LAST_LINES, _LAST_SAID, _AFTER_ERROR, _AFTER_EXIT = 150, 8, 60, 12
#: characters that are looked at of a worker that was stopped: there may be many of them
_STOPPED_CHARS = 8_192
#: characters of a message in an error file that are looked at
_MESSAGE_CHARS = 4_000
#: exit codes that Python gives an exception, and how far a shell's code is from the signal
_OF_EXCEPTION, _SHELL = (1,), 128

_SIGNALS: dict[int, Known] = {
    signal.SIGSEGV: Known("segmentation fault", "own", "first", "python -X faulthandler shows the line"),
    signal.SIGBUS: Known(
        "bus error: /dev/shm full?", "memory", "first", "`df -h /dev/shm`; more of it: --shm-size"
    ),
    signal.SIGILL: Known("illegal instruction: built for another CPU?", "own", "first"),
    signal.SIGFPE: Known("arithmetic error, such as a division by zero", "own", "first"),
    signal.SIGABRT: Known("abort", "unknown", "unclear"),
    signal.SIGXCPU: Known("the limit of CPU time is reached (ulimit -t)", "stopped", "first"),
    signal.SIGXFSZ: Known("the limit of a file's size is reached (ulimit -f)", "own", "first"),
    signal.SIGSYS: Known("a system call that is forbidden here (seccomp)", "own", "first"),
    signal.SIGPIPE: Known("wrote where nobody reads any more", "peer", "second"),
    signal.SIGKILL: Known("SIGKILL from outside, not from this agent", "stopped", "first"),
    signal.SIGTERM: Known("SIGTERM from outside, not from this agent", "stopped", "first"),
    signal.SIGINT: Known("SIGINT from outside, not from this agent", "stopped", "first"),
    signal.SIGHUP: Known("SIGHUP: its terminal or session is gone", "stopped", "first"),
}
_EXIT_CODES: dict[int, Known] = {
    126: Known(
        "exit code 126: the command can't be executed", "own", "first", "chmod +x, or a wrong interpreter"
    ),
    127: Known("exit code 127: command not found", "own", "first", "a full path, or PATH of the workers"),
}
_USAGE = re.compile(r"^\S{1,200}: error: .{1,400}|^usage: .{0,400}")


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker died of.

    Args:
        what: in one line; empty if there is no more to say than its exit code.
        kind: what it is about.
        hand: whether it died of itself, of another's death, or neither can be told.
        remedy: what helps, in one line, or empty.
        message: what it said itself, in one line, such as "ValueError: bad shape"; or empty.
        traceback: its traceback, or what stands for one; or empty.
    """

    what: str = ""
    kind: Kind = "unknown"
    hand: Hand = "unclear"
    remedy: str = ""
    message: str = ""
    traceback: str = ""


def diagnose(end: WorkerExit) -> Diagnosis:
    """What the worker of `end`, which has failed, died of."""
    if end.problem.startswith(HUNG):
        # Its agent killed it for that, whatever it said of it.
        return Diagnosis(what=end.problem, kind="own", hand="first", message=end.problem)
    told = _of_error_file(end)
    if told is None:
        lines = clean_lines(end.last_words) if end.last_words else []
        told = _of_stderr(lines, _traceback(lines, end.exit_code), end)
    return _with_kernel(told, end)


def consequence(end: WorkerExit) -> str:
    """Of what other worker's death a worker spoke that was stopped then, in words; or an empty string."""
    if not end.failed:
        return ""
    # As if it had ended by the error that it told of; the end of its words is enough for that.
    told = diagnose(
        dataclasses.replace(end, exit_code=1, last_words=end.last_words[-_STOPPED_CHARS:], kernel=None)
    )
    return (told.what or told.message) if told.hand == "second" else ""


# -- what it said -------------------------------------------------------------------------------------------------


def _of_error_file(end: WorkerExit) -> Diagnosis | None:
    """By torch's error file; None if there is none that says something."""
    message = (end.error_data or {}).get("message")
    extra = message.get("extraInfo") if isinstance(message, dict) else None
    said = message.get("message") if isinstance(message, dict) else message
    said = said.strip() if isinstance(said, str) else ""
    trace = extra.get("py_callstack") if isinstance(extra, dict) else None
    trace = trace if isinstance(trace, str) else ""
    if end.error_data is None or end.error_unusable or not (said or trace):
        return None
    first_line = said.split("\n", 1)[0][:1_000]
    found = last_traceback(clean_lines(trace)) if trace else None
    heads = [said[:_MESSAGE_CHARS], *reversed(found.messages if found else ())]
    is_it = first_known(heads)
    if is_it is not None:
        return _diagnosis(is_it, first_line, trace)
    name = signal_name(end.exit_code)
    return Diagnosis(kind="own", hand=hand_of(name, said, trace), message=first_line, traceback=trace)


def _traceback(lines: Sequence[str], exit_code: int) -> Found | None:
    """The traceback of what ended the process; None for one that it only logged some time before, as far as is seen."""
    found = last_traceback(lines)
    if found is None:
        return None
    fatal = found.lines[0].startswith("Fatal Python error")
    if exit_code < 0 and not fatal and exit_code not in (-signal.SIGABRT, -signal.SIGINT):
        return None
    most = _AFTER_ERROR if exit_code in _OF_EXCEPTION or exit_code < 0 else _AFTER_EXIT
    return found if found.after <= most else None


def _of_stderr(lines: Sequence[str], found: Found | None, end: WorkerExit) -> Diagnosis:
    by_code = _of_code(end)
    if found is not None and found.exceptions:
        message = found.exceptions[-1]
        # What was raised in the end counts most, then what it came of; an abort may have other words below.
        is_it = first_known(reversed(found.messages))
        if is_it is None and message.startswith("Fatal Python error"):
            is_it = first_known(line for line in reversed(lines) if is_crash_line(line))
            if is_it is None and by_code is not None:
                is_it = dataclasses.replace(by_code, remedy="")  # faulthandler has shown the line already
        if is_it is not None:
            return _diagnosis(is_it, message, found.text)
        hand: Hand = "second" if _of_closed_pipe(found) else "unclear" if found.aside else "first"
        kind: Kind = "peer" if hand == "second" else "own"
        # Of one that was killed by a signal in the end, such as an abort while it shut down, nobody says the message.
        what = message if end.exit_code < 0 else ""
        return Diagnosis(what=what, kind=kind, hand=hand, message=message, traceback=found.text)
    last = [line for line in lines[-_LAST_LINES:] if line.strip()]
    crash = [line for line in last if is_crash_line(line)]
    if end.exit_code < 0 and end.exit_code not in (-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV):
        return _diagnosis(by_code, "", "") if by_code else Diagnosis()
    is_it = first_known(reversed(crash)) or first_known(reversed(last[-_LAST_SAID:]))
    message = _crash_message(crash) if crash else _last_error(last)
    trace = found.text if found is not None else "\n".join(crash) + "\n" if len(crash) > 1 else ""
    if is_it is not None:
        return _diagnosis(is_it, message, trace)
    if by_code is not None:
        own = by_code.hand == "unclear" and bool(crash)
        return _diagnosis(
            Known(f"{by_code.what}: {message}", "own", "first") if own else by_code, message, trace
        )
    # It ended by itself with a code of its own; whether others made it do so is not said.
    what = "" if message or trace or not last else f"the last it wrote to stderr: {in_short(last[-1])}"
    return Diagnosis(
        what=what, kind="own" if message else "unknown", hand="unclear", message=message, traceback=trace
    )


def _of_closed_pipe(found: Found) -> bool:
    """Whether a connection of multiprocessing was closed by the other side: an EOFError without words."""
    return found.exceptions[-1].rstrip(": ") == "EOFError" and any(
        "multiprocessing/connection.py" in line for line in found.lines
    )


def _crash_message(crash: Sequence[str]) -> str:
    """Why a library of C or C++ ended the process, in a line."""
    thrown = next((line for line in crash if "terminate called after throwing" in line), "")
    what = next((line for line in crash if "what(): " in line), "")
    if thrown and what:
        name = thrown.rpartition("instance of ")[2].strip("' \"")
        return f"C++ exception {name}: {what.split('what(): ', 1)[1].strip()}"[:1_000]
    return crash[-1].strip()


def _last_error(last: Sequence[str]) -> str:
    """The last line that says that something is wrong, as argparse and the interpreter do."""
    usage = next((line for line in reversed(last[-5:]) if _USAGE.match(line) and ": error: " in line), "")
    return usage.strip()[:400]


# -- exit codes and signals ---------------------------------------------------------------------------------------


def _of_code(end: WorkerExit) -> Known | None:
    if end.problem:
        return Known("", "own", "first")
    if end.exit_code < 0:
        return _SIGNALS.get(-end.exit_code, Known("", "stopped", "unclear"))
    if end.exit_code in _EXIT_CODES:
        return _EXIT_CODES[end.exit_code]
    of_shell = _SIGNALS.get(end.exit_code - _SHELL)
    if of_shell is not None:
        name = signal.Signals(end.exit_code - _SHELL).name
        what = f"its program was killed by {name} ({end.exit_code} = 128 + {end.exit_code - _SHELL})"
        return Known(what, of_shell.kind, of_shell.hand, of_shell.remedy)
    return None


def _diagnosis(is_it: Known, message: str, traceback: str) -> Diagnosis:
    return Diagnosis(
        what=is_it.what,
        kind=is_it.kind,
        hand=is_it.hand,
        remedy=is_it.remedy,
        message=message,
        traceback=traceback,
    )


# -- what the kernel has on record --------------------------------------------------------------------------------


def _with_kernel(told: Diagnosis, end: WorkerExit) -> Diagnosis:
    record = end.kernel
    if record is None:
        return told
    killed = end.exit_code in (-signal.SIGKILL, _SHELL + signal.SIGKILL)
    child_killed = told.kind == "memory" or "DataLoader worker" in told.message
    if record.oom_kills and (killed or child_killed):
        return msgspec.structs.replace(
            told, what=_oom(record, killed), kind="memory", hand="first", remedy=LESS_MEMORY
        )
    if record.xids and (told.kind == "gpu" or not told.what or told.kind == "unknown"):
        what = f"{told.what}; " if told.what else ""
        return msgspec.structs.replace(
            told, what=f"{what}the driver reported Xid {record.xids[-1]}", kind="gpu", hand="first"
        )
    if record.fault and end.exit_code == -signal.SIGSEGV:
        return msgspec.structs.replace(told, what=f"{told.what} {record.fault}")
    if killed and told.kind == "stopped" and record.counted:
        by = "nor from" if end.exit_code < 0 else "not by"
        return msgspec.structs.replace(told, what=f"{told.what}, {by} the kernel's OOM killer")
    return told


def _oom(record: KernelRecord, killed: bool) -> str:
    who = "killed" if killed else "one of its processes was killed"
    if not record.certain:
        who = f"probably {who}"
    if record.limit_bytes is not None:
        return f"{who} by the kernel's OOM killer: its cgroup's limit is {_size(record.limit_bytes)}"
    return f"{who} by the kernel's OOM killer: the machine was out of memory"


def _size(count: int) -> str:
    """Such as "512 MiB", "8.0 GiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
