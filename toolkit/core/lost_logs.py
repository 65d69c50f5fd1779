"""Output that logs have lost, folded: of each log and incarnation what was told last, which has the counts of all."""

from __future__ import annotations

from toolkit.core.events import LogsLost

#: what a timeline keeps of one node; the losses after that are in the recording only
LOST_LOGS_MAX = 1_000


def after(lost: tuple[LogsLost, ...], event: LogsLost) -> tuple[LogsLost, ...]:
    """The losses of a node after one more was told."""

    def what(loss: LogsLost) -> tuple[int, str]:
        return loss.incarnation, loss.path or loss.problem

    others = tuple(known for known in lost if what(known) != what(event))
    return (*others, event) if len(others) < LOST_LOGS_MAX else others
