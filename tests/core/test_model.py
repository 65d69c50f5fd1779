"""The nouns: what torch's users expect of them."""

from __future__ import annotations

import pytest

from toolkit.core.errors import ConfigurationError
from toolkit.core.model import (
    NOT_AVAILABLE,
    ProcessFailure,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
    _RoleInstanceInfo,
)


def spec(**changes: object) -> WorkerSpec:
    return WorkerSpec(
        **{"role": "r", "local_world_size": 2, "rdzv_handler": None, "entrypoint": "/bin/x", **changes}
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"local_world_size": 0}, "local_world_size is 0"),
        ({"monitor_interval": 0}, "monitor_interval is 0"),
        ({"entrypoint": None}, "entrypoint is missing"),
    ],
)
def test_a_spec_that_cannot_be_names_the_value(changes: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        spec(**changes)
    assert isinstance(caught.value, AssertionError), "what torch raises"


def test_the_old_name_of_the_entrypoint_still_works() -> None:
    with pytest.warns(DeprecationWarning, match="entrypoint"):
        assert spec(entrypoint=None, fn=print).entrypoint is print


def test_entrypoints_have_names() -> None:
    assert spec().get_entrypoint_name() == "x"
    assert spec(entrypoint=Worker.__init__).get_entrypoint_name() == "Worker.__init__"


def test_a_job_is_called_by_its_script() -> None:
    assert (
        spec(entrypoint="/usr/bin/python3", args=("-u", "/job/train.py", "--lr", "1")).get_script_name()
        == "train.py"
    )
    assert (
        spec(entrypoint="/usr/bin/python3", args=("-u", "-m", "pkg.train")).get_script_name() == "pkg.train"
    )
    assert spec(entrypoint="/usr/bin/python3").get_script_name() == "python3"
    assert spec(entrypoint="./train.sh", args=("x",)).get_script_name() == "train.sh"
    assert spec(entrypoint=print, args=("x",)).get_script_name() == "print"


def test_a_new_group_has_unranked_workers() -> None:
    group = WorkerGroup(spec())
    assert [(w.local_rank, w.global_rank, w.world_size) for w in group.workers] == [(0, -1, -1), (1, -1, -1)]
    assert group.state == WorkerState.INIT
    assert (
        str(group.workers[1]) == "local_rank=1,global_rank=-1,role_rank=-1,world_size=-1,role_world_size=-1"
    )


def test_running_means_healthy_or_not() -> None:
    running = {state for state in WorkerState if WorkerState.is_running(state)}
    assert running == {WorkerState.HEALTHY, WorkerState.UNHEALTHY}


def test_role_infos_travel_and_sort() -> None:
    infos = [_RoleInstanceInfo(role, rank, 1) for role, rank in (("b", 1), ("a", 2), ("b", 0))]
    there_and_back = [_RoleInstanceInfo.deserialize(info.serialize()) for info in infos]
    assert [(i.role, i.rank, i.local_world_size) for i in there_and_back] == [
        ("b", 1, 1),
        ("a", 2, 1),
        ("b", 0, 1),
    ]
    assert _RoleInstanceInfo.compare(infos[0], infos[1]) > 0 > _RoleInstanceInfo.compare(infos[1], infos[0])
    assert _RoleInstanceInfo.compare(infos[0], infos[2]) > 0
    assert _RoleInstanceInfo.find_role_boundaries([infos[1], infos[2], infos[0]], "b") == (1, 2)
    assert _RoleInstanceInfo.find_role_boundaries(infos, "c") == (-1, -1)


def test_a_failure_names_its_signal_if_it_has_one() -> None:
    assert ProcessFailure(0, 1, -9).signal_name() == "SIGKILL"
    assert ProcessFailure(0, 1, 3).signal_name() == NOT_AVAILABLE
    assert ProcessFailure(0, 1, -77).signal_name() == NOT_AVAILABLE
