"""The store of the rendezvous: who hosts it, who is told what where something else is at its place. Real sockets."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from toolkit.adapters.endpoint import is_own, resolve
from toolkit.adapters.from_torch.tcp_store import FOR_EVER, LOG_LEVEL, TcpStoreConnector
from toolkit.core.errors import StoreError

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NOBODYS = "192.0.2.77"  # TEST-NET-1
#: how long a test waits for what will not come, and for what will, in seconds
SHORT_S, LONG_S = 1.0, 30.0
HAS_IPV6 = socket.has_ipv6 and is_own(resolve("::1", 1)[0])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def make() -> Iterator[Callable[..., TcpStoreConnector]]:
    made: list[TcpStoreConnector] = []

    def connector(host: str, port: int, may_host: bool | None = None) -> TcpStoreConnector:
        made.append(TcpStoreConnector(host, port, may_host=may_host))
        return made[-1]

    yield connector
    for connector_made in made:
        connector_made.close()


Make = Callable[..., TcpStoreConnector]


def refusal(connector: TcpStoreConnector, timeout_s: float = SHORT_S) -> str:
    """What it says of a store that it can't have, within `timeout_s`."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        connector.connect(timeout_s)
    assert time.monotonic() - began < timeout_s + 5, "a busy machine may need some more, no more than this"
    assert connector.where in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- who hosts ------------------------------------------------------------------------------------------------


def test_the_first_agent_on_the_machine_hosts_and_the_next_ones_join(make: Make, port: int) -> None:
    first, second = make("127.0.0.1", port), make("localhost", port)
    first.connect(LONG_S).set("a", "1")
    assert second.connect(LONG_S).get("a") == b"1"
    assert (first.hosting, second.hosting) == (True, False)


def test_who_must_not_host_waits_for_who_does(make: Make, port: int) -> None:
    guest, host = make("127.0.0.1", port, False), make("127.0.0.1", port, True)
    later = threading.Timer(0.3, lambda: host.connect(LONG_S).set("a", "1"))
    later.start()
    assert guest.connect(LONG_S).get("a") == b"1"
    later.join()
    assert (guest.hosting, host.hosting) == (False, True)


def test_who_must_host_and_cant_is_told_who_has_the_port(make: Make, port: int) -> None:
    with closing(socket.create_server(("127.0.0.1", port))):
        message = refusal(make("127.0.0.1", port, True))
    assert f"can't be hosted here: port {port} is in use by " in message
    assert f"(pid {os.getpid()})" in message


def test_a_host_is_asked_for_behind_an_address_that_is_not_its_own(make: Make, port: int) -> None:
    """A cluster's service has an address of its own, and need not lead a machine back to itself."""
    connector = make(NOBODYS, port, True)
    connector.connect(LONG_S).set("a", "1")
    assert connector.hosting
    assert is_own(resolve(connector.local_address, 1)[0])
    assert connector.local_address != NOBODYS


def test_a_guest_does_not_become_host_when_the_host_is_gone(make: Make, port: int) -> None:
    host, guest = make("127.0.0.1", port), make("127.0.0.1", port)
    host.connect(LONG_S)
    guest.connect(LONG_S)
    host.close()
    assert "no store answers at" in refusal(guest)
    assert not guest.hosting


def test_a_closed_store_is_gone_at_once_and_its_port_free(make: Make, port: int) -> None:
    host, guest = make("127.0.0.1", port), make("127.0.0.1", port)
    host.connect(LONG_S)
    waits = guest.connect(LONG_S)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            waits.get("never")
        except RuntimeError as error:
            ended.append(error)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    host.close()
    waiter.join(LONG_S)
    assert len(ended) == 1
    assert "was closed by this agent" in refusal(host)
    make("127.0.0.1", port).connect(LONG_S)


def test_breaking_off_leaves_other_files_alone(make: Make, port: int, tmp_path: Path) -> None:
    host, path = make("127.0.0.1", port), tmp_path / "some-file"
    waits = host.connect(LONG_S)
    waiter = threading.Thread(target=lambda: suppressed(lambda: waits.get("never")), daemon=True)
    waiter.start()
    while not host._calls._under_way:
        time.sleep(0.01)
    with path.open("w") as file:
        host.close()  # has to break off the wait
        waiter.join(LONG_S)
        assert not waiter.is_alive()
        assert open_files(path) == 1
        file.write("a")


def suppressed(run: Callable[[], object]) -> None:
    with suppress(Exception):
        run()


