"""WorkerSpec, Worker, WorkerState, WorkerGroup, RunResult and the wire form of _RoleInstanceInfo."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from .scripted import ScriptedRendezvous
from .subjects import Subject, subject_named

pytestmark = pytest.mark.torch

TORCH, RALLY = subject_named("torch").api, subject_named("rally").api

QUICK = settings(max_examples=60, deadline=None, database=None)

roles = st.text(max_size=8)
node_infos = st.tuples(roles, st.integers(0, 10_000), st.integers(1, 64))


def trainer() -> None:
    """An entrypoint."""


class Trainer:
    """Has a method that can be an entrypoint."""

    def train(self) -> None: ...


def test_a_spec_has_the_same_fields_and_defaults() -> None:
    handler = ScriptedRendezvous()
    theirs, ours = (api.WorkerSpec("trainer", 2, handler, entrypoint="a") for api in (TORCH, RALLY))
    for field in dataclasses.fields(theirs):
        assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    assert ours.restart_policy is None


@pytest.mark.parametrize("size", [0, -1])
def test_a_spec_without_workers_is_an_assertion_error(subject: Subject, size: int) -> None:
    with pytest.raises(AssertionError):
        subject.spec(ScriptedRendezvous(), local_world_size=size)


@pytest.mark.parametrize("interval", [0, -0.5])
def test_a_spec_that_never_monitors_is_an_assertion_error(subject: Subject, interval: float) -> None:
    with pytest.raises(AssertionError):
        subject.spec(ScriptedRendezvous(), monitor_interval=interval)


@pytest.mark.parametrize("entrypoint", [None, ""])
def test_a_spec_without_entrypoint_is_an_assertion_error(subject: Subject, entrypoint: str | None) -> None:
    with pytest.raises(AssertionError):
        subject.spec(ScriptedRendezvous(), entrypoint=entrypoint)


def test_fn_is_deprecated_and_becomes_the_entrypoint(subject: Subject) -> None:
    with pytest.warns(DeprecationWarning, match="entrypoint") as warned:
        spec = subject.api.WorkerSpec("r", 1, ScriptedRendezvous(), fn=trainer, entrypoint="other")
    assert spec.entrypoint is trainer
    assert len(warned) == 1


def test_our_deprecation_points_at_the_callers_line() -> None:
    with pytest.warns(DeprecationWarning) as warned:
        RALLY.WorkerSpec("r", 1, ScriptedRendezvous(), fn=trainer)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("entrypoint", "name"),
    [
        ("train.py", "train.py"),
        ("/opt/jobs/train", "train"),
        ("./bin/python3.11", "python3.11"),
        (trainer, "trainer"),
        (Trainer.train, "Trainer.train"),
        (Trainer().train, "Trainer.train"),
    ],
)
def test_the_entrypoint_has_a_name(subject: Subject, entrypoint: Any, name: str) -> None:
    assert subject.spec(ScriptedRendezvous(), entrypoint=entrypoint).get_entrypoint_name() == name


def test_a_worker_prints_its_ranks(subject: Subject) -> None:
    worker = subject.api.Worker(1, global_rank=5, role_rank=3, world_size=8, role_world_size=4)
    text = "local_rank=1,global_rank=5,role_rank=3,world_size=8,role_world_size=4"
    assert str(worker) == repr(worker) == text
    assert worker.id is None


def test_a_worker_without_ranks_has_minus_one(subject: Subject) -> None:
    assert (
        str(subject.api.Worker(0))
        == "local_rank=0,global_rank=-1,role_rank=-1,world_size=-1,role_world_size=-1"
    )


def test_workers_and_groups_take_no_other_attributes(subject: Subject) -> None:
    group = subject.api.WorkerGroup(subject.spec(ScriptedRendezvous()))
    for value in (group, group.workers[0]):
        with pytest.raises(AttributeError):
            value.color = "blue"


def test_states_have_the_same_names_values_and_order() -> None:
    assert [(s.name, s.value) for s in RALLY.WorkerState] == [(s.name, s.value) for s in TORCH.WorkerState]


@pytest.mark.parametrize("name", [state.name for state in TORCH.WorkerState])
def test_a_state_is_a_string_that_compares_and_formats_as_torchs(name: str) -> None:
    theirs, ours = TORCH.WorkerState[name], RALLY.WorkerState[name]
    assert ours == theirs == name
    assert hash(ours) == hash(theirs)
    assert (str(ours), f"{ours}", repr(ours)) == (str(theirs), f"{theirs}", repr(theirs))
    assert RALLY.WorkerState.is_running(ours) == TORCH.WorkerState.is_running(theirs)
    assert RALLY.WorkerState.is_running(theirs) == TORCH.WorkerState.is_running(ours)


def test_a_new_group_has_workers_and_nothing_else(subject: Subject) -> None:
    spec = subject.spec(ScriptedRendezvous(), local_world_size=3)
    group = subject.api.WorkerGroup(spec)
    assert group.spec is spec
    assert [worker.local_rank for worker in group.workers] == [0, 1, 2]
    assert group.state == "INIT"
    assert (group.store, group.group_rank, group.group_world_size) == (None, None, None)
    assert (group.master_addr, group.master_port) == (None, None)


@pytest.mark.parametrize("name", [state.name for state in TORCH.WorkerState])
def test_a_result_has_failed_in_state_failed_only(subject: Subject, name: str) -> None:
    result = subject.api.RunResult(state=subject.api.WorkerState[name])
    assert result.is_failed() == (name == "FAILED")
    assert (result.return_values, result.failures) == ({}, {})


@QUICK
@given(node_infos)
def test_a_nodes_card_is_the_same_bytes_and_each_reads_the_others(card: tuple[str, int, int]) -> None:
    theirs, ours = TORCH._RoleInstanceInfo(*card), RALLY._RoleInstanceInfo(*card)
    assert ours.serialize() == theirs.serialize()
    for api, data in ((TORCH, ours.serialize()), (RALLY, theirs.serialize())):
        read = api._RoleInstanceInfo.deserialize(data)
        assert (read.role, read.rank, read.local_world_size) == card


@QUICK
@given(st.lists(node_infos, max_size=12))
def test_cards_sort_alike(cards: list[tuple[str, int, int]]) -> None:
    by_side = []
    for api in (TORCH, RALLY):
        infos = [api._RoleInstanceInfo(*card) for card in cards]
        in_order = sorted(infos, key=functools.cmp_to_key(api._RoleInstanceInfo.compare))
        by_side.append([(info.role, info.rank, info.local_world_size) for info in in_order])
    assert by_side[0] == by_side[1]


@QUICK
@given(node_infos, node_infos)
def test_compare_returns_the_same_number(one: tuple[str, int, int], other: tuple[str, int, int]) -> None:
    theirs, ours = (
        api._RoleInstanceInfo.compare(api._RoleInstanceInfo(*one), api._RoleInstanceInfo(*other))
        for api in (TORCH, RALLY)
    )
    assert ours == theirs


@QUICK
@given(st.lists(st.sampled_from("abc"), max_size=10), st.sampled_from("abcd"))
def test_role_boundaries_are_the_same(named: list[str], role: str) -> None:
    # Also for lists that are not sorted: first and last index.
    theirs, ours = (
        api._RoleInstanceInfo.find_role_boundaries([api._RoleInstanceInfo(r, 0, 1) for r in named], role)
        for api in (TORCH, RALLY)
    )
    assert ours == theirs
