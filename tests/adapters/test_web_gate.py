"""Who may open the page of `rally web`."""

from __future__ import annotations

import pytest

from toolkit.adapters.control import guard
from toolkit.adapters.control.guard import TRIES_MAX, Refusal
from toolkit.adapters.web.gate import Asked, Gate, address_of, bracketed

TOKEN = "t" * 43


class Door:
    """A gate, and what it told."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.told: list[str] = []
        self._gate = Gate(TOKEN, host, self.told.append)

    def ask(
        self,
        *hosts: str,
        origin: str | None = None,
        token: str | None = TOKEN,
        websocket: bool = False,
    ) -> Refusal | None:
        origins = [] if origin is None else [origin]
        return self._gate.refusal(Asked(hosts or ("127.0.0.1:8470",), origins, token, "127.0.0.1", websocket))

    def status(self, *hosts: str, origin: str | None = None, websocket: bool = False) -> int:
        refusal = self.ask(*hosts, origin=origin, websocket=websocket)
        return 200 if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["127.0.0.1:8470", "localhost:8470", "LOCALHOST:9000", "localhost"])
def test_its_own_names_are_answered_by_any_port(host: str) -> None:
    assert Door().status(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8470",
        "localhost.evil.example:8470",
        "evil.example",
        "127.0.0.2:8470",
        "localhost:x",
        "localhost:",
        "",
        ":8470",
        "[::1]:8470",
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert Door().status(host) == 403


def test_two_hosts_are_none() -> None:
    assert Door().status("localhost:8470", "evil.example") == 403


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert Door("::1").status("[::1]:8470") == Door("::1").status("[::1]") == 200
    assert (bracketed("::1"), bracketed("127.0.0.1"), address_of("localhost")) == (
        "[::1]",
        "127.0.0.1",
        "127.0.0.1",
    )


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:8471",
        "http://localhost:8470",
        "https://127.0.0.1:8470",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("websocket", [True, False])
def test_pages_of_others_are_refused(origin: str, websocket: bool) -> None:
    assert Door().status(origin=origin, websocket=websocket) == 403


def test_its_own_page_may_open_a_websocket_and_nobody_without_a_page() -> None:
    assert Door().status(origin="http://127.0.0.1:8470", websocket=True) == 200
    assert Door().status("localhost:9000", origin="http://localhost:9000", websocket=True) == 200
    assert Door().status(websocket=True) == 403


def test_a_missing_token_is_no_try() -> None:
    door = Door()
    for _ in range(3 * TRIES_MAX):
        refusal = door.ask(token=None)
        assert refusal is not None and refusal.status == 401 and "missing" in refusal.why
    assert door.told == []


@pytest.mark.parametrize("wrong", ["", "guess", TOKEN[:-1], f"{TOKEN}x", "\udcff", "é" * 43])
def test_wrong_tokens_are_told_of_and_slowed_down(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    said = [door.ask(token=wrong) for _ in range(TRIES_MAX + 2)]
    assert [refusal.status for refusal in said if refusal] == [401] * TRIES_MAX + [429] * 2
    assert said[-1] is not None and said[-1].retry_after_s > 0
    assert door.told == ["1 request to the page without the right token, the last from 127.0.0.1"]
    assert door.ask() is None, "nobody else on this machine can keep its owner out"
    monkeypatch.setattr(guard, "TRIES_WITHIN_S", 0.0)
    assert door.status() == 200
