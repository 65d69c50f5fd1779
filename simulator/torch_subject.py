"""torch in the simulator: its rendezvous handler for our agent, and its own agent as the other subject.

torch's source runs as it is, from `launch_agent` and `create_backend` down; what its modules see of the world is in
`torch_surroundings`. Importing this needs no torch; using it does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from simulator.adapters.clock import NodeClock
from simulator.adapters.interrupts import ProcessInterrupts
from simulator.adapters.launcher import SimLauncher
from simulator.scenario import Scenario
from simulator.subject import RUN_ID, Ended
from simulator.torch_agent import Signals, speaking_agent
from simulator.torch_surroundings import TorchSurroundings, torch_module
from simulator.workloads import Jobs
from simulator.world import Process, World
from toolkit.ports import Ports

#: where the agent of the first node serves the rendezvous store: torch's default port
STORE_PORT = 29400
#: what makes torch give the workers of each round a store of their own, as our wiring does
FRESH_WORKER_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def endpoint(scenario: Scenario) -> str:
    """The rendezvous endpoint of a scenario: its first node."""
    return f"{scenario.node_names[0]}:{STORE_PORT}"


def torch_handler(process: Process, scenario: Scenario, ports: Ports) -> Any:
    """torch's `DynamicRendezvousHandler` over the c10d backend, for our agent in `process`.

    The node that the endpoint names serves the store, when its agent starts; the others try to connect for 60 s
    (`read_timeout`). Workers get a fresh store each round, as in production.

    Raises:
        RendezvousConnectionError (torch's): nobody serves the store.
    """
    guest = TorchSurroundings.now().guest()
    guest.environment[FRESH_WORKER_STORE] = "1"
    if isinstance(ports.interrupts, ProcessInterrupts):
        guest.handle_signals = ports.interrupts.raise_pending
    low, high = scenario.bounds
    parameters = torch_module("rendezvous").RendezvousParameters(
        backend="c10d",
        endpoint=endpoint(scenario),
        run_id=RUN_ID,
        min_nodes=low,
        max_nodes=high,
        **scenario.rdzv_conf,
    )
    return torch_module("rendezvous.registry").get_rendezvous_handler(parameters)


class TorchSubject:
    """torch's agent: `launch_agent` with `LocalElasticAgent`, its rendezvous and its process contexts.

    Its workers live on when the agent is killed, as torchrun's programs do. It takes torchrun's defaults, save what
    the scenario says; it ignores `shutdown_timeout_s` where torch does: after a failure and at a restart.

    Args:
        monitor_interval_s: how often its loop looks at its workers; torchrun's 0.1 s.
        environment: of the agents' processes.
    """

    name = "torch"

    def __init__(self, monitor_interval_s: float = 0.1, environment: Mapping[str, str] | None = None) -> None:
        self._monitor_interval_s = monitor_interval_s
        self._environment = dict(environment or {})

    def surroundings(self, world: World, scenario: Scenario) -> AbstractContextManager[None]:
        """The simulated names for torch's modules."""
        return TorchSurroundings(world)

    def agent(
        self, process: Process, scenario: Scenario, jobs: Jobs, done: Callable[[Ended], None]
    ) -> Callable[[], None]:
        """The main task of one agent."""

        def run() -> None:
            ended = self._run(process, scenario, jobs)
            done(ended)
            process.end(ended.exit_code)

        return run

    def _run(self, process: Process, scenario: Scenario, jobs: Jobs) -> Ended:
        guest = TorchSurroundings.now().guest()
        guest.environment.update(self._environment)
        workload = scenario.plan(process.node.name).workload or scenario.workload
        launcher = SimLauncher(process, NodeClock(process.node), workload, jobs, die_with_agent=False)
        signals, made = Signals(guest), []

        def make_agent(**how: Any) -> Any:
            agent = speaking_agent()(
                guest, launcher, signals, exit_barrier_timeout=scenario.exit_barrier_timeout_s, **how
            )
            made.append(agent)
            return agent

        guest.make_agent = make_agent
        launch = torch_module("launcher.api", "torch.distributed")
        try:
            launch.launch_agent(self._config(process, scenario, launch), "train", [])
        except KeyboardInterrupt:
            return Ended("SIGNAL", 130, "KeyboardInterrupt")
        except Exception as error:  # noqa: BLE001 - the edge of the agent's process
            return _ended(error)
        return Ended(made[0].outcome.state.value, 0, "")

    def _config(self, process: Process, scenario: Scenario, launch: Any) -> Any:
        plan = scenario.plan(process.node.name)
        low, high = scenario.bounds
        return launch.LaunchConfig(
            min_nodes=low,
            max_nodes=high,
            nproc_per_node=plan.local_world_size or scenario.local_world_size,
            logs_specs=_no_logs()(),
            run_id=RUN_ID,
            role=plan.role,
            rdzv_endpoint=endpoint(scenario),
            rdzv_backend="c10d",
            rdzv_configs=dict(scenario.rdzv_conf),
            max_restarts=scenario.max_restarts,
            monitor_interval=self._monitor_interval_s,
            shutdown_timeout=int(scenario.shutdown_timeout_s),
        )


def _ended(error: Exception) -> Ended:
    """How torchrun's process ends: whatever the error, with code 1."""
    kind = type(error).__name__
    if kind == "ChildFailedError":
        return Ended("FAILED", 1, "")
    if kind == "SignalException":
        return Ended("SIGNAL", 1, str(error))
    cause = "" if error.__cause__ is None else f" ({error.__cause__})"
    return Ended("ERROR", 1, f"{kind}: {error}{cause}")


@functools.cache
def _no_logs() -> type[Any]:
    processes = torch_module("multiprocessing.api")

    class NoLogs(processes.LogsSpecs):  # type: ignore[misc, name-defined]
        """Everything to the console, which nobody sees; error files where nothing is."""

        @property
        def root_log_dir(self) -> str:
            return "/logs"

        def reify(self, envs: dict[int, dict[str, str]]) -> Any:
            errors = {}
            for rank, env in envs.items():
                attempt = env["TORCHELASTIC_RESTART_COUNT"]
                errors[rank] = f"/logs/attempt_{attempt}/{rank}/error.json"
                env["TORCHELASTIC_ERROR_FILE"] = errors[rank]
            none = dict.fromkeys(envs, "")
            return processes.LogsDest(none, dict(none), {}, {}, errors)

    return NoLogs
