"""What `--rdzv-conf` and `--rdzv-endpoint` may say, for our own backend and those that come with torch 2.13.

torch ignores a key that it does not know, so that `join_timout=900` waits for 600 s. Here it is refused.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from toolkit.core import rally_conf
from toolkit.core.errors import ConfigurationError
from toolkit.core.rally_conf import RALLY, boolean, says_yes
from toolkit.core.words import host_and_port

__all__ = [
    "C10D",
    "DEFAULT_PORTS",
    "ETCD",
    "ETCD_V2",
    "KEYS",
    "RALLY",
    "STATIC",
    "Endpoint",
    "parse_conf",
    "parse_endpoint",
    "says_yes",
    "unread_keys",
]

STATIC, C10D, ETCD, ETCD_V2 = "static", "c10d", "etcd", "etcd-v2"

#: the port where an endpoint names none; static has no such port
DEFAULT_PORTS: Mapping[str, int] = {RALLY: rally_conf.DEFAULT_PORT, C10D: 29400, ETCD: 2379, ETCD_V2: 2379}


def _seconds(text: str) -> str | None:
    return None if text.isdecimal() and int(text) > 0 else "a whole number of seconds, at least 1"


def _count(text: str) -> str | None:
    return None if text.isdecimal() and int(text) > 0 else "a whole number, at least 1"


def _rank(text: str) -> str | None:
    return None if text.isdecimal() else "a whole number"


def _store_type(text: str) -> str | None:
    return None if text.lower() in ("tcp", "file") else "tcp or file"


def _protocol(text: str) -> str | None:
    return None if text.lower() in ("http", "https") else "http or https"


def _anything(text: str) -> str | None:
    return None


_Check = Callable[[str], str | None]

_DYNAMIC: Mapping[str, _Check] = {
    "join_timeout": _seconds,
    "last_call_timeout": _seconds,
    "close_timeout": _seconds,
    "heartbeat_timeout": _seconds,
    "keep_alive_interval": _seconds,
    "keep_alive_max_attempt": _count,
    "read_timeout": _seconds,
}

#: backend -> key -> says what a value must be if it is not that
KEYS: Mapping[str, Mapping[str, _Check]] = {
    RALLY: rally_conf.KEYS,
    STATIC: {"timeout": _seconds, "rank": _rank},
    C10D: {**_DYNAMIC, "store_type": _store_type, "is_host": boolean},
    ETCD: {
        "timeout": _seconds,
        "last_call_timeout": _seconds,
        "etcd_prefix": _anything,
        "protocol": _protocol,
        "cert": _anything,
        "key": _anything,
        "cacert": _anything,
    },
    ETCD_V2: {
        **_DYNAMIC,
        "protocol": _protocol,
        "ssl_cert": _anything,
        "ssl_cert_key": _anything,
        "ca_cert": _anything,
    },
}
_ALL_KEYS: Mapping[str, _Check] = {key: check for keys in KEYS.values() for key, check in keys.items()}


def parse_conf(text: str, backend: str, name: str = "--rdzv-conf") -> dict[str, str]:
    """Parse `key=value,key=value`.

    A key that another of these backends reads passes, as it does with torch (`unread_keys` names them); a
    key that none of them reads does not. A backend that is a plug-in takes any key.

    Raises:
        ConfigurationError: not of that form, a key that nothing reads, or a value that is none for its key.
    """
    conf: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key or not value:
            raise ConfigurationError(
                f"{name} has {pair!r}; write key=value, with commas in between, such as "
                "join_timeout=600,last_call_timeout=5"
            )
        if conf.setdefault(key, value) != value:
            raise ConfigurationError(f"{name} has {key}={conf[key]} and {key}={value}; give one of them")
    if backend not in KEYS:
        return conf
    # torch's documentation calls it `heartbeat`, its code reads `heartbeat_timeout`.
    if "heartbeat" in conf:
        conf.setdefault("heartbeat_timeout", conf.pop("heartbeat"))
    for key, value in conf.items():
        _check_pair(key, value, backend, name)
    return conf


def _check_pair(key: str, value: str, backend: str, name: str) -> None:
    check = KEYS[backend].get(key) or _ALL_KEYS.get(key)
    if check is None:
        near = get_close_matches(key, sorted(_ALL_KEYS), n=3)
        known = ", ".join(near or KEYS[backend])
        raise ConfigurationError(
            f"{name} has the key {key!r}, which the backend {backend} does not know; "
            f"{'did you mean' if near else 'its keys are'} {known}{'?' if near else ''}"
        )
    wanted = check(value)
    if wanted is not None:
        raise ConfigurationError(f"{name} has {key}={value}; {key} must be {wanted}")


def unread_keys(conf: Mapping[str, object], backend: str) -> tuple[str, ...]:
    """Keys of `conf` that the backend does not read."""
    return tuple(key for key in conf if backend in KEYS and key not in KEYS[backend])


class Endpoint(NamedTuple):
    """Where nodes meet. Port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)

    @property
    def is_any_local_port(self) -> bool:
        """Whether it is a free port of the loopback interface, which no other node can know."""
        return self.port == 0 and (self.host in ("localhost", "::1") or self.host.startswith("127."))


def parse_endpoint(text: str, backend: str, name: str = "--rdzv-endpoint") -> Endpoint:
    """Parse `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.

    Raises:
        ConfigurationError: anything else, or no port for a backend that has no usual one.
    """
    text = text.strip()
    bare = text.startswith("[") and text.endswith("]")
    host, colon, port = (text, "", "") if bare else text.rpartition(":")
    if not bare and not colon:
        host = text
    return Endpoint(_host(host, text, name), _port(port, text, backend, name, given=bool(colon)))


def _host(host: str, text: str, name: str) -> str:
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in inner:
        try:
            socket.inet_pton(socket.AF_INET6, inner.partition("%")[0])
        except OSError:
            raise ConfigurationError(
                f"{name} is {text!r}; write HOST:PORT, an IPv6 address in brackets: [::1]:29400"
            ) from None
    elif not re.fullmatch(r"[\w.-]+", inner):
        raise ConfigurationError(
            f"{name} is {text!r}; write HOST:PORT with the name or the address of a machine"
        )
    return inner


def _port(port: str, text: str, backend: str, name: str, *, given: bool) -> int:
    if not given:
        if backend in DEFAULT_PORTS:
            return DEFAULT_PORTS[backend]
        raise ConfigurationError(f"{name} is {text!r} and names no port; write {text}:29500")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigurationError(f"{name} is {text!r}; the port must be a number from 0 to 65535")
    return int(port)