def open_files(path: Path) -> int:
    """How many descriptors of this process lead there."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found += entry.readlink() == path
    return found


_RACER = """
import sys
from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector, load_torch

load_torch()
connector = TcpStoreConnector("127.0.0.1", int(sys.argv[1]), may_host=None)
print("ready", flush=True)
sys.stdin.readline()
store = connector.connect(30)
store.add("racers", 1)
print("host" if connector.hosting else "guest", flush=True)
sys.stdin.readline()
print(store.add("racers", 0), flush=True)
sys.stdin.readline()
"""


def test_of_several_that_start_at_one_time_exactly_one_hosts(port: int) -> None:
    racers = [_python(_RACER, f"{port}") for _ in range(3)]
    try:
        assert [_line(racer) for racer in racers] == ["ready"] * 3
        for racer in racers:
            _go_on(racer)
        assert sorted(_line(racer) for racer in racers) == ["guest", "guest", "host"]
        for racer in racers:
            _go_on(racer)
        assert [_line(racer) for racer in racers] == ["3"] * 3
    finally:
        _end(racers)


# -- addresses ------------------------------------------------------------------------------------------------


def test_on_the_machine_of_the_endpoint_others_use_the_name_they_know(make: Make, port: int) -> None:
    connector = make("127.0.0.1", port)
    connector.connect(LONG_S)
    assert connector.local_address == "127.0.0.1"
    by_name = make("localhost", port)
    by_name.connect(LONG_S)
    assert by_name.local_address == "localhost"


def test_a_wildcard_is_no_address(make: Make, port: int) -> None:
    connector = make("0.0.0.0", port)
    connector.connect(LONG_S)
    assert connector.local_address == "127.0.0.1"


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
def test_an_ipv6_endpoint(make: Make, port: int) -> None:
    host, guest = make("::1", port), make("::1", port)
    host.connect(LONG_S).set("a", "1")
    assert guest.connect(LONG_S).get("a") == b"1"
    assert host.where == f"[::1]:{port}"
    assert (host.local_address, guest.local_address) == ("::1", "::1")


def test_missing_keys_are_waited_for_without_an_end(make: Make, port: int) -> None:
    """A wait that times out writes C++ warnings to stderr."""
    assert make("127.0.0.1", port).connect(LONG_S).timeout == FOR_EVER


# -- something else is there ----------------------------------------------------------------------------------


class Service:
    """A service on `port` that treats each connection as it is told to."""

    def __init__(self, port: int, treat: Callable[[socket.socket], Any]) -> None:
        self._treat = treat
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            self._treat(connection)

    def close(self) -> None:
        # An accept under way would keep the port.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def an_ssh_server(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
    while connection.recv(100):
        pass


def a_web_server(connection: socket.socket) -> None:
    """Like most: it reads until the request is complete."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def a_silent_one(connection: socket.socket) -> None:
    while connection.recv(100):
        pass


def one_that_hangs_up(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (an_ssh_server, "it is no TCPStore: it says 'SSH-2.0-OpenSSH_9.7'; here it is "),
        (a_web_server, "it is no TCPStore: it says 'HTTP/1.1 400 Bad Request'; here it is "),
    ],
)
def test_a_foreign_service_is_told_at_once(make: Make, port: int, treat: Any, says: str) -> None:
    with closing(Service(port, treat)):
        message = refusal(make("127.0.0.1", port), LONG_S)
    assert message.startswith(f"something answers at 127.0.0.1:{port}, but {says}")
    assert message.endswith("; give another port, the same on every node")


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (a_silent_one, "it accepts connections and says nothing: its host is stopped, or it is no TCPStore"),
        (one_that_hangs_up, "it closes the connection at once: it is ending, or it is no TCPStore"),
    ],
)
def test_who_says_nothing_may_yet_become_a_store(make: Make, port: int, treat: Any, says: str) -> None:
    with closing(Service(port, treat)):
        message = refusal(make("127.0.0.1", port))
    assert f"no store answers at 127.0.0.1:{port}, tried for " in message
    assert f"(127.0.0.1: {says})" in message


def test_nobody_is_there(make: Make, port: int) -> None:
    assert "(127.0.0.1: Connection refused)" in refusal(make("127.0.0.1", port, False))
    refusal(make(NOBODYS, port))
    assert "the host name 'nowhere.invalid' can't be resolved" in refusal(make("nowhere.invalid", port))


# -- the host stops, the agent's own stderr -------------------------------------------------------------------

