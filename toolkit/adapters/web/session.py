"""One tab of a browser: the `rally top` behind it, which ends with it at the latest."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from toolkit.adapters.processes.parent_death import die_with

#: how long `rally top` may take to end when it is asked to, in seconds; then it is killed
QUIT_S = 2.0
#: how long a browser may take to agree to the end of its websocket, in seconds
CLOSE_S = 1.0
_CELLS_MAX = 1000


class TopSession(AppService):
    """Runs a program for one websocket.

    Args:
        argv: the program, which draws with Textual.
        downloads: of all sessions of the server.
    """

    def __init__(self, argv: Sequence[str], downloads: DownloadManager) -> None:
        self._argv = tuple(argv)
        self.websocket = web.WebSocketResponse(heartbeat=15, timeout=CLOSE_S)
        super().__init__(
            shlex.join(argv),
            write_bytes=self.websocket.send_bytes,
            write_str=self.websocket.send_str,
            close=self.close,
            download_manager=downloads,
        )

    async def close(self) -> None:
        """End the websocket; the rest follows. More than once does no harm."""
        with suppress(RuntimeError):  # it is not open yet, and will be found closed
            await self.websocket.close()

    async def start(self, width: int, height: int) -> None:
        """Start the program in a terminal of that many cells."""
        await super().start(_cells(width), _cells(height))

    async def set_terminal_size(self, width: int, height: int) -> None:
        """Tell the program that the terminal has so many cells now."""
        await super().set_terminal_size(_cells(width), _cells(height))

    async def _open_app_process(self, width: int = 80, height: int = 24) -> asyncio.subprocess.Process:
        """Without a shell, in a session of its own: Ctrl-C is for the server, which then ends this."""
        server_pid = os.getpid()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._build_environment(width, height),
            start_new_session=True,
            preexec_fn=lambda: die_with(server_pid),  # calls one C function, looked up before
        )
        assert process.stdin is not None, "asked for above"
        self._stdin = process.stdin
        return process

    async def run(self) -> None:
        """Hand on what the program draws until it ends, or fails to start; then the websocket ends."""
        try:
            await super().run()
        finally:
            await self.close()

    async def stop(self) -> None:
        """Ask the program to quit, and see to it that it does. textual-serve's own waits for ever."""
        if self._process is None:
            return
        # By itself: textual-serve's task swallows a cancellation, and a limit around it would be none.
        asked = asyncio.create_task(self._quit(self._process))
        try:
            await asyncio.wait({asked}, timeout=QUIT_S)
        finally:
            await self.kill()
        await asyncio.wait({asked}, timeout=CLOSE_S)
        asked.cancel()

    async def _quit(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ConnectionError):  # it has just gone
            await super().stop()
        # A pipe that nobody reads could keep it from ending; `communicate` reads it.
        await process.communicate()

    async def kill(self) -> None:
        """SIGKILL to the program if it still runs; returns when it has ended. Also while it is being stopped."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


def _cells(count: int) -> int:
    return max(1, min(int(count), _CELLS_MAX))
