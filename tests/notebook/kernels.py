"""Real kernels: notebooks executed as `nbclient` does, and single kernels that are interrupted and restarted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

#: seconds that a cell may take
PATIENCE_S = 60


def executed(*cells: str, allow_errors: bool = False) -> list[list[Any]]:
    """What each cell has shown, when all have run."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="python3",
        allow_errors=allow_errors,
        store_widget_state=False,
    )
    client.execute()
    return [list(cell.outputs) for cell in notebook.cells]


class Kernel:
    """One kernel."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str) -> dict[str, Any]:
        """Run code to its end; how that was: status, ename, evalue."""
        reply: dict[str, Any] = self.client.execute_interactive(
            code, timeout=PATIENCE_S, output_hook=lambda message: None
        )["content"]
        return reply

    def value(self, code: str) -> str:
        """What an expression is, as its repr."""
        reply: dict[str, Any] = {"status": "aborted"}
        while reply["status"] == "aborted":  # what comes right behind an error may be dropped
            reply = self.client.execute_interactive(
                "", user_expressions={"value": code}, timeout=PATIENCE_S, output_hook=lambda message: None
            )["content"]
        answer = reply["user_expressions"]["value"]
        assert answer["status"] == "ok", answer
        return str(answer["data"]["text/plain"])

    def begin(self, code: str) -> str:
        """Run code, waiting for its first word and not for its end."""
        message_id = str(self.client.execute(code))
        while True:
            said = self.client.get_iopub_msg(timeout=PATIENCE_S)
            if said["parent_header"].get("msg_id") == message_id and said["msg_type"] == "stream":
                return message_id

    def answer(self, message_id: str) -> dict[str, Any]:
        """How what was begun has ended."""
        while True:
            reply: dict[str, Any] = self.client.get_shell_msg(timeout=PATIENCE_S)
            if reply["parent_header"].get("msg_id") == message_id:
                content: dict[str, Any] = reply["content"]
                return content


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A kernel that ends with the block."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
