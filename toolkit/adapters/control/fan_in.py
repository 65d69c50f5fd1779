"""The events of all agents of a job for one watcher, by way of one of them, which asks the others meanwhile.

Each agent has a thread here, and what they read goes through one bounded queue: a watcher that takes nothing stops
them, and with that their agents drop this one, which takes it up again where it was.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import msgspec

from toolkit.adapters.control.asking import EventStream
from toolkit.adapters.control.feed import Feed
from toolkit.adapters.control.remote import Credentials, RemoteClient
from toolkit.adapters.control.roster import Peer, Roster
from toolkit.adapters.recording.writer import encoded_line
from toolkit.core.errors import RallyError, RecordingError
from toolkit.core.events import Event

#: lines that may wait for the watcher
QUEUE_MAX = 4096
#: other agents that are asked at once
PEERS_MAX = 1024
#: how often the roster is looked at, and how long after a failure a peer is asked again, in seconds
ROSTER_S, AGAIN_S = 2.0, 2.0


class FanIn:
    """What one watcher is told of all agents.

    Args:
        own: yields the lines of this agent's own events behind a number, until its run ends.
        roster: of the others.
        credentials: for them.
        after: number of the last event that the watcher has, by node.
    """

    def __init__(
        self,
        own: Callable[[], Iterator[bytes]],
        roster: Roster,
        credentials: Credentials,
        after: Mapping[str, int],
    ) -> None:
        self._own = own
        self._roster = roster
        self._credentials = credentials
        self._after = dict(after)
        self._lines: queue.Queue[bytes | None] = queue.Queue(QUEUE_MAX)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._streams: set[EventStream] = set()
        self._asked: set[Peer] = set()

    def start(self) -> None:
        """Begin to ask.

        Raises:
            RuntimeError: there can be no more threads.
        """
        threading.Thread(target=self._send_own, name="rally-fan-in", daemon=True).start()
        threading.Thread(target=self._find_peers, name="rally-fan-in", daemon=True).start()

    def take(self, timeout_s: float) -> bytes | None:
        """Lines, several at once if they are there; empty if none came in time; None once this agent has ended."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return b""
        lines = []
        while line is not None:
            lines.append(line)
            if len(lines) >= 256:
                break
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
        if line is None and lines:
            self._lines.put(None)
        return b"".join(lines) or None

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed.set()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        # Whoever waits for room sees that it is closed.
        with suppress(queue.Empty):
            while True:
                self._lines.get_nowait()

    # -- in threads -----------------------------------------------------------------------------------------

    def _put(self, line: bytes | None) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._lines.put(line, timeout=0.5)
                return

    def _send_own(self) -> None:
        # A recording that can't be read ends the stream, and the watcher comes again.
        with suppress(RecordingError):
            for line in self._own():
                if line:
                    self._put(line)
                if self._closed.is_set():
                    return
        self._put(None)

    def _find_peers(self) -> None:
        knows = False
        while not self._closed.is_set():
            peers = self._roster.peers()
            if not knows:
                # So that the watcher knows for whom to wait before it puts events in order.
                knows = True
                for peer in peers:
                    self._put(note("known", peer))
                self._put(note("roster", Peer("", "")))
            for peer in peers:
                if peer not in self._asked and len(self._asked) < PEERS_MAX:
                    self._asked.add(peer)
                    with suppress(RuntimeError):
                        threading.Thread(
                            target=self._ask, args=(peer,), name="rally-fan-in-peer", daemon=True
                        ).start()
            self._closed.wait(ROSTER_S)

    def _ask(self, peer: Peer) -> None:
        """Hand on what one agent says, until it has ended, or is not of the job any more."""
        lost = ""
        while not self._closed.is_set() and (not lost or peer in self._roster.peers()):
            stream = None
            try:
                client = RemoteClient(peer.where, self._credentials)
                behind = client.snapshot().get("seq", 0)
                self._put(note("joined", peer))
                stream = client.events(self._after.get(peer.node, 0))
                self._read(stream, peer, behind if isinstance(behind, int) else 0)
                return
            except RallyError as error:
                if str(error) != lost:
                    lost = str(error)
                    self._put(note("lost", peer, lost))
            finally:
                if stream is not None:
                    with self._lock:
                        self._streams.discard(stream)
            self._closed.wait(AGAIN_S)
        # The job goes on without it; if it comes back, it is asked anew.
        self._put(note("left", peer))
        self._asked.discard(peer)

    def _read(self, stream: EventStream, peer: Peer, behind: int) -> None:
        with self._lock:
            self._streams.add(stream)
        if self._closed.is_set():
            return
        told = stream.seq >= behind
        if told:
            self._put(note("caught_up", peer))
        for event in stream:
            self._put(line_of(event))
            self._after[peer.node] = event.seq
            if not told and event.seq >= behind:
                told = True
                self._put(note("caught_up", peer))


def own_lines(feed: Feed, me: Peer, after: int, heartbeat_s: float) -> Iterator[bytes]:
    """The lines of an agent's own events, from its feed and, before that, its recording."""
    yield note("joined", me)
    caught_up = False
    while True:
        batch = feed.look(after, heartbeat_s if caught_up else 0.0)
        if batch.behind:
            before = after
            for event in feed.from_recording(after):
                yield line_of(event)
                after = event.seq
            if after == before:
                after = feed.oldest_seq - 1  # a full disk has lost them: the rest is what there is in memory
            continue
        for each in batch.events:
            yield line_of(each)
            after = each.seq
        if not batch.events:
            # Empty where there is nothing to say, so that the caller sees that it is not wanted any more.
            yield b"" if caught_up else note("caught_up", me)
            caught_up = True
        if batch.over:
            return


def note(what: str, peer: Peer, reason: str = "") -> bytes:
    """A line that is no event: what there is to say of the connection to an agent."""
    said = {"type": f"agent_{what}", "node": peer.node, "url": peer.url, "reason": reason}
    return msgspec.json.encode(said) + b"\n"


def line_of(event: Event) -> bytes:
    """An event as a line; empty for one with values that are no JSON: the recording has counted it as dropped."""
    try:
        return encoded_line(event) + b"\n"
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return b""
