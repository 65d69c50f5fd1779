"""One connection to the control endpoint: HTTP/1.1, answered with the standard library.

Imported with the first connection: a run that nobody watches does not pay for it.
"""

from __future__ import annotations

import http.server
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec

from toolkit.adapters.control.fan_in import FanIn, line_of, own_lines
from toolkit.adapters.control.remote import RemoteClient
from toolkit.adapters.control.snapshot import snapshot_of
from toolkit.core.actions import ACTION_MAX, action_of
from toolkit.core.errors import ConfigurationError, ControlError, RecordingError
from toolkit.core.events import Event

if TYPE_CHECKING:
    from toolkit.adapters.control.server import ControlServer

#: how long the loop may take to begin with an order, in seconds
ORDER_S = 5.0
#: how long a peer may take to send its request, or to take what it is sent, in seconds
PATIENCE_S = 10.0
#: how long a stream is silent at most, in seconds: an empty line then tells a dead peer from a quiet job
HEARTBEAT_S = 10.0
#: how long the stacks of another node may take, in seconds
STACKS_S = 45.0
_STATUS_OF_OUTCOME = {"done": 200, "refused": 409, "unknown": 504}
_WATCHERS_MAX = 32
_FIELDS_MAX = 16


class Connection(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one peer.

    Args:
        request: the connection.
        client_address: of the peer; empty over a Unix socket.
        server: whose endpoint it is.
    """

    server: ControlServer  # type: ignore[assignment]
    client_address: Any
    protocol_version = default_request_version = "HTTP/1.1"
    server_version, sys_version = "rally", ""
    timeout = PATIENCE_S
    #: what is asked for, and by whom it is answered
    _GET: ClassVar[dict[str, str]] = {
        "/snapshot": "_snapshot",
        "/events": "_events",
        "/metrics": "_metrics",
        "/healthz": "_healthz",
        "/stacks": "_stacks",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: stderr is for the workers and the narration."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """An error as JSON, not as a page."""
        try:
            phrase = HTTPStatus(code).phrase
        except ValueError:
            phrase = "error"
        self.close_connection = True
        self._answer(code, {"error": message or phrase})

    # -- requests -------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        """Whatever is there to read."""
        asked = self._asked()
        if asked is None or self._turned_away(asked.path):
            return
        name = self._GET.get(asked.path)
        if name is None:
            self.send_error(404, f"there is no {asked.path[:60]!r}; there are {', '.join(self._GET)}")
        else:
            getattr(self, name)(asked.query)

    def do_POST(self) -> None:
        """Something to do."""
        asked = self._asked()
        if asked is None or self._turned_away(asked.path):
            return
        path, node = asked.path, _said_in(asked.query, "node")
        if path != "/actions":
            self.send_error(404, f"there is no {path[:60]!r} to post to; there is /actions")
            return
        body = self._body()
        if body is None:
            return
        try:
            action = action_of(body)
        except ConfigurationError as error:
            self.send_error(400, str(error))
            return
        if not action.by:
            action = msgspec.structs.replace(action, by=self._peer())
        if node and node != self.server.me.node:
            peer = self._other(node, ORDER_S * 3)
            if peer is None:
                return
            try:
                outcome = peer.act(action)
            except ControlError as error:
                self.send_error(502, str(error))
                return
        else:
            outcome = self.server.orders.ask(action, ORDER_S)
        self._answer(_STATUS_OF_OUTCOME[outcome.outcome], msgspec.to_builtins(outcome))

    def _asked(self) -> SplitResult | None:
        """What is asked for; None if that can't be read, which the answer says then."""
        try:
            asked = urlsplit(self.path)
            parse_qs(asked.query, max_num_fields=_FIELDS_MAX)
        except ValueError as error:
            self.send_error(400, f"that can't be read: {error}")
            return None
        return asked

    def _turned_away(self, path: str) -> bool:
        guard = self.server.guard
        if guard is None or not self.client_address:
            return False
        here = self.connection.getsockname()
        refusal = guard.refusal(
            self.headers.get, self.command, path, (str(here[0]), int(here[1])), self.client_address[0]
        )
        if refusal is None:
            return False
        headers = {"Retry-After": str(int(refusal.retry_after_s) + 1)} if refusal.retry_after_s else {}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        self.close_connection = True
        self._answer(refusal.status, {"error": refusal.why}, headers)
        return True

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdecimal():
            self.send_error(411, "send the action with its Content-Length")
            return None
        if len(length) > 9 or int(length) > ACTION_MAX:
            self.send_error(413, f"an action has at most {ACTION_MAX} bytes")
            return None
        return self.rfile.read(int(length))

    def _other(self, node: str, timeout_s: float) -> RemoteClient | None:
        """The agent of another node; None where there is none, which the answer says then."""
        server = self.server
        peer = server.roster.find(node)
        if peer is None:
            self.send_error(
                404,
                f"there is no agent {node[:100]!r} that could be asked by way of {server.me.node}: it is not of this "
                "round, or was started without --control-addr",
            )
            return None
        return RemoteClient(peer.where, server.credentials, timeout_s=timeout_s)

    def _peer(self) -> str:
        if self.client_address:
            return f"somebody at {self.client_address[0]}"
        peer = peer_of(self.connection)
        return "somebody" if peer is None else f"user {peer[1]}, process {peer[0]}"

    # -- answers --------------------------------------------------------------------------------------------

    def _snapshot(self, query: str) -> None:
        timeline, feed = self.server.feed.snapshot()
        self._answer(200, {**snapshot_of(timeline), **feed})

    def _healthz(self, query: str) -> None:
        if self.server.feed.finished:
            self._answer_text(503, "the run has ended\n")
        else:
            self._answer_text(200, "ok\n")

    def _stacks(self, query: str) -> None:
        """Where the threads of some workers are, of this node or another."""
        node, numbers = _said_in(query, "node"), _said_in(query, "local_ranks")
        if node and node != self.server.me.node:
            peer = self._other(node, STACKS_S)
            if peer is not None:
                try:
                    self._answer(200, peer.stacks(numbers))
                except ControlError as error:
                    self.send_error(502, str(error))
            return
        parts = numbers.split(",")
        if not all(part.isascii() and part.isdecimal() and len(part) < 5 for part in parts):
            self.send_error(400, "local_ranks names the workers, such as ?local_ranks=0,1")
            return
        from toolkit.adapters.control.reading_stacks import stacks_of

        self._answer(200, stacks_of(self.server.feed.timeline(), [int(part) for part in parts]))

    def _metrics(self, query: str) -> None:
        try:
            from toolkit.adapters.control import metrics
        except ImportError:
            self.send_error(501, "prometheus-client is not installed: pip install 'rallypoint[metrics]'")
            return
        timeline, feed = self.server.feed.snapshot()
        guard = self.server.guard
        data = metrics.exposition(timeline, {**feed, "refused_requests": guard.refused if guard else 0})
        self._answer_bytes(200, data, metrics.CONTENT_TYPE)

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._answer_bytes(status, msgspec.json.encode(value) + b"\n", "application/json", headers)

    def _answer_text(self, status: int, text: str) -> None:
        self._answer_bytes(status, text.encode(), "text/plain; charset=utf-8")

    def _answer_bytes(
        self, status: int, data: bytes, content_type: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    # -- the stream of events -------------------------------------------------------------------------------

    def _events(self, query: str) -> None:
        if _said_in(query, "all") == "1":
            self._all_events(query)
            return
        after = _after_in(query)
        feed = self.server.feed
        if self.request_version != "HTTP/1.1":
            self.send_error(505, "the stream of events needs HTTP/1.1")
        elif after is None:
            self.send_error(400, "after is the number of the last event that you have, such as ?after=0")
        elif after > feed.last_seq:
            self.send_error(
                409, f"after is {after} and the last event here is {feed.last_seq}; begin anew with 0"
            )
        elif not feed.enter(_WATCHERS_MAX):
            self.send_error(503, f"{_WATCHERS_MAX} watch already")
        else:
            try:
                self._stream(after)
            finally:
                feed.leave()

    def _all_events(self, query: str) -> None:
        """Those of all agents of the job, as far as this one knows them."""
        server, after = self.server, _afters_in(query)
        if self.request_version != "HTTP/1.1":
            self.send_error(505, "the stream of events needs HTTP/1.1")
        elif after is None:
            self.send_error(
                400, "after is NODE:NUMBER for each node of which you have events, with commas between"
            )
        elif not server.feed.enter(_WATCHERS_MAX):
            self.send_error(503, f"{_WATCHERS_MAX} watch already")
        else:
            mine = min(after.get(server.me.node, 0), server.feed.last_seq)
            fan_in = FanIn(
                lambda: own_lines(server.feed, server.me, mine, HEARTBEAT_S),
                server.roster,
                server.credentials,
                after,
            )
            try:
                self._begin_stream()
                fan_in.start()
                while (lines := fan_in.take(HEARTBEAT_S)) is not None:
                    self._send_chunk(lines or b"\n")
                self.wfile.write(b"0\r\n\r\n")
            except TimeoutError:
                server.feed.note_dropped()
                raise
            finally:
                fan_in.close()
                server.feed.leave()

    def _begin_stream(self) -> None:
        # After this nothing else is asked for on this connection.
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()

    def _stream(self, after: int) -> None:
        self._begin_stream()
        feed = self.server.feed
        batch = feed.look(after, 0.0)
        try:
            if batch.behind:
                after = self._send_recorded(after)
                batch = feed.look(after, 0.0)
            while not batch.behind and not batch.over:
                if batch.events:
                    self._send_lines(batch.events)
                    after = batch.events[-1].seq
                batch = feed.look(after, HEARTBEAT_S)
                if not (batch.events or batch.behind or batch.over):
                    self._send_chunk(b"\n")
            why = "fell behind" if batch.behind else ""
        except RecordingError as error:
            why = str(error)
        except TimeoutError:
            feed.note_dropped()
            raise
        if why:
            feed.note_dropped()
            said = {"type": "watcher_dropped", "after": after, "reason": why}
            self._send_chunk(msgspec.json.encode(said) + b"\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send_recorded(self, after: int) -> int:
        """Send what only the recording has. Returns the number of the last event that was sent, or lost for good."""
        feed = self.server.feed
        last, portion = after, list[Event]()
        for event in feed.from_recording(after):
            portion.append(event)
            if len(portion) >= 256:
                self._send_lines(portion)
                last, portion = portion[-1].seq, []
        if portion:
            self._send_lines(portion)
            last = portion[-1].seq
        # A full disk has lost events: without any progress the rest is what there is in memory.
        return last if last > after else feed.oldest_seq - 1

    def _send_lines(self, events: Iterable[Event]) -> None:
        self._send_chunk(b"".join(map(line_of, events)))

    def _send_chunk(self, data: bytes) -> None:
        if data:  # an empty chunk would end the stream
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _said_in(query: str, name: str, default: str = "") -> str:
    return parse_qs(query, keep_blank_values=True, max_num_fields=_FIELDS_MAX).get(name, [default])[-1]


def _after_in(query: str) -> int | None:
    return _number(_said_in(query, "after", "0"))


def _afters_in(query: str) -> dict[str, int] | None:
    """Numbers by node."""
    found = {}
    for part in filter(None, _said_in(query, "after").split(",")):
        node, _, text = part.rpartition(":")
        number = _number(text)
        if number is None or not node:
            return None
        found[node] = number
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def peer_of(connection: socket.socket) -> tuple[int, int] | None:
    """Process and user at the other end of a Unix socket, as the kernel knows them."""
    with suppress(OSError, AttributeError):
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    return None


def serve(connection: socket.socket, address: Any, server: ControlServer) -> None:
    """Answer a peer until it leaves. Never raises."""
    try:
        Connection(connection, address, server)  # type: ignore[arg-type]
    except (OSError, ValueError):
        return  # it left, was too slow, or sent what is no HTTP: its connection ends, and nobody else is told
    except Exception as error:  # noqa: BLE001 - the edge of a thread; a mistake of ours must not end up on the console
        server.tell(f"a request to the control endpoint failed: {type(error).__name__}: {error}")
