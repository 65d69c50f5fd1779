"""The live widget: an anywidget whose script is in `live.js`. Imported where anywidget is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from toolkit.views.html import STYLE


class LiveWidget(anywidget.AnyWidget):  # type: ignore[misc]  # it has no types
    """The live view of one run.

    Args:
        everything: the first message.
        told: takes what the front end says. Where that closes the widget, it is closed here, too.
    """

    _esm = Path(__file__).with_name("live.js")
    _all = traitlets.Dict().tag(sync=True)
    _style = traitlets.Unicode(STYLE).tag(sync=True)
    _frozen = traitlets.Unicode("").tag(sync=True)

    def __init__(self, everything: dict[str, Any], told: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(_all=everything)
        _answer_while_cells_run(self.comm)
        self.comm.on_close(lambda message: self.close())
        self.on_msg(lambda widget, message, buffers: told(message) if isinstance(message, dict) else None)

    def freeze(self, html: str) -> None:
        """Show this from now on."""
        with self.hold_sync():
            self._frozen = html
            self._all = {}  # it would be kept as long as the kernel lives

    @property
    def closed(self) -> bool:
        """Whether nobody is told any more: its view was closed, and does not come back."""
        return self.comm is None

    def reference(self) -> dict[str, Any]:
        """What a notebook's output holds of it."""
        found = self._repr_mimebundle_()
        data = found[0] if isinstance(found, tuple) else found
        return {kind: value for kind, value in (data or {}).items() if kind.startswith("application/")}


def _answer_while_cells_run(comm: Any) -> None:
    """Take what the front end says on the subshell that it was sent to, though a cell blocks the main thread.

    ipykernel 7.4 hands messages of a comm to the loop that the comm was opened in, for widgets whose callbacks may run
    nowhere else; ours may. 7.1 does not, and has nothing to undo; 6.31 has no subshells, and the button has to wait.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
