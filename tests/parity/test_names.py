"""Every name of torch's `agent/server/api.py` is in `toolkit.api`, and can be called in the same way."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from .differences import ABSENT_NAMES, ABSENT_PARAMETERS, DIFFERENCES
from .scripted import ScriptedRendezvous, scripted_agent
from .subjects import Subject, subject_named

pytestmark = pytest.mark.torch

TORCH, RALLY = subject_named("torch"), subject_named("rally")

#: "The names of the seed" of the design: what subclasses and callers use
SEED_NAMES = (
    "WorkerSpec",
    "Worker",
    "WorkerState",
    "WorkerGroup",
    "RunResult",
    "ElasticAgent",
    "SimpleElasticAgent",
    "DEFAULT_ROLE",
    "_RoleInstanceInfo",
    "_get_fq_hostname",
    "_TERMINAL_STATE_SYNC_ID",
)
SEED_METHODS = (
    "run",
    "get_worker_group",
    "_start_workers",
    "_stop_workers",
    "_monitor_workers",
    "_shutdown",
    "_rendezvous",
    "_assign_worker_ranks",
    "_initialize_workers",
    "_restart_workers",
    "_invoke_run",
    "_exit_barrier",
    "get_event_failed",
    "get_event_succeeded",
    "record_duration",
    "_construct_event",
    "_record_worker_events",
    "_get_worker_state",
    "_record_metrics",
    "_record_metric_with_condition",
    "_record_flakiness_metric",
)


def names_defined_by(module: Any) -> list[str]:
    """What `module` itself defines: not what it imports, not its dunders."""

    def own(name: str, value: Any) -> bool:
        if name.startswith("__") or inspect.ismodule(value):
            return False
        if inspect.isclass(value) or inspect.isroutine(value):
            return bool(value.__module__ == module.__name__)
        return not getattr(value, "__module__", "").startswith(("typing", "collections"))

    return sorted(name for name, value in vars(module).items() if own(name, value))


def classes_defined_by(module: Any) -> list[str]:
    return [name for name in names_defined_by(module) if inspect.isclass(getattr(module, name))]


def members_of(cls: type) -> list[str]:
    """What the class and its torch bases define and a user could call, read or override."""
    own = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    return sorted({name for base in own for name in vars(base) if not _is_machinery(name)})


def _is_machinery(name: str) -> bool:
    usable = ("__init__", "__post_init__", "__str__", "__repr__")
    return name.startswith(("__", "_abc_")) and name not in usable


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]


def assert_takes_the_same(name: str, theirs: Any, ours: Any) -> None:
    """Ours can be called as theirs is: the same parameters in the same order, and others only by keyword."""
    taken = [p for p in parameters(theirs) if (name, p[0]) not in ABSENT_PARAMETERS]
    offered = parameters(ours)
    assert [p[0] for p in offered[: len(taken)]] == [p[0] for p in taken], name
    for (parameter, default, kind), (_, our_default, our_kind) in zip(taken, offered, strict=False):
        assert plain(our_default) == plain(default), f"{name}({parameter})"
        assert our_kind == kind, f"{name}({parameter})"
    for parameter, default, _ in offered[len(taken) :]:
        assert default is not inspect.Parameter.empty, (
            f"{name}({parameter}) is required, and torch's has no such one"
        )


def plain(value: Any) -> Any:
    """A default, comparable across the two: factories of dataclasses are markers of their own."""
    return "<factory>" if repr(value) == "<factory>" else value


def test_the_seed_names_are_torchs() -> None:
    assert set(SEED_NAMES) <= set(names_defined_by(TORCH.api))
    assert set(SEED_METHODS) <= set(members_of(TORCH.api.SimpleElasticAgent))


@pytest.mark.parametrize("name", [n for n in names_defined_by(TORCH.api) if n not in ABSENT_NAMES])
def test_each_name_that_torchs_module_defines_is_there(name: str) -> None:
    assert hasattr(RALLY.api, name)


def test_names_that_are_absent_on_purpose_are_torchs() -> None:
    assert set(ABSENT_NAMES) <= set(names_defined_by(TORCH.api))
    assert not [name for name in ABSENT_NAMES if hasattr(RALLY.api, name)]


def test_what_torch_exports_is_exported() -> None:
    assert set(TORCH.api.__all__) <= set(RALLY.api.__all__)


def test_constants_have_torchs_values() -> None:
    assert RALLY.api.DEFAULT_ROLE == TORCH.api.DEFAULT_ROLE
    assert RALLY.api._TERMINAL_STATE_SYNC_ID == TORCH.api._TERMINAL_STATE_SYNC_ID
    assert RALLY.api._get_fq_hostname() == TORCH.api._get_fq_hostname()


@pytest.mark.parametrize("name", classes_defined_by(TORCH.api))
def test_each_member_of_each_class_is_there_and_takes_the_same(name: str) -> None:
    theirs, ours = getattr(TORCH.api, name), getattr(RALLY.api, name)
    for member in members_of(theirs):
        assert hasattr(ours, member), f"{name}.{member}"
        if inspect.isroutine(getattr(theirs, member)):
            assert_takes_the_same(f"{name}.{member}", getattr(theirs, member), getattr(ours, member))


@pytest.mark.parametrize("name", ["Worker", "WorkerSpec", "WorkerGroup", "RunResult", "SimpleElasticAgent"])
def test_each_class_is_made_in_the_same_way(name: str) -> None:
    assert_takes_the_same(name, getattr(TORCH.api, name), getattr(RALLY.api, name))


def test_the_local_agent_is_made_in_the_same_way() -> None:
    name = "LocalElasticAgent.__init__"
    assert_takes_the_same(name, TORCH.local_agent.__init__, RALLY.local_agent.__init__)
    absent = {parameter for method, parameter in ABSENT_PARAMETERS if method == name}
    assert absent <= {p[0] for p in parameters(TORCH.local_agent.__init__)}
    assert not absent & {p[0] for p in parameters(RALLY.local_agent.__init__)}


def test_the_local_agents_hooks_take_the_same() -> None:
    for hook in ("_start_workers", "_stop_workers", "_monitor_workers", "_shutdown"):
        assert_takes_the_same(hook, getattr(TORCH.local_agent, hook), getattr(RALLY.local_agent, hook))


def test_the_same_methods_are_abstract() -> None:
    for name in ("ElasticAgent", "SimpleElasticAgent"):
        theirs, ours = getattr(TORCH.api, name), getattr(RALLY.api, name)
        assert ours.__abstractmethods__ == theirs.__abstractmethods__


def test_an_agent_starts_with_the_same_attributes(subject: Subject) -> None:
    agent = scripted_agent(subject.api.SimpleElasticAgent)(
        subject.spec(ScriptedRendezvous(), max_restarts=5), subject.api, monitor=[]
    )
    assert agent._remaining_restarts == 5
    assert agent._store is None
    assert agent._exit_barrier_timeout == 300
    assert agent._shutdown_timeout == 30
    assert agent._total_execution_time == 0
    assert agent._in_exit_barrier is False
    assert agent.get_worker_group() is agent.get_worker_group("any role") is agent._worker_group


def test_no_attribute_of_torchs_agent_is_missing(both: tuple[Subject, Subject]) -> None:
    theirs, ours = (
        scripted_agent(subject.api.SimpleElasticAgent)(
            subject.spec(ScriptedRendezvous()), subject.api, monitor=[]
        )
        for subject in both
    )
    assert set(vars(theirs)) <= set(vars(ours))


def test_each_difference_is_held_against_both() -> None:
    cases = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in DIFFERENCES if f'expects("{name}")' not in cases] == []
