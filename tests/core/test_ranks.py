"""Ranks are 0..n-1 with one holder each, globally and within each role."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.model import _RoleInstanceInfo
from toolkit.core.ranks import RankBase, identical_nodes, rank_bases, workers_of


def nodes(*roles_and_sizes: tuple[str, int]) -> list[_RoleInstanceInfo]:
    return [_RoleInstanceInfo(role, rank, size) for rank, (role, size) in enumerate(roles_and_sizes)]


def test_ranks_run_on_over_the_nodes_and_within_each_role() -> None:
    assert rank_bases(nodes(("ps", 1), ("trainer", 4), ("ps", 2), ("trainer", 2))) == [
        RankBase(0, 9, 0, 3),
        RankBase(1, 9, 0, 6),
        RankBase(5, 9, 1, 3),
        RankBase(7, 9, 4, 6),
    ]


def test_nobody_there_needs_no_ranks() -> None:
    assert rank_bases([]) == []


def test_alike_nodes_need_no_exchange() -> None:
    assert identical_nodes(2, 3, 4) == RankBase(8, 12, 8, 12)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 8)), min_size=1, max_size=20))
def test_every_rank_has_exactly_one_holder(shape: list[tuple[str, int]]) -> None:
    infos = nodes(*shape)
    workers = [
        (info.role, worker)
        for info, base in zip(infos, rank_bases(infos), strict=True)
        for worker in workers_of(base, info.local_world_size)
    ]
    assert [worker.global_rank for _, worker in workers] == list(range(len(workers)))
    assert {worker.world_size for _, worker in workers} == {len(workers)}
    for role in {role for role, _ in shape}:
        of_role = [worker for its, worker in workers if its == role]
        assert [worker.role_rank for worker in of_role] == list(range(len(of_role)))
        assert {worker.role_world_size for worker in of_role} == {len(of_role)}


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_fast_path_agrees_with_the_exchange(group_world_size: int, local_world_size: int) -> None:
    bases = rank_bases(nodes(*[("r", local_world_size)] * group_world_size))
    assert bases == [identical_nodes(i, group_world_size, local_world_size) for i in range(group_world_size)]