_HOST = """
import sys
from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector

connector = TcpStoreConnector("127.0.0.1", int(sys.argv[1]), may_host=True)
store = connector.connect(30)
store.set("a", "1")
print("hosting", flush=True)
sys.stdin.readline()
"""


def test_a_stopped_host_is_given_up_in_time_and_found_again(make: Make, port: int) -> None:
    host = _python(_HOST, f"{port}")
    try:
        assert _line(host) == "hosting"
        os.kill(host.pid, signal.SIGSTOP)
        guest = make("127.0.0.1", port)
        # The second is what is said where the machine is so busy that the first can't be said in time.
        said = refusal(guest)
        assert "accepts connections and says nothing" in said or "has not answered within" in said
        os.kill(host.pid, signal.SIGCONT)
        assert guest.connect(LONG_S).get("a") == b"1"
        assert not guest.hosting
    finally:
        _end([host])


_QUIET_GUEST = """
import os, sys
from toolkit import wiring

wiring.load_torch_quietly()
assert "TORCH_CPP_LOG_LEVEL" not in os.environ, "workers would inherit it"

from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector
from toolkit.core.errors import StoreError

connector = TcpStoreConnector("127.0.0.1", int(sys.argv[1]), may_host=None)
store = connector.connect(30)
print("connected", flush=True)
try:
    store.get("never")
except RuntimeError:
    print("lost", flush=True)
try:
    connector.connect(0.5)
except StoreError as error:
    print("given up", flush=True)
"""


def test_an_agent_that_loses_its_store_writes_no_warnings_of_its_own(port: int) -> None:
    host, guest = _python(_HOST, f"{port}"), None
    try:
        assert _line(host) == "hosting"
        guest = _python(_QUIET_GUEST, f"{port}", without=LOG_LEVEL)
        assert _line(guest) == "connected"
        host.kill()
        out, err = guest.communicate(timeout=LONG_S)
        assert out.split("\n") == ["lost", "given up", ""]
        assert not re.search(r"^\[[WE]|TCPStore|c10d", err), err
        assert (err, guest.returncode) == ("", 0)
    finally:
        _end([host] + [guest] * (guest is not None))


_WAITING_AT_ITS_END = """
import sys, threading
from toolkit import wiring

wiring.load_torch_quietly()
from toolkit.adapters.from_torch.tcp_store import TcpStoreConnector
from toolkit.core.errors import StoreError

connector = TcpStoreConnector("127.0.0.1", int(sys.argv[1]), may_host=None)
waits, works = connector.connect(30), connector.connect(30)
begun = threading.Event()


def wait_for_ever():
    begun.set()
    try:
        waits.get("never")
    except (RuntimeError, StoreError):
        pass


waiter = threading.Thread(target=wait_for_ever, daemon=True)
waiter.start()
begun.wait()
works.add("calls", 1)
print("waiting", flush=True)
sys.stdin.readline()
if sys.argv[2] == "close":
    connector.close()
    waiter.join(1)
    assert not waiter.is_alive()
    try:
        works.add("calls", 1)
    except StoreError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize("host", ["alive", "stopped", "gone", "itself"])
@pytest.mark.parametrize("how", ["close", "end"])
def test_a_process_can_end_while_a_thread_of_it_waits_for_a_key(port: int, host: str, how: str) -> None:
    """It would be aborted if that thread came back from C++ while the interpreter ends."""
    processes = [] if host == "itself" else [_python(_HOST, f"{port}")]
    try:
        assert [_line(process) for process in processes] == ["hosting"] * len(processes)
        agent = _python(_WAITING_AT_ITS_END, f"{port}", how, without=LOG_LEVEL)
        processes.append(agent)
        assert _line(agent) == "waiting"
        if host == "stopped":
            os.kill(processes[0].pid, signal.SIGSTOP)
        if host == "gone":
            processes[0].kill()
            processes[0].wait()
        out, err = agent.communicate("go on\n", timeout=LONG_S)
        said = f"the store at 127.0.0.1:{port} was closed by this agent\n" if how == "close" else ""
        assert (agent.returncode, out, err) == (0, said, "")
    finally:
        _end(processes)


def _python(source: str, *words: str, without: str = "") -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if name != without}
    return subprocess.Popen(
        [sys.executable, "-c", source, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )


def _line(process: subprocess.Popen[str]) -> str:
    """Its next line. A process that hangs is ended, so that there is none."""
    assert process.stdout is not None
    stop = threading.Timer(60, process.kill)
    stop.start()
    try:
        return process.stdout.readline().strip()
    finally:
        stop.cancel()


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _end(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
