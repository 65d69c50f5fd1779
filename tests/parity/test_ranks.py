"""Ranks over one store: torch's agents, ours, and both kinds in one group agree on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("torch")

from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore, PrefixStore, TCPStore

from .scripted import ScriptedRendezvous, scripted_agent
from .subjects import Subject, subject_named

pytestmark = pytest.mark.torch

QUICK = settings(max_examples=40, deadline=None, database=None)

#: (role, local_world_size) of each node, in order of group rank
nodes = st.lists(
    st.tuples(st.sampled_from(["trainer", "reader", "é"]), st.integers(1, 4)), min_size=1, max_size=6
)
Ranks = list[tuple[int, int, int, int, int]]


def expected_ranks(group: Sequence[tuple[str, int]]) -> list[Ranks]:
    """By node: (local_rank, global_rank, role_rank, world_size, role_world_size) of each worker, counted one by one."""
    workers = [(node, role, local) for node, (role, size) in enumerate(group) for local in range(size)]
    in_role = Counter(role for _, role, _ in workers)
    seen: Counter[str] = Counter()
    ranks: list[Ranks] = [[] for _ in group]
    for global_rank, (node, role, local) in enumerate(workers):
        ranks[node].append((local, global_rank, seen[role], len(workers), in_role[role]))
        seen[role] += 1
    return ranks


def one_for_all(store: Any) -> Callable[[int], Any]:
    return lambda _: store


def assigned_ranks(
    sides: Sequence[Subject], group: Sequence[tuple[str, int]], store_of: Callable[[int], Any]
) -> list[Ranks]:
    """What the agents, one thread each, assign over one store. `sides` is by node, and so is `store_of`."""

    def one_node(group_rank: int) -> Ranks:
        side, (role, size) = sides[group_rank], group[group_rank]
        spec = side.spec(ScriptedRendezvous(), role=role, local_world_size=size)
        agent = scripted_agent(side.api.SimpleElasticAgent)(spec, side.api, monitor=[])
        workers = agent._assign_worker_ranks(store_of(group_rank), group_rank, len(group), spec)
        return [(w.local_rank, w.global_rank, w.role_rank, w.world_size, w.role_world_size) for w in workers]

    with ThreadPoolExecutor(len(group)) as pool:
        # The last node first: rank 0, which assigns, must wait for the others and they for it.
        return list(reversed(list(pool.map(one_node, reversed(range(len(group)))))))


@QUICK
@given(group=nodes)
@example(group=[("trainer", 1), ("reader", 3), ("trainer", 2)])
def test_ranks_for_mixed_roles_and_sizes(subject: Subject, group: list[tuple[str, int]]) -> None:
    assert assigned_ranks([subject] * len(group), group, one_for_all(HashStore())) == expected_ranks(group)


@QUICK
@given(group=nodes, data=st.data())
def test_a_group_of_both_kinds_agrees(group: list[tuple[str, int]], data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(["torch", "rally"]), min_size=len(group), max_size=len(group)))
    sides = [subject_named(name) for name in names]
    assert assigned_ranks(sides, group, one_for_all(HashStore())) == expected_ranks(group)


@pytest.mark.parametrize("names", [("torch", "rally", "torch"), ("rally", "torch", "rally")])
def test_over_a_tcp_store_as_the_handlers_give_it(names: tuple[str, ...]) -> None:
    group = [("trainer", 2), ("reader", 1), ("trainer", 3)]
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def connection(_: int) -> Any:
        # One each: a connection that waits is locked for everybody else.
        client = TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=20))
        return PrefixStore("round_0", client)

    sides = [subject_named(name) for name in names]
    assert assigned_ranks(sides, group, connection) == expected_ranks(group)


@pytest.mark.parametrize("nodes_of_job", [1, 3])
@pytest.mark.parametrize("size", [1, 4])
def test_identical_nodes_need_no_store(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, nodes_of_job: int, size: int
) -> None:
    monkeypatch.setenv("TORCH_ELASTIC_WORKER_IDENTICAL", "1")
    group = [("trainer", size)] * nodes_of_job
    assert assigned_ranks([subject] * nodes_of_job, group, one_for_all(None)) == expected_ranks(group)


def test_any_other_value_of_the_variable_uses_the_store(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_ELASTIC_WORKER_IDENTICAL", "true")
    group = [("trainer", 2), ("reader", 1)]
    assert assigned_ranks([subject] * 2, group, one_for_all(HashStore())) == expected_ranks(group)
