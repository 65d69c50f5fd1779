"""What every front that watches a run begins with: which run, what it is, how to tell its agents something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.adapters.recording.catalog import RunSummaryEntry, is_live, latest_run, list_runs
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.core.actions import Action, Outcome
from toolkit.views.session import Session

#: recent runs that are looked at
OFFERED_MAX = 50


def simulated(run: FollowedRun) -> str:
    """What a run simulates, such as "moved-rank-0 seed 1"; empty for real runs."""
    said: Any = run.run.get("simulated")
    if not isinstance(said, dict):
        return ""
    return f"{said.get('scenario', '')} seed {said.get('seed', 0)}".strip()


class RunController:
    """Implements Controller: over the control sockets in the run directory.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def act(self, node: str, action: Action) -> Outcome:
        """Tell the agent of that node."""
        from toolkit.adapters.control.client import ControlClient

        return ControlClient(self._path, node).act(action)


def read_all(session: Session) -> None:
    """Read all that is there now."""
    before = -1
    while before != len(session.film):
        before = len(session.film)
        session.tick(0.0)


def run_of_now(state_dir: Path) -> Path:
    """The newest run of which an agent lives, or else the latest one.

    Raises:
        ConfigurationError: there is none.
    """
    return running(list_runs(state_dir, OFFERED_MAX)) or latest_run(state_dir)


def running(runs: Sequence[RunSummaryEntry]) -> Path | None:
    """The newest run of which an agent lives."""
    return next((entry.path for entry in runs if is_live(entry.timeline)), None)
