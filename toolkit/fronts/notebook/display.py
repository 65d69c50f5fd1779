"""Shows a job where it was asked for: live while it goes on, frozen into HTML in the same place when it has ended.

A live widget alone is lost with its kernel: a saved notebook says "model not found", an exported one is empty. So
the output is replaced by HTML without script when the run ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from toolkit import wiring
from toolkit.adapters.watch_thread import lock
from toolkit.core.errors import RallyError
from toolkit.fronts.notebook.deltas import Deltas
from toolkit.fronts.notebook.shell import running_shell
from toolkit.fronts.notebook.watched import Watched

#: messages of one view are at least so far apart, and pictures where there is no widget, in nanoseconds
APART_NS, _PICTURES_APART_NS = 200_000_000, 1_000_000_000


def bundle(watched: Watched) -> dict[str, Any]:
    """As it stands now: text, and HTML without script."""
    return {"text/plain": repr(watched), "text/html": watched.html()}


def show(watched: Any, *, widget: bool = True) -> None:
    """Display it: in a notebook live if it goes on, else as it stands.

    Args:
        widget: whether by a widget, where there are any; else the picture is replaced by a new one. A simulation moves
            only while a cell tells it to, and its picture is to be whole whenever the notebook is saved.
    """
    from IPython.display import display

    if watched.over or not _in_notebook():
        display(bundle(watched), raw=True)
        return
    View(watched, widget=widget).show()


def _in_notebook() -> bool:
    return getattr(running_shell(), "kernel", None) is not None


class _Cells:
    """The context of the cell that runs now, or ran last: what a thread says is taken for the output of that."""

    _known: _Cells | None = None

    def __init__(self, shell: Any) -> None:
        self._context = contextvars.copy_context()
        shell.events.register("pre_run_cell", self._begins)

    @classmethod
    def of(cls, shell: Any) -> _Cells:
        if cls._known is None:
            cls._known = cls(shell)
        else:
            cls._known._begins()
        return cls._known

    def _begins(self, *_: Any) -> None:
        self._context = contextvars.copy_context()

    def say(self, speak: Callable[..., None], *args: Any, **how: Any) -> None:
        # A copy, because two threads may speak at one time.
        self._context.copy().run(speak, *args, **how)


class _Places:
    """Where pages show a widget, as far as they say so: each place comes, and goes when its output is cleared.

    A page that is closed does not say so, and what it has said may be heard when a cell has ended: too late, and even
    behind what it said after that. So all counts as shown until a place has gone and no other is known.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        #: those that went before they came
        self._early: set[str] = set()
        self.none_left = False

    def comes(self, place: str) -> bool:
        """Returns whether it is still there."""
        if place in self._early:
            self._early.remove(place)
            return False
        self._known.add(place)
        self.none_left = False
        return True

    def goes(self, place: str) -> None:
        if place in self._known:
            self._known.remove(place)
        else:
            self._early.add(place)
        self.none_left = not self._known


class View:
    """One place in a notebook where a run is shown."""

    def __init__(self, watched: Any, *, widget: bool = True) -> None:
        self._watched = watched
        self._by_widget = widget and find_spec("anywidget") is not None
        self._cells = _Cells.of(running_shell())
        self._place = f"rally-{wiring.fresh_run_id()}"
        self._deltas = Deltas(watched.name, acts=hasattr(watched, "kill"))
        self._said_ns = 0
        self._seen: object = None
        self._widget: Any = None
        #: what is said is said in the order in which it was made, by whichever thread
        self._order = lock()
        self._places = _Places()
        #: messages that were sent, for whoever measures
        self.sent = 0

    def show(self) -> None:
        """Display it, and keep it up to date until the run has ended."""
        from IPython.display import display

        data = bundle(self._watched)
        if self._by_widget:
            from toolkit.fronts.notebook.live import LiveWidget

            self._widget = LiveWidget(self._all(), self._told)
            data |= self._widget.reference()
        display(data, raw=True, display_id=self._place)
        self._watched.subscribe(self._tell)

    def _tell(self, over: bool, *, settled: bool = False) -> None:
        """The run has been looked at, in the watching thread; or what moved it has ended."""
        if over:
            self._freeze()
            return
        apart_ns = APART_NS if self._widget is not None else _PICTURES_APART_NS
        now_ns = wiring.clock().now_ns()
        if now_ns - self._said_ns < apart_ns and not settled:
            return
        if self._widget is None:
            seen = (self._watched.now, self._watched.now_ns if settled else 0)
            if seen != self._seen:
                self._seen, self._said_ns = seen, now_ns
                self._replace(bundle(self._watched))
            return
        if self._widget.closed:
            self._watched.unsubscribe(self._tell)
        elif not self._places.none_left:
            self._tell_changes(now_ns)

    def _tell_changes(self, now_ns: int) -> None:
        with self._order:
            message = self._deltas.changes(*self._moment())
            if message is not None:
                self._said_ns = now_ns
                self.sent += 1
                self._cells.say(self._widget.send, message)

    def _moment(self) -> tuple[Any, ...]:
        watched = self._watched
        return watched.now, watched.now_ns, watched.mode, watched.notes(), watched.said(), watched.state

    def _all(self) -> dict[str, Any]:
        return self._deltas.all(*self._moment())

    def _tell_all(self) -> None:
        with self._order:
            self._cells.say(self._widget.send, self._all())

    def _freeze(self) -> None:
        data = bundle(self._watched)
        if self._widget is not None:
            self._cells.say(self._widget.freeze, data["text/html"])
        self._replace(data)

    def _replace(self, data: dict[str, Any]) -> None:
        publish = running_shell().display_pub.publish
        self._cells.say(publish, data, {}, transient={"display_id": self._place}, update=True)

    # -- what its buttons ask for ---------------------------------------------------------------------------

    def _told(self, message: dict[str, Any]) -> None:
        """A message of the front end, in whichever thread the kernel takes it."""
        match message.get("act"):
            case "all":
                if self._places.comes(str(message.get("place"))) and not self._watched.over:
                    self._tell_all()
            case "left":
                self._places.goes(str(message.get("place")))
            case "kill" | "restart" | "stop" as act:
                wiring.aside(lambda: self._act(act, message), "rally-button")
            case _:
                return

    def _act(self, act: str, message: dict[str, Any]) -> None:
        why = "by a button of the notebook"
        try:
            if act == "kill":
                rank, incarnation = int(message["rank"]), int(message["incarnation"])
                self._watched.signal("SIGKILL", rank, why=why, incarnation=incarnation)
                words = f"SIGKILL went to rank {rank}"
            elif act == "restart":
                self._watched.restart(why=why)
                words = "all workers are started anew"
            else:
                self._watched.stop(why=why)
                words = "the job is being stopped"
        except (RallyError, ValueError, KeyError, OSError) as error:
            words = str(error)
        self._cells.say(self._widget.send, {"kind": "told", "words": words})
