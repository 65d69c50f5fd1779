"""`--control-addr` and its kin: what is understood, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.control_options import ControlOptions
from toolkit.fronts.command_line.options import parse
from toolkit.fronts.command_line.rendezvous_settings import Endpoint


def read(*words: str) -> ControlOptions | None:
    return parse([*words, "train.py"], {}).control


def test_nobody_watches_from_elsewhere_unless_asked() -> None:
    assert read() is None


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9400", "127.0.0.1", 9400), ("localhost:0", "localhost", 0), ("[::1]:9400", "::1", 9400)],
)
def test_a_loopback_address_needs_no_token(text: str, host: str, port: int) -> None:
    assert read("--control-addr", text) == ControlOptions(Endpoint(host, port), None, None, None, None)


@pytest.mark.parametrize("text", ["0.0.0.0:9400", "[::]:9400", "gpu-a:9400", "10.0.0.1:0"])
def test_any_other_does(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--control-token-file"):
        read("--control-addr", text)
    given = read("--control-addr", text, "--control-token-file", "token")
    assert given is not None
    assert given.token_file == "token"


@pytest.mark.parametrize(
    "text", ["9400", "host", "host:", ":9400", "host:port", "host:70000", "::1:9400", "host:-1"]
)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--control-addr is"):
        read("--control-addr", text, "--control-token-file", "token")


@pytest.mark.parametrize(
    "name", [f"--control-{name}" for name in ("token-file", "tls-cert", "tls-key", "tls-ca")]
)
def test_what_belongs_to_an_address_needs_one(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is for --control-addr"):
        read(name, "file")


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(ConfigurationError, match="--control-tls-cert"):
        read("--control-addr", "127.0.0.1:0", "--control-tls-key", "key.pem")
