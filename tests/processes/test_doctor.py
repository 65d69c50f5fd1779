"""`rally doctor` as a process on this machine: under a low limit, on a terminal, into a pipe, while torch hangs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.processes.jobs import RALLY, REPOSITORY, until

LONG_S = 120.0
#: all but what depends on torch, which takes seconds to be imported
QUICK = ("--skip", "software.torch,software.distributed,software.cuda,software.nccl,gpu")


def environment(**more: str) -> dict[str, str]:
    ours = (
        "PET_",
        "TORCHELASTIC_",
        "OMP_NUM_THREADS",
        "MASTER_",
        "RANK",
        "NCCL_",
        "COLUMNS",
        "NO_COLOR",
        "CUDA_VISIBLE",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1", **more}


def doctor(
    *words: str, env: Mapping[str, str] | None = None, nofile: int | None = None
) -> subprocess.CompletedProcess[str]:
    def lowered() -> None:
        if nofile is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

    return subprocess.run(
        [*RALLY, "doctor", *words],
        env=dict(env or environment()),
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
        preexec_fn=lowered,
    )


def level_of(check: str, done: subprocess.CompletedProcess[str]) -> str:
    return str(next(one["level"] for one in json.loads(done.stdout)["findings"] if one["id"] == check))


def test_this_machine_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    done = doctor(*QUICK, env=environment(XDG_STATE_HOME=str(tmp_path)))
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert re.search(r"(no|\d+) (problem|warning)", done.stdout.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_every_fact_of_this_machine_comes() -> None:
    done = doctor("--json", "--timeout", "30")
    found = json.loads(done.stdout)
    assert found["silent"] == {}
    missing = {name for name, facts in found["facts"].items() if facts is None}
    assert missing == {"endpoint", "log_dir"}
    assert found["facts"]["torch"]["version"]


def test_too_few_files_are_a_problem() -> None:
    done = doctor("--json", "--only", "limits", nofile=64)
    assert (done.returncode, level_of("limits.nofile", done)) == (1, "problem")
    text = doctor("--only", "limits", nofile=64).stdout
    assert "✘ a process may have 64 open files" in text


def test_warnings_count_if_asked() -> None:
    env = environment(CUDA_LAUNCH_BLOCKING="1")
    assert doctor("--only", "environment.switches", env=env).returncode == 0
    assert doctor("--only", "environment.switches", "--strict", env=env).returncode == 1


def test_a_leftover_interface_is_a_problem() -> None:
    done = doctor("--json", "--only", "network.socket_ifname", env=environment(NCCL_SOCKET_IFNAME="nosuch0"))
    assert (done.returncode, level_of("network.socket_ifname", done)) == (1, "problem")


def test_bad_input_starts_nothing() -> None:
    done = doctor("--only", "nonsense.*")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--only is 'nonsense.*'" in done.stderr
    assert doctor("--nonsense").returncode == 2


def test_an_endpoint_is_reached_or_not() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        done = doctor("--json", "--only", "endpoint", "--endpoint", f"127.0.0.1:{port}")
    assert (done.returncode, level_of("endpoint.reach", done)) == (0, "ok")
    unknown = doctor("--json", "--only", "endpoint", "--endpoint", "no-such-host.invalid:29400")
    assert (unknown.returncode, level_of("endpoint.name", unknown)) == (1, "problem")


def test_a_port_that_is_taken_is_told_with_who_has_it() -> None:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", 29400))
        except OSError:
            pytest.skip("port 29400 is in use by another")
        sock.listen()
        done = doctor("--only", "network.rendezvous_port")
    assert f"pid {os.getpid()}" in done.stdout


def hanging_python(folder: Path) -> str:
    """An interpreter whose torch never comes; it notes its pid."""
    python = folder / "python"
    python.write_text(
        f"#!/bin/sh\necho $$ > {folder}/pid.tmp && mv {folder}/pid.tmp {folder}/pid\nexec sleep 600\n"
    )
    python.chmod(0o755)
    return str(python)


def test_a_torch_that_hangs_is_reported_and_ended(tmp_path: Path) -> None:
    env = environment(PYTHON_EXEC=hanging_python(tmp_path))
    done = doctor("--only", "software.torch,clock", "--timeout", "0.3", env=env)
    assert done.returncode == 0
    assert "! torch: did not answer in 1.8 s" in done.stdout
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_doctor_that_is_ended(tmp_path: Path, signum: signal.Signals) -> None:
    process = subprocess.Popen(
        [*RALLY, "doctor", "--only", "software.torch", "--timeout", "100"],
        env=environment(PYTHON_EXEC=hanging_python(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        until("the interpreter started", (tmp_path / "pid").exists, LONG_S)
        asked = int((tmp_path / "pid").read_text())
        process.send_signal(signum)
        complained = process.communicate(timeout=LONG_S)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (130 if signum == signal.SIGINT else -signum)
    assert b"Traceback" not in complained
    until("the interpreter ended", lambda: not psutil.pid_exists(asked), LONG_S)


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*RALLY, "doctor", "--only", "limits"],
            env=environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=LONG_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def on_terminal(columns: int, *words: str, **more: str) -> str:
    """What the command shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(TERM="xterm-256color", **more)
    process = subprocess.Popen(
        [*RALLY, "doctor", *words], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:
                break  # the other end was closed
            if not part:
                break
            shown += part
        process.wait(LONG_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode()


def test_a_narrow_terminal_gets_narrow_lines() -> None:
    shown = on_terminal(40, "--only", "limits,clock,place", NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    long = [line for line in plain.splitlines() if len(line) > 40 and " " in line.strip()]
    assert [line for line in long if not line.startswith("      ")] == []
    assert "limits\n" in plain.replace("\r", "")


def test_colours_are_for_terminals_unless_they_are_not_wanted() -> None:
    assert "\x1b[32m" in on_terminal(100, "--only", "limits")
    assert "\x1b[32m" not in on_terminal(100, "--only", "limits", NO_COLOR="1")
    assert "\x1b" not in doctor("--only", "limits").stdout


def test_without_utf_8_signs_are_ascii() -> None:
    env = environment(PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    done = doctor("--only", "limits", env=env)
    assert done.stdout.isascii()
    assert "limits       + " in done.stdout


def test_it_needs_no_heavy_import() -> None:
    code = "import sys, toolkit.fronts.doctor; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=True,
    )
    assert not {"torch", "textual", "numpy", "asyncio", "rich", "multiprocessing"} & set(done.stdout.split())


HANGS = """
import ctypes, os, sys
from pathlib import Path
from toolkit.fronts.doctor import doctor_command
from toolkit.core.doctor.facts import ClockFacts
gatherers = {"fqdn": lambda _: ctypes.CDLL(None).pause(), "clock": lambda _: ClockFacts(synchronized=True)}
sys.exit(doctor_command(
    ["--only", "network.fqdn,clock", "--timeout", "0.3"], environ={}, state_dir=Path("/"), executable=sys.executable,
    stdout=sys.stdout, stderr=sys.stderr, gatherers=lambda _: gatherers,
))
"""


def test_a_library_that_never_comes_back_does_not_hold_up_the_end() -> None:
    """As a name service whose server is gone: the thread hangs in C, and the process ends all the same."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "did not answer in 0.3 s" in done.stdout and "clock synchronised" in done.stdout
