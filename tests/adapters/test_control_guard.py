"""Watching from other machines: the token, its file, pages of others, TLS."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.control_world import Endpoint, endpoint, new_certificate
from tests.adapters.control_world import tmp_path as tmp_path
from toolkit.adapters.control import guard
from toolkit.adapters.control.guard import TRIES_MAX, is_loopback, read_token
from toolkit.adapters.control.server import ControlServer, TcpAddress
from toolkit.core.errors import ConfigurationError


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path) as made:
        made.start()
        yield made


@pytest.fixture
def token(agent: Endpoint, tmp_path: Path) -> str:
    """Of an agent that listens for other machines."""
    agent.server.listen_on(TcpAddress("127.0.0.1", 0, tmp_path / "token"), ("gpu-a",))
    return (tmp_path / "token").read_text().strip()


def ask(
    agent: Endpoint,
    path: str,
    token: str | None = None,
    method: str = "GET",
    body: str | None = None,
    **headers: str,
) -> tuple[int, Any]:
    assert agent.server.tcp is not None
    connection = http.client.HTTPConnection(*agent.server.tcp, timeout=10)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    return response.status, json.loads(data) if data.startswith(b"{") else data


def test_with_the_token_everything_is_there(agent: Endpoint, token: str) -> None:
    agent.answer_orders()
    assert ask(agent, "/snapshot", token)[1]["state"] == "running"
    assert ask(agent, "/actions", token, "POST", '{"action": "stop"}')[0] == 200
    assert agent.done[0].by == "somebody at 127.0.0.1"


@pytest.mark.parametrize("wrong", [None, "", "guess", "x" * 5000, "\xff"])
def test_a_wrong_token_is_refused_counted_and_told_of(agent: Endpoint, token: str, wrong: str | None) -> None:
    for path in ("/snapshot", "/events", "/metrics", "/nowhere"):
        assert ask(agent, path, wrong)[0] == 401
    assert agent.server.guard is not None
    assert agent.server.guard.refused == 4
    assert agent.told == [
        "1 request to the control address without the right token, the last from 127.0.0.1"
    ], "once in some seconds"
    assert ask(agent, "/snapshot", token)[0] == 200


def test_guessing_is_slow(agent: Endpoint, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(TRIES_MAX):
        ask(agent, "/snapshot", "guess")
    assert ask(agent, "/snapshot", "guess")[0] == 429
    assert ask(agent, "/snapshot", token)[0] == 429, "a right guess is not to be told from a wrong one"
    assert agent.get("/snapshot")[0] == 200, "the socket in the run directory is another thing"
    monkeypatch.setattr(guard, "TRIES_WITHIN_S", 0.0)
    assert ask(agent, "/snapshot", token)[0] == 200


def test_health_needs_no_token(agent: Endpoint, token: str) -> None:
    assert ask(agent, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{port}"]
)
def test_another_host_is_refused(agent: Endpoint, token: str, host: str) -> None:
    assert agent.server.tcp is not None
    status, answer = ask(agent, "/snapshot", token, Host=host.format(port=agent.server.tcp[1]))
    assert status == 403
    assert "not the address" in answer["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "gpu-a", "LOCALHOST"])
def test_its_own_names_are_not(agent: Endpoint, token: str, host: str) -> None:
    assert agent.server.tcp is not None
    assert ask(agent, "/snapshot", token, Host=f"{host}:{agent.server.tcp[1]}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1"])
def test_pages_are_refused(agent: Endpoint, token: str, origin: str) -> None:
    assert ask(agent, "/snapshot", token, Origin=origin)[0] == 403
    assert ask(agent, "/actions", token, "POST", '{"action": "stop"}', Origin=origin)[0] == 403


def test_without_a_token_everybody_here_may_read_and_nobody_act(agent: Endpoint) -> None:
    agent.server.listen_on(TcpAddress("127.0.0.1", 0), ())
    assert ask(agent, "/snapshot")[0] == 200
    status, answer = ask(agent, "/actions", None, "POST", '{"action": "stop"}')
    assert status == 403
    assert "--control-token-file" in answer["error"]


def test_an_address_that_is_taken_can_not_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = ControlServer("a", None, print)
        with pytest.raises(ConfigurationError, match="give another address"):
            server.listen_on(TcpAddress("127.0.0.1", other.getsockname()[1]), ())
        with pytest.raises(ConfigurationError, match="can't be listened on"):
            server.listen_on(TcpAddress("no.such.host.invalid", 0), ())
        server.close()


# -- the token's file -----------------------------------------------------------------------------------------


def test_a_missing_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = read_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made) >= 32
    assert read_token(path) == made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 40)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_token(path)


@pytest.mark.parametrize("text", ["", "short", "\n\n", "with a space in the middle", "\xff" * 40])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="no token"):
        read_token(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo", ".", "no/such/folder"):
        with pytest.raises(ConfigurationError):
            read_token(tmp_path / name)


@pytest.mark.parametrize(
    ("host", "yes"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("gpu-a", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return new_certificate(tmp_path)


def test_tls(agent: Endpoint, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    agent.server.listen_on(TcpAddress("127.0.0.1", 0, tmp_path / "token", cert, key), ())
    assert agent.server.tcp is not None
    assert agent.server.url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(cert))
    connection = http.client.HTTPSConnection("localhost", agent.server.tcp[1], timeout=10, context=context)
    connection.request(
        "GET", "/snapshot", headers={"Authorization": f"Bearer {read_token(tmp_path / 'token').decode()}"}
    )
    assert json.loads(connection.getresponse().read())["state"] == "running"
    connection.close()
    with socket.create_connection(agent.server.tcp, timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"200" not in plain.recv(4096)
    assert agent.told == []


def test_a_certificate_that_is_none(agent: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("hello")
    with pytest.raises(ConfigurationError, match=r"cert\.pem can't be used"):
        agent.server.listen_on(TcpAddress("127.0.0.1", 0, None, tmp_path / "cert.pem"), ())
    with pytest.raises(ConfigurationError, match="can't be used"):
        agent.server.listen_on(TcpAddress("127.0.0.1", 0, None, tmp_path / "nowhere"), ())
