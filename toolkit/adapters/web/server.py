"""Serves `rally top` as a page: textual-serve's application with the gate before it, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import html
import logging
import secrets
import signal
import socket
import string
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from textual_serve.server import Server, to_int

from toolkit.adapters.control.guard import Refusal
from toolkit.adapters.web.gate import Asked, Gate, bracketed
from toolkit.adapters.web.session import CLOSE_S, QUIT_S, TopSession
from toolkit.core.errors import ConfigurationError

#: tabs at one time; each is a process
SESSIONS_MAX = 8
_FONT_MIN, _FONT_MAX, _FONT = 6, 40, 16
#: nothing is loaded from elsewhere; scripts are files or bear the nonce, and xterm.js makes its style sheets as it goes
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
#: what a browser that says nonsense makes textual-serve raise
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


def listen(host: str, port: int) -> socket.socket:
    """Listen on a numeric address; port 0 takes a free one.

    Raises:
        ConfigurationError: it can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"{bracketed(host)}:{port} can't be listened on: {reason}; --port 0 takes a free port"
        ) from error


def serve(
    sock: socket.socket,
    argv: Sequence[str],
    title: str,
    *,
    announce: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. All programs that were started have ended when it returns.

    Args:
        sock: listens; is closed at the end.
        argv: the program behind each tab.
        title: of the page.
        announce: takes the address with the token in it, just before requests are answered.
        tell: takes sentences for people.
    """
    token = secrets.token_urlsafe(32)
    host, port = sock.getsockname()[:2]
    logging.getLogger().addHandler(_InWords(tell))
    page = _Page(argv, title, Gate(token, host, tell), port, tell)
    url = f"http://{bracketed(host)}:{port}/?token={token}"
    with sock:
        asyncio.run(_serve(sock, page, lambda: announce(url)))


async def _serve(sock: socket.socket, page: _Page, announce: Callable[[], None]) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # such as below nohup
            loop.add_signal_handler(signum, over.set)
    runner = web.AppRunner(await page.application(), access_log=None, shutdown_timeout=QUIT_S + 2 * CLOSE_S)
    await runner.setup()
    try:
        announce()
        # textual-serve prints what programs have said on stderr, to stdout.
        with redirect_stdout(sys.stderr):
            await web.SockSite(runner, sock).start()
            await over.wait()
    finally:
        await runner.cleanup()


class _InWords(logging.Handler):
    """What aiohttp, asyncio and textual-serve log, as sentences. Not what is no HTTP: anybody can send it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            self._tell(record.getMessage() + (f": {type(error).__name__}: {error}" if error else ""))


class _Page(Server):
    def __init__(
        self, argv: Sequence[str], title: str, gate: Gate, port: int, tell: Callable[[str], None]
    ) -> None:
        super().__init__("rally top", title=title)
        self._argv = tuple(argv)
        self._gate = gate
        self._tell = tell
        # Browsers share cookies between the ports of a host: each server has one of its own.
        self._cookie = f"rally-web-{port}"
        self._template = string.Template(Path(__file__).with_name("page.html").read_text())
        self._sessions: set[TopSession] = set()

    async def application(self) -> web.Application:
        """What is served."""
        made = await self._make_app()
        made.middlewares.append(self._behind_gate)
        made.on_response_prepare.append(_add_headers)
        made.on_cleanup.append(self._on_cleanup)
        return made

    # -- the gate -------------------------------------------------------------------------------------------

    @web.middleware
    async def _behind_gate(
        self, request: web.Request, handler: Callable[[web.Request], object]
    ) -> web.StreamResponse:
        refusal = self._gate.refusal(self._asked(request))
        if refusal is not None:
            return _answer(refusal)
        response = await handler(request)  # type: ignore[misc]
        assert isinstance(response, web.StreamResponse), "what handlers return"
        return response

    def _asked(self, request: web.Request) -> Asked:
        return Asked(
            hosts=request.headers.getall("Host", []),
            origins=request.headers.getall("Origin", []),
            token=request.query.get("token", request.cookies.get(self._cookie)),
            peer=request.remote or "",
            websocket=request.path == "/ws" or "Upgrade" in request.headers,
        )

    # -- what is served -------------------------------------------------------------------------------------

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page. Not textual-serve's, whose font comes from Google."""
        host, nonce = request.headers["Host"], secrets.token_urlsafe(16)
        size = to_int(request.query.get("fontsize", ""), _FONT)
        text = self._template.substitute(
            title=html.escape(self.title),
            websocket=html.escape(f"ws://{host}/ws"),
            font_size=max(_FONT_MIN, min(size, _FONT_MAX)),
            nonce=nonce,
        )
        response = web.Response(text=text, content_type="text/html")
        response.headers["Cache-Control"] = "no-store"
        response.headers["Content-Security-Policy"] = _POLICY.format(nonce=nonce, host=host)
        if "token" in request.query:
            response.set_cookie(
                self._cookie, request.query["token"], httponly=True, samesite="Strict", path="/"
            )
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One tab: a program of its own until either of them ends."""
        if len(self._sessions) >= SESSIONS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{SESSIONS_MAX} tabs are open; close one\n")
        session = TopSession(self._argv, self.download_manager)
        self._sessions.add(session)
        try:
            await session.websocket.prepare(request)
            await session.start(
                to_int(request.query.get("width", ""), 80), to_int(request.query.get("height", ""), 24)
            )
            await self._process_messages(session.websocket, session)
        except _NONSENSE as error:
            self._tell(f"a tab is closed; it said something unknown: {type(error).__name__}: {error}")
        except OSError as error:
            if not isinstance(error, ConnectionError):  # that is a tab which has gone
                self._tell(f"a tab is closed; its `rally top` can't be started: {error.strerror or error}")
        finally:
            await session.close()
            await session.stop()
            self._sessions.discard(session)
        return session.websocket

    # -- from beginning to end ------------------------------------------------------------------------------

    async def on_startup(self, app: web.Application) -> None:
        """Nothing: textual-serve's prints its name."""

    async def on_shutdown(self, app: web.Application) -> None:
        """End all tabs; what serves them then ends their programs."""
        await asyncio.gather(*(session.close() for session in self._sessions))

    async def _on_cleanup(self, app: web.Application) -> None:
        """What has not ended by now is killed."""
        await asyncio.gather(*(session.kill() for session in self._sessions))


def _answer(refusal: Refusal) -> web.Response:
    response = web.Response(status=refusal.status, text=f"{refusal.why}\n")
    if refusal.retry_after_s:
        response.headers["Retry-After"] = str(int(refusal.retry_after_s) + 1)
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Token realm="rally web"'
    response.force_close()
    return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
