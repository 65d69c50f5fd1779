"""Who of one node's workers has failed, and whom the agent stopped, as its events tell it: what its report needs."""

from __future__ import annotations

from toolkit.core import events as ev
from toolkit.core.job_report import FailureRecord
from toolkit.views.failure_report import record_of, tail_of


class FailedWorkers:
    """The workers of the latest incarnation that did not end well."""

    def __init__(self) -> None:
        self._records: list[FailureRecord] = []
        self._stderrs: dict[int, str] = {}
        #: by global rank, what those had said of another's death whom the agent stopped, or an empty string
        self.stopped: dict[int, str] = {}
        #: global ranks that ended with exit code 0 before another one failed
        self.ended_well: list[int] = []
        self._some_failed = False

    def take(self, event: ev.Event) -> None:
        """What happened next."""
        match event:
            case ev.WorkersStarting():
                self._records.clear()
                self._stderrs.clear()
                self.stopped.clear()
                self.ended_well.clear()
                self._some_failed = False
            case ev.WorkerStarted(stderr=path) if path and path != "/dev/null":
                self._stderrs[event.global_rank] = path
            case ev.WorkerExited(stopped_by_agent=True):
                self.stopped[event.global_rank] = event.consequence
            case ev.WorkerExited(exit_code=0) if not self._some_failed:
                self.ended_well.append(event.global_rank)
            case ev.WorkerExited():
                self._some_failed = True
            case ev.FailureRecorded():
                # The first one is told first, unless the culprit ended only after its victims had been told of.
                at = 0 if event.first else len(self._records)
                self._records.insert(at, record_of(event))
            case _:
                pass

    @property
    def records(self) -> list[FailureRecord]:
        """Who failed by itself, who failed first at the top."""
        return list(self._records)

    @property
    def traceback(self) -> tuple[str, ...]:
        """The lines that matter of the first one's."""
        return tail_of(self._records[0].traceback) if self._records else ()

    @property
    def logs(self) -> list[str]:
        """Where the words of the first one are, if they are kept."""
        if not self._records or self._records[0].global_rank not in self._stderrs:
            return []
        rank = self._records[0].global_rank
        return [f"stderr of rank {rank}: {self._stderrs[rank]}"]
