"""A real JupyterLab on this machine's loopback, and what is done to its pages in a browser."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

from tests.ports import free_port

#: how long a page may take for anything, in milliseconds
PATIENCE_MS = 20_000


class Lab:
    """A server.

    Args:
        folder: its root, with its settings and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.port = free_port()
        home = folder / ".jupyter-home"
        self.environ = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "IPYTHONDIR": str(home / "ipython"),
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))),
        }
        quiet = (
            home / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        )
        quiet.parent.mkdir(parents=True, exist_ok=True)
        quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={self.port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}", "--ip=127.0.0.1",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=None", f"--ServerApp.root_dir={folder}",
        ]  # fmt: skip
        self._log = (folder / "lab.log").open("ab")
        self.process = subprocess.Popen(
            command, env=self.environ, cwd=folder, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._wait_until_it_serves()

    def _wait_until_it_serves(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}/api?token={self.token}", timeout=5
                ).close()
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.folder / "lab.log").read_text()[-3000:]
                assert time.monotonic() < until, "JupyterLab does not serve"
                time.sleep(0.1)

    def url(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    server = Lab(folder)
    try:
        yield server
    finally:
        server.close()


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of these cells, not executed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Page:
    """An open notebook.

    Args:
        page: of playwright.
    """

    def __init__(self, page: Any, server: Lab, notebook: str) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        page.goto(server.url(notebook))
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")

    def idle(self) -> None:
        """Wait until the kernel is there, and has nothing to do. A page connects twice before it stays connected."""
        idle = 0
        for _ in range(PATIENCE_MS // 100):
            idle = idle + 1 if self.page.get_by_text("| Idle").count() else 0
            if idle >= 15:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the kernel does not come to rest")

    def run(self, cell: int) -> None:
        """Run one cell, not waiting for its end. A page that has just been opened may lose the first try."""
        prompt = self.page.locator(".jp-CodeCell .jp-InputPrompt").nth(cell)
        before = prompt.inner_text()
        for _ in range(10):
            prompt.click()
            self.page.wait_for_selector(f".jp-Cell:nth-child({cell + 1}).jp-mod-selected")
            self.page.locator('[data-command="notebook:run-cell-and-select-next"]').first.click()
            for _ in range(20):
                if prompt.inner_text() != before:
                    return
                self.page.wait_for_timeout(100)
        raise AssertionError(f"cell {cell} does not run")

    def save(self) -> None:
        """Save, and wait until that has happened."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT"):
            self.page.keyboard.press("Control+s")

    def output(self, cell: int) -> Any:
        """Where what a cell shows stands."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")
