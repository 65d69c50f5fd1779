"""Connections between the nodes of an experiment, all on this machine, that can be cut, slowed, reset and lost.

Each node reaches the others by gates of its own, ports on the loopback address: one leads to the store of the job, at
the other a worker says first whom it wants (`HOST PORT` and a newline). What is carried from node to node passes,
waits or is late as the link between the two says. Bytes wait here as they would in TCP: nobody is told of a cut, and
what waited arrives when it has passed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from toolkit.adapters.experiment.worker import HOLD
from toolkit.core.errors import LaunchError

_CHUNK = 1 << 16
#: portions of one connection that may be on their way
_UNDER_WAY_MAX = 256
#: how long the thread of the links may take for anything, in seconds
_PATIENCE_S = 10.0
#: to a host without power, a connection is tried again after so long
_RETRY_S = 0.05

_T = TypeVar("_T")


class _Way:
    """One connection that is carried; both its directions."""

    def __init__(self, source: str, target: str, near: asyncio.StreamWriter) -> None:
        self.source, self.target = source, target
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        #: an end of it has lost power: nothing passes any more, and nobody is told
        self.lost = False

    def touches(self, node: str) -> bool:
        """Whether the node is at one of its ends."""
        return node in (self.source, self.target)

    def reset(self) -> None:
        """Both ends see the connection broken."""
        for end in (self.near, self.far):
            if end is not None:
                _abort(end)


class Links:
    """All links of one experiment, in a thread of their own. To be called from one thread.

    Args:
        addresses: address of each node, on the loopback device.
        store: where the store of the job is: its node, host and port.

    Raises:
        LaunchError: a port can't be had.
    """

    def __init__(self, addresses: Mapping[str, str], store: tuple[str, str, int]) -> None:
        self._node_at = {address: node for node, address in addresses.items()}
        self._store = store
        self._cuts: dict[tuple[str, str], None] = {}
        self._latencies_s: dict[tuple[str, str], float] = {}
        self._down: dict[str, None] = {}
        self._ways: dict[_Way, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="rally-links", daemon=True)
        self._thread.start()
        #: the gate of each node to the store, and that of its workers to each other
        self.to_store: dict[str, int] = {}
        self.to_peers: dict[str, int] = {}
        try:
            for node in addresses:
                self.to_store[node] = self._call(self._open(node, self._carry_to_store))
                self.to_peers[node] = self._call(self._open(node, self._carry_to_peer))
        except OSError as error:
            self.close()
            raise LaunchError(f"no port for the links of {node}: {error.strerror}") from error

    # -- what can be done to them ------------------------------------------------------------------------------

    def settle(self, cut: Iterable[tuple[str, str]], latency_s: Mapping[tuple[str, str], float]) -> None:
        """Which directions between nodes carry nothing from now on, and which carry late."""

        def change() -> None:
            self._cuts = dict.fromkeys(cut)
            self._latencies_s = dict(latency_s)
            self._wake()

        self._do(change)

    def lose(self, node: str) -> None:
        """The node loses power: its connections carry nothing any more, and nobody is told."""

        def change() -> None:
            self._down[node] = None
            for way in self._ways:
                way.lost = way.lost or way.touches(node)

        self._do(change)

    def restore(self, node: str) -> None:
        """The node has power again; new connections reach it."""

        def change() -> None:
            self._down.pop(node, None)
            self._wake()

        self._do(change)

    def reset(self, node: str) -> int:
        """Break all open connections of the node. Returns how many there were."""

        def change() -> int:
            open_ways = [way for way in self._ways if way.touches(node) and not way.lost]
            for way in open_ways:
                way.reset()
            return len(open_ways)

        return self._do(change)

    def close(self) -> None:
        """End all of it. Harmless the second time."""
        if not self._thread.is_alive():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    # -- to and from the thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, doing: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(doing, self._loop)
        return future.result(_PATIENCE_S)

    def _do(self, change: Callable[[], _T]) -> _T:
        async def done() -> _T:
            return change()

        result: _T = self._call(done())
        return result

    # -- in the thread -----------------------------------------------------------------------------------------

    async def _open(self, node: str, carry: Callable[..., Any]) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None, "a connection is served by a task"
            self._tasks[task] = None
            try:
                await carry(node, reader, writer)
            except asyncio.CancelledError:
                pass  # the experiment is over
            finally:
                self._tasks.pop(task, None)
                _abort(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for way in list(self._ways):
            way.reset()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_to_store(
        self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        target, host, port = self._store
        await self._carry(_Way(node, target, writer), reader, host, port)

    async def _carry_to_peer(
        self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            wanted = await reader.readline()
        except (OSError, ValueError):
            return
        if wanted == HOLD:
            await reader.read()
            return
        host, _, port = wanted.decode("ascii", "replace").strip().partition(" ")
        if host in self._node_at and port.isdecimal():
            await self._carry(_Way(node, self._node_at[host], writer), reader, host, int(port))

    async def _carry(self, way: _Way, reader: asyncio.StreamReader, host: str, port: int) -> None:
        self._ways[way] = None
        way.lost = way.source in self._down
        try:
            far = await self._reached(way, host, port)
            if far is None:
                return  # as one finds a port on which nobody listens: broken
            far_reader, way.far = far
            there = asyncio.create_task(self._pump(reader, way.far, way, (way.source, way.target)))
            back = asyncio.create_task(self._pump(far_reader, way.near, way, (way.target, way.source)))
            try:
                await asyncio.gather(there, back)
            finally:
                there.cancel()
                back.cancel()
        finally:
            del self._ways[way]
            way.reset()

    async def _reached(
        self, way: _Way, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while True:
            await self._may_pass(way, (way.source, way.target))
            try:
                return await asyncio.open_connection(host, port)
            except OSError:
                if way.target not in self._down:
                    return None
                await asyncio.sleep(_RETRY_S)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Way,
        direction: tuple[str, str],
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_UNDER_WAY_MAX)
        delivery = asyncio.create_task(self._deliver(under_way, writer, way, direction))
        try:
            while True:
                try:
                    data: bytes | None = await reader.read(_CHUNK) or b""
                except OSError:
                    data = None
                at = self._loop.time() + self._latencies_s.get(direction, 0.0)
                await under_way.put((at, data))
                if not data:
                    break
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self,
        under_way: asyncio.Queue[tuple[float, bytes | None]],
        writer: asyncio.StreamWriter,
        way: _Way,
        direction: tuple[str, str],
    ) -> None:
        """Hand on what was sent, in its order; an end without data ends the other side, None breaks it."""
        while True:
            at, data = await under_way.get()
            await asyncio.sleep(max(at - self._loop.time(), 0.0))
            await self._may_pass(way, direction)
            if data is None:
                way.reset()
                return
            try:
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
            except OSError:
                way.reset()
                return

    async def _may_pass(self, way: _Way, direction: tuple[str, str]) -> None:
        while way.lost or direction in self._cuts or way.target in self._down:
            await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other side sees it broken, and not ended."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # closed already
    writer.transport.abort()
