"""What is put to the test: whatever runs one agent on one simulated node. Scenarios and checkers don't know which."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from simulator.scenario import Scenario
from simulator.workloads import Jobs
from simulator.world import Process, World


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agent ended.

    Args:
        result: a WorkerState, "SIGNAL" or "ERROR".
        exit_code: of its process.
        reason: in words.
    """

    result: str
    exit_code: int
    reason: str


#: the job's name in every simulated run
RUN_ID = "sim"


class Subject(Protocol):
    """One kind of agent."""

    @property
    def name(self) -> str: ...

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        """The main task of one agent, which runs in `process`. It calls `done` and ends the process at its end."""
        ...

    def surroundings(self, world: World, scenario: Scenario) -> AbstractContextManager[None]:
        """What must be in force while the simulation runs; entered and left again and again.

        Raises:
            ConfigurationError: this subject can't run here.
        """
        ...
