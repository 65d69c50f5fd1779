"""What can be told to a running job from the screen. Everything dangerous asks first, and names whom it would hit."""

from __future__ import annotations

from typing import Protocol

from textual.app import App

from toolkit.core.actions import Action, Kind, Outcome
from toolkit.core.errors import RallyError
from toolkit.core.words import plural, ranks
from toolkit.fronts.tui.panes import Pane
from toolkit.fronts.tui.screens import Confirm
from toolkit.views.rows import RankKey, RankRow, RowMaker
from toolkit.views.session import Session

_DANGEROUS = frozenset({"kill", "restart", "drain", "stop"})


class Controller(Protocol):
    """Tells agents what to do: `toolkit.adapters.control.client`."""

    def act(self, node: str, action: Action) -> Outcome:
        """Blocks for some seconds at the most.

        Raises:
            RallyError: nobody listens, or it is not allowed.
        """
        ...


class Acting(App[None]):
    """The part of the screen that acts.

    Args:
        session: the run.
        controller: None for what can't be told anything: recordings, simulations, `--read-only`.
        by: who acts, for the events.
    """

    _maker: RowMaker

    def __init__(self, session: Session, controller: Controller | None, by: str) -> None:
        super().__init__()
        self.session = session
        self._controller = controller
        self._by = by

    @property
    def pane(self) -> Pane:
        """The view that is on."""
        raise NotImplementedError

    def _row(self, key: RankKey) -> RankRow | None:
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dangerous actions are not there where they can't be done, neither as keys nor in the palette."""
        return action not in _DANGEROUS or self.can_act

    @property
    def can_act(self) -> bool:
        """Whether there is somebody to tell, now: not in a recording, and not in the past."""
        return self._controller is not None and self.session.mode == "LIVE" and self.session.at_edge

    def action_kill(self) -> None:
        """SIGKILL to the selected rank."""
        key = self.pane.rank
        row = self._row(key) if key is not None else None
        if row is None or row.state != "running":
            self.notify("select a rank that runs, in the ranks (3) or the timeline (4, then o)", timeout=4)
            return
        now = row.now
        action = self._action(
            "signal", local_ranks=(now.local_rank,), signal="SIGKILL", incarnation=now.number
        )
        left = self.session.timeline.restarts_max - self.session.timeline.restarts_used
        self._ask(
            f"Kill rank {now.global_rank}?",
            [f"SIGKILL to rank {now.global_rank}: pid {now.pid} on {row.host}, incarnation {now.number}"],
            f"The job restarts from its last checkpoint; {plural(max(left, 0), 'restart')} left."
            if left > 0
            else "No restarts are left: the job will fail.",
            "Kill",
            row.key[0],
            action,
        )

    def action_restart(self) -> None:
        """Start all workers of the job anew."""
        node = self._node_to_ask()
        if node is None:
            return
        rows = self._maker.ranks(self.session.timeline)
        every = sorted(row.now.global_rank for row in rows)
        # So that pressing it twice starts them anew once.
        here = max((row.now.number for row in rows if row.key[0] == node), default=None)
        self._ask(
            "Restart all workers?",
            [
                f"{ranks(every)} of {plural(len(self.session.timeline.nodes), 'node')}"
                if every
                else "all nodes"
            ],
            "All workers start again from the last checkpoint. It does not count against the restarts.",
            "Restart",
            node,
            self._action("restart", incarnation=here),
        )

    def action_drain(self) -> None:
        """Have the selected node leave."""
        node = self.pane.node
        if node is None:
            self.notify("select a node first, in the nodes (2) or the timeline (4)", timeout=4)
            return
        self._ask(
            f"Drain {node}?",
            [f"{node} stops its workers and leaves the job"],
            "The others restart without it; with fewer than the minimum of nodes they wait.",
            "Drain",
            node,
            self._action("drain"),
        )

    def action_stop(self) -> None:
        """End the job."""
        node = self._node_to_ask()
        if node is None:
            return
        timeline = self.session.timeline
        self._ask(
            "Stop the job?",
            [f"{timeline.run_id}: {plural(len(timeline.nodes), 'node')}, all their workers"],
            "All workers get SIGTERM, and SIGKILL after the grace. The job ends; it does not restart.",
            "Stop",
            node,
            self._action("stop"),
        )

    def _node_to_ask(self) -> str | None:
        alive = [row.key for row in self._maker.nodes(self.session.timeline) if not row.node.result]
        if not alive:
            self.notify("no agent of this job runs any more", timeout=3)
            return None
        chosen = self.pane.node
        return chosen if chosen in alive else alive[0]

    def _action(
        self,
        kind: Kind,
        *,
        local_ranks: tuple[int, ...] = (),
        signal: str = "",
        incarnation: int | None = None,
    ) -> Action:
        return Action(
            action=kind,
            by=self._by,
            why="rally top",
            local_ranks=local_ranks,
            signal=signal,
            incarnation=incarnation,
        )

    def _ask(
        self, title: str, targets: list[str], consequence: str, verb: str, node: str, action: Action
    ) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(lambda: self._act(node, action), thread=True, exit_on_error=False)

        self.push_screen(Confirm(title, targets, consequence, verb), answered)

    def _act(self, node: str, action: Action) -> None:
        """In a thread: an agent may take its time."""
        assert self._controller is not None, "asked only where there is one"
        try:
            outcome = self._controller.act(node, action)
        except (RallyError, OSError) as error:
            self.call_from_thread(self.notify, str(error), severity="error", timeout=8, markup=False)
            return
        said = f"{action.action}: {outcome.outcome} {outcome.detail}".rstrip()
        severity = "information" if outcome.outcome == "done" else "warning"
        self.call_from_thread(self.notify, said, severity=severity, timeout=6, markup=False)
