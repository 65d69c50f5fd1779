"""What workers leave behind, as it is found; stopping it is seen in tests/processes/test_orphans.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from toolkit.adapters.leftovers import process_tree
from toolkit.adapters.leftovers.left_behind import LeftBehind
from toolkit.adapters.leftovers.process_tree import Seen
from toolkit.adapters.loop_bell import LoopBell


class TakesIn:
    """Orphans: one child of this process."""

    active = True

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def living(self, known: Iterable[int]) -> list[Seen]:
        seen = process_tree.look(self._pid)
        return [seen] if seen is not None and self._pid not in known else []


def test_a_supervisor_that_was_started_later_is_not_left_behind_either() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        strangers: list[int] = []
        left = LeftBehind("no-such-token", TakesIn(child.pid), LoopBell(), lambda: strangers)  # type: ignore[arg-type]
        assert [each.pid for each in left.find(set(), set())] == [child.pid]
        strangers.append(child.pid)
        assert left.find(set(), set()) == []
    finally:
        child.kill()
        child.wait()
