"""`rally web` as a process: who may come in, a real browser that drives it, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium
from toolkit.adapters.control.guard import TRIES_MAX

from .jobs import RALLY, Job, alive, children, clean_environment, until

pytest.importorskip("textual_serve", reason="textual-serve is not installed")
pytest.importorskip("greenlet", reason="greenlet, which records the run, is not installed")

SOON_S = 60.0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("of web")
    path = folder / "a crash; echo"
    words = (*RALLY, "sim", "worker-crash", "--seed", "1", "--run-dir", str(path))
    subprocess.run(words, check=True, capture_output=True, timeout=60, env=clean_environment(folder))
    return path


class Served:
    """A `rally web`, and what a browser or somebody else says to it.

    Args:
        job: the process.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        (self.url,) = job.wait_for_lines("http://")
        asked = urlsplit(self.url)
        self.host, self.port, self.token = asked.hostname or "", asked.port or 0, asked.query[len("token=") :]
        self.origin = f"http://{self.host}:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Ask for something; status, body and headers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SOON_S)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode(), dict(response.getheaders())
        finally:
            connection.close()

    def knock(self, token: str | None = None, **headers: str) -> int:
        """Ask for the websocket; the status."""
        handshake = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "bm9uY2Vub25jZW5vbmNlIQ==",
        }
        query = "" if token is None else f"?token={token}"
        return self.get(f"/ws{query}", **handshake, **headers)[0]

    def tops(self) -> list[int]:
        """The programs behind the tabs."""
        return [pid for pid in children(self.job.pid) if alive(pid)]

    def end(self) -> None:
        """Ctrl-C; everything that it started ends with it."""
        tops = self.tops()
        self.job.signal(signal.SIGINT)
        assert self.job.wait() == 0, self.job.told()
        assert not [pid for pid in tops if alive(pid)]
        assert "Traceback" not in self.job.stderr
        assert self.job.lines == [self.url], "one line on stdout"


@pytest.fixture
def web(recorded: Path, tmp_path: Path, mark: str, started: list[Job]) -> Callable[..., Served]:
    def start(*words: str) -> Served:
        name = f"web{len(started)}"
        argv = [*RALLY, "web", str(recorded), "--port", "0", *words]
        started.append(Job(argv, tmp_path, mark, name, {}, tmp_path / name))
        return Served(started[-1])

    return start


# -- who may come in ------------------------------------------------------------------------------------------


def test_who_has_the_token_may_come_in_and_nobody_else(web: Callable[..., Served]) -> None:
    page = web()
    for path in ("/", "/static/js/textual.js", "/static/", "/download/x", "/nowhere", "/ws"):
        origin = {"Origin": page.origin} if path == "/ws" else {}
        status, said, _ = page.get(path, **origin)
        assert status == 401 and "the token is missing" in said and page.token not in said
        assert page.get(f"{path}?token={page.token}", **origin)[0] != 401
    assert page.knock(Origin=page.origin) == 401

    status, said, headers = page.get(f"/?token={page.token}")
    assert status == 200 and "textual-terminal" in said
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=Strict"}
    assert page.get("/static/css/xterm.css", Cookie=cookie)[0] == 200
    assert "Set-Cookie" not in page.get("/", Cookie=cookie)[2]
    assert page.knock(page.token, Origin=page.origin) == 101

    statuses = [page.get("/?token=wrong")[0] for _ in range(TRIES_MAX + 1)]
    assert statuses == [401] * TRIES_MAX + [429]
    status, said, headers = page.get("/", Cookie=cookie.replace(page.token, "old"))
    assert status == 429 and "too many" in said and int(headers["Retry-After"]) > 0
    assert page.knock("wrong", Origin=page.origin) == 429
    assert page.get("/", Cookie=cookie)[0] == 200
    assert (
        "rally web: 1 request to the page without the right token, the last from 127.0.0.1" in page.job.stderr
    )
    assert page.token not in page.job.stderr
    page.end()


def test_pages_of_others_and_other_names_are_refused(web: Callable[..., Served]) -> None:
    page = web()
    right = f"/?token={page.token}"
    assert page.get(right, Host=f"evil.example:{page.port}")[0] == 403
    assert page.get(right, Origin="http://evil.example")[0] == 403
    assert page.knock(page.token) == 403
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{page.port + 1}"):
        assert page.knock(page.token, Origin=origin) == 403
    rebound = f"evil.example:{page.port}"
    assert page.knock(page.token, Host=rebound, Origin=f"http://{rebound}") == 403
    assert page.tops() == []

    behind_ssh = "localhost:9000"
    status, said, _ = page.get(right, Host=behind_ssh)
    assert status == 200 and f'"ws://{behind_ssh}/ws"' in said
    page.end()


