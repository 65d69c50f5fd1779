"""What the simulator tests is what production runs: the very class, from the very files, changed by nobody."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("greenlet")

import toolkit
from simulator.report import simulate
from simulator.scenario import Scenario
from simulator.scenarios import named
from simulator.simulation import RallySubject, ScenarioRun
from simulator.workloads import Workload
from toolkit import api, wiring
from toolkit.agent import base, launched
from toolkit.agent.launched import LaunchedAgent

TOOLKIT = Path(toolkit.__file__).parent


class Watching(RallySubject):
    """The subject, with a look at the agents that it makes. It makes them as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.agents: list[LaunchedAgent] = []

    def _make(self, *args: Any) -> LaunchedAgent:
        agent = super()._make(*args)
        self.agents.append(agent)
        return agent


def simulated_agents() -> list[LaunchedAgent]:
    subject = Watching()
    simulation = ScenarioRun(Scenario(solo=True, workload=Workload(steps=3)), subject, seed=1)
    simulation.run()
    simulation.close()
    return subject.agents


def test_its_class_is_that_of_production_and_no_subclass() -> None:
    (agent,) = simulated_agents()
    assert type(agent) is LaunchedAgent
    assert issubclass(wiring.LocalElasticAgent, LaunchedAgent)
    assert wiring.LocalElasticAgent is api.LocalElasticAgent


#: of production's subclass: it fills in the ports, stops a health check server if there is one, and answers a health
#: check itself while it runs if torch's variable asks for that
OF_THE_PROCESS = ("__init__", "_shutdown", "run")


def test_its_hooks_are_those_of_production() -> None:
    (agent,) = simulated_agents()
    for name, _ in inspect.getmembers(LaunchedAgent, inspect.isfunction):
        if name not in OF_THE_PROCESS:
            assert getattr(wiring.LocalElasticAgent, name) is getattr(LaunchedAgent, name), name
        assert name not in vars(agent)


def test_its_code_comes_from_the_files_of_the_toolkit() -> None:
    (agent,) = simulated_agents()
    for kind in type(agent).__mro__:
        if kind in (object,) or kind.__module__ in ("abc", "typing"):
            continue
        assert Path(inspect.getfile(kind)).is_relative_to(TOOLKIT / "agent"), kind
        for name, function in inspect.getmembers(kind, inspect.isfunction):
            file = inspect.getfile(inspect.unwrap(function))
            assert Path(file).is_relative_to(TOOLKIT), f"{kind.__name__}.{name}"


def functions_of(module: ModuleType) -> dict[str, object]:
    """Every name of a module, and every attribute of its own classes."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        found[name] = value
        if inspect.isclass(value) and value.__module__ == module.__name__:
            found.update({f"{name}.{inner}": each for inner, each in vars(value).items()})
    return found


def names_of_the_agent() -> dict[str, dict[str, object]]:
    rooms = ("toolkit.agent", "toolkit.core", "toolkit.ports")
    return {
        name: functions_of(module)
        for name, module in sys.modules.items()
        if name.startswith(rooms) and module
    }


@pytest.mark.parametrize("scenario", ["solo-crash", pytest.param("moved-rank-0", marks=pytest.mark.torch)])
def test_a_run_patches_nothing_in_the_agent_neither_during_nor_after_it(scenario: str) -> None:
    if scenario != "solo-crash":
        pytest.importorskip("torch")
    simulate(named(scenario))  # imports what is imported late
    before = names_of_the_agent()
    during: list[dict[str, dict[str, object]]] = []

    def look(simulation: ScenarioRun) -> None:
        at_ns = 20 * 10**9
        simulation.kernel.call_at(at_ns, "a look", lambda: during.append(names_of_the_agent()))

    simulate(named(scenario), started=look)
    for after in (*during, names_of_the_agent()):
        for module, names in before.items():
            for name, value in names.items():
                if not name.startswith("_abc") and "__" not in name:
                    assert after[module][name] is value, f"{module}.{name}"
    assert during


def test_the_agent_does_not_know_the_simulator() -> None:
    for module in (base, launched):
        assert "import simulator" not in inspect.getsource(module)
        assert "from simulator" not in inspect.getsource(module)
