"""How far a sweep is: a bar on a terminal, a line in a notebook that changes, and nothing elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

#: between two pictures, in seconds
_EVERY_S = 0.1


class Watch(Protocol):
    """Whoever is told of each run."""

    def show(self, done: int) -> None:
        """So many are done."""

    def close(self, done: int) -> None:
        """It ends, with so many done."""


def progress_of(total: int, *, shown: bool) -> Watch:
    """What shows the progress of so many runs here."""
    if not shown:
        return _Silent()
    if in_notebook():
        return _Notebook(total)
    return _Terminal(total) if sys.stderr is not None and sys.stderr.isatty() else _Silent()


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _Silent:
    def show(self, done: int) -> None:
        return

    def close(self, done: int) -> None:
        return


class _Terminal:
    """rich's bar; drawn by us when a run ends, so that no thread of it sees a simulated run's clocks."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("sweep"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs, {task.fields[rate]}, "),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("sweep", total=total, rate="starting")
        self._started = self._drawn = time.perf_counter()
        self._bar.start()

    def show(self, done: int) -> None:
        now = time.perf_counter()
        if now - self._drawn < _EVERY_S:
            return
        self._drawn = now
        self._bar.update(self._task, completed=done, rate=_rate(done, now - self._started))
        self._bar.refresh()

    def close(self, done: int) -> None:
        self._bar.stop()


class _Notebook:
    """One output that is replaced as it goes on. Plain HTML, so that it needs no widgets."""

    def __init__(self, total: int) -> None:
        from IPython.display import HTML, display

        self._total, self._html = total, HTML
        self._started = self._drawn = time.perf_counter()
        self._handle: Any = display(HTML(self._words(0)), display_id=True)

    def show(self, done: int) -> None:
        now = time.perf_counter()
        if now - self._drawn >= _EVERY_S:
            self._drawn = now
            self._handle.update(self._html(self._words(done)))

    def close(self, done: int) -> None:
        took_s = time.perf_counter() - self._started
        words = f"{done:,} of {self._total:,} runs in {took_s:.1f} s, {_rate(done, took_s)}"
        self._handle.update(self._html(f"<small>{words}</small>"))

    def _words(self, done: int) -> str:
        rate = _rate(done, time.perf_counter() - self._started)
        bar = f'<progress value="{done}" max="{self._total}"></progress>'
        return f"{bar} <small>{done:,} of {self._total:,} runs, {rate}</small>"


def _rate(done: int, took_s: float) -> str:
    return f"{done / took_s:.0f} a second" if done and took_s > 0 else "starting"