def test_the_page_needs_nothing_from_elsewhere(web: Callable[..., Served]) -> None:
    page = web()
    _, said, headers = page.get(f"/?token={page.token}")
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+/", said.replace(f"ws://{page.host}:{page.port}/ws", ""))
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    page.end()


@pytest.mark.parametrize(
    "sent", [b"junk\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"]
)
def test_what_is_no_request_is_refused_quietly(web: Callable[..., Served], sent: bytes) -> None:
    page = web()
    with socket.create_connection((page.host, page.port), timeout=SOON_S) as connection:
        connection.sendall(sent)
        assert re.match(rb"HTTP/1\.\d 40[03] ", connection.recv(4096))
    assert page.job.stderr == ""
    page.end()


# -- what can't be is refused before anything starts ----------------------------------------------------------


def refused(*words: str, folder: Path, argv: tuple[str, ...] = (*RALLY, "web")) -> str:
    """What it says, and that it does nothing."""
    env = clean_environment(folder)
    done = subprocess.run((*argv, *words), capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr, done
    assert done.stderr.startswith("rally web: "), done.stderr
    return done.stderr


def test_what_can_not_be_served_is_said_in_words(recorded: Path, tmp_path: Path) -> None:
    assert "no run 'nosuchrun' is recorded" in refused("nosuchrun", folder=tmp_path)
    assert "not a recording" in refused("/etc", folder=tmp_path)
    assert "no run is recorded under" in refused(folder=tmp_path)
    assert "--port 70000 is no port" in refused(str(recorded), "--port", "70000", folder=tmp_path)
    for host in ("0.0.0.0", "::", "10.0.0.1", "gpu-a"):
        said = refused(str(recorded), "--host", host, "--port", "9000", folder=tmp_path)
        assert f"--host {host} is not a loopback address" in said and "ssh -L 9000:127.0.0.1:9000" in said
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        said = refused(str(recorded), "--port", taken, folder=tmp_path)
    assert f"127.0.0.1:{taken} can't be listened on: Address already in use" in said and "--port 0" in said


@pytest.mark.parametrize("missing", ["textual_serve", "textual"])
def test_without_what_it_needs_it_says_what_to_install(recorded: Path, tmp_path: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; import toolkit.fronts.cli as cli; sys.exit(cli.main())"
    )
    said = refused(str(recorded), folder=tmp_path, argv=(sys.executable, "-c", code, "web"))
    assert "pip install 'rallypoint[web]'" in said


# -- in a browser ---------------------------------------------------------------------------------------------

#: textual.js keeps its terminal to itself; this hands it out, as `term`
_HANDED_OUT = """
Object.defineProperty(Object.prototype, "terminal", {
  configurable: true,
  set(value) {
    Object.defineProperty(this, "terminal", { value, writable: true, configurable: true, enumerable: true });
    if (value && value.buffer) window.term = value;
  },
});
"""
_SCREEN = """() => {
  if (!window.term) return "";
  const shown = term.buffer.active, lines = [...Array(term.rows).keys()];
  return lines.map((at) => shown.getLine(at)?.translateToString(true) ?? "").join("\\n");
}"""
_COLOURS = """async (png) => {
  const picture = new Image();
  picture.src = "data:image/png;base64," + png;
  await picture.decode();
  const canvas = new OffscreenCanvas(picture.width, picture.height), pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  return new Set(new Uint32Array(pen.getImageData(0, 0, picture.width, picture.height).data.buffer)).size;
}"""


class Tab:
    """A tab of Chromium.

    Args:
        page: playwright's.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(_HANDED_OUT)

    def wait_for(self, words: str) -> str:
        """Wait until the terminal shows something; all that it shows."""
        until_s = time.monotonic() + SOON_S
        while words not in (shown := self.page.evaluate(_SCREEN)):
            assert time.monotonic() < until_s, f"{words!r} never came; the screen:\n{shown}"
            self.page.wait_for_timeout(50)
        return str(shown)

    def colours(self) -> int:
        """How many there are in what is really drawn."""
        import base64

        return int(self.page.evaluate(_COLOURS, base64.b64encode(self.page.screenshot()).decode()))


def test_in_chromium(web: Callable[..., Served]) -> None:
    with chromium() as browser:
        page = web()
        tab = Tab(browser.new_page(viewport={"width": 1200, "height": 800}))
        tab.page.goto(page.url)
        shown = tab.wait_for("1 overview")
        assert "SIM worker-crash seed 1" in shown and "succeeded" in shown
        assert tab.page.url == f"{page.origin}/", "the token is not in the history"
        assert tab.page.evaluate("document.fonts.check('16px \"Roboto Mono\"')")
        tab.page.keyboard.press("2")
        tab.wait_for("node3")
        tab.page.keyboard.press("4")
        tab.wait_for("ROUNDS")
        # The terminal draws a moment after it knows what to draw.
        until("a picture with colours", lambda: tab.colours() > 20)
        if folder := os.environ.get("RALLY_TEST_PICTURES"):
            tab.page.screenshot(path=Path(folder, "web.png"))

        (top,) = page.tops()
        command = Path(f"/proc/{top}/cmdline").read_bytes().split(b"\0")
        assert b"--read-only" in command and page.token.encode() not in command
        tab.page.keyboard.press("q")
        tab.page.get_by_text("Open it again").click()
        tab.wait_for("1 overview")
        until("one program for one tab", lambda: len(page.tops()) == 1 and not alive(top))

        assert {urlsplit(url).netloc for url in tab.asked} == {f"{page.host}:{page.port}"}
        assert tab.errors == []
        tab.page.close()
        until("the end of a program whose tab was closed", lambda: not page.tops())
        tab = Tab(browser.new_page())
        tab.page.goto(page.url)
        tab.wait_for("1 overview")
        page.end()
        tab.page.get_by_text("The view has ended").wait_for()


def test_actions_are_there_only_if_they_are_allowed(web: Callable[..., Served]) -> None:
    page = web("--allow-actions")
    assert "who has the address may stop the job" in page.job.stderr

    async def look() -> None:
        async with opened(page):
            (top,) = page.tops()
            assert b"--read-only" not in Path(f"/proc/{top}/cmdline").read_bytes()

    asyncio.run(look())
    page.end()


# -- nothing outlives it --------------------------------------------------------------------------------------


class opened:  # noqa: N801 - reads as a context
    """A websocket whose program has drawn something."""

    def __init__(self, page: Served) -> None:
        import aiohttp

        self._page = page
        self._session = aiohttp.ClientSession()
        self.websocket: aiohttp.ClientWebSocketResponse

    async def __aenter__(self) -> opened:
        url = f"ws://{self._page.host}:{self._page.port}/ws?width=100&height=30&token={self._page.token}"
        self.websocket = await self._session.ws_connect(url, origin=self._page.origin)
        await asyncio.wait_for(self.websocket.receive(), SOON_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


@pytest.mark.parametrize(
    "sent", ["no json", '{"a": 1}', '["resize"]', '["resize", {}]', '["stdin", 3]', "[" * 99999]
)
def test_a_tab_that_talks_nonsense_is_closed(web: Callable[..., Served], sent: str) -> None:
    page = web()

    async def talk() -> None:
        async with opened(page) as tab:
            await tab.websocket.send_str('["resize", {"width": 1000000000, "height": -5}]')
            await tab.websocket.send_str(sent)
            async with asyncio.timeout(SOON_S):
                async for _ in tab.websocket:
                    pass

    asyncio.run(talk())
    until("what became of it", lambda: "a tab is closed" in page.job.stderr)
    until("the end of its program", lambda: not page.tops())
    page.end()


def test_a_program_that_does_not_quit_when_its_tab_is_closed_is_killed(web: Callable[..., Served]) -> None:
    page = web()

    async def leave() -> None:
        async with opened(page):
            (top,) = page.tops()
            os.kill(top, signal.SIGSTOP)

    asyncio.run(leave())
    until("the end of its program", lambda: not page.tops())
    page.end()


def test_a_program_that_does_not_quit_is_killed(web: Callable[..., Served]) -> None:
    page = web()

    async def hang() -> None:
        async with opened(page):
            (top,) = page.tops()
            os.kill(top, signal.SIGSTOP)
            await asyncio.to_thread(page.end)

    asyncio.run(hang())


def test_a_program_does_not_outlive_a_server_that_is_killed(web: Callable[..., Served]) -> None:
    page = web()

    async def kill() -> None:
        async with opened(page):
            (top,) = page.tops()
            page.job.kill()
            await asyncio.to_thread(until, "the end of the program", lambda: not alive(top))

    asyncio.run(kill())


def test_a_terminal_that_is_closed_ends_it(web: Callable[..., Served]) -> None:
    page = web()

    async def hang_up() -> None:
        async with opened(page):
            page.job.signal(signal.SIGHUP)
            assert await asyncio.to_thread(page.job.wait) == 0

    asyncio.run(hang_up())
