"""The dry run: environment, arguments and log paths of each worker, and nothing started."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.core.launch_plan import (
    CONSOLE,
    LaunchSettings,
    LogDestinations,
    LogLayout,
    Std,
    parse_std,
    plan_launch,
    std_of,
)
from toolkit.core.model import WorkerGroup, WorkerSpec
from toolkit.core.ranks import RankBase, workers_of


def group(local_world_size: int = 2, **spec: object) -> WorkerGroup:
    made = WorkerGroup(
        WorkerSpec(
            role=str(spec.pop("role", "trainer")),
            local_world_size=local_world_size,
            rdzv_handler=None,
            entrypoint=spec.pop("entrypoint", "train"),  # type: ignore[arg-type]
            **spec,  # type: ignore[arg-type]
        )
    )
    made.workers = workers_of(RankBase(4, 8, 2, 6), local_world_size)
    made.group_rank, made.group_world_size = 1, 3
    made.master_addr, made.master_port = "10.0.0.1", 29501
    return made


SETTINGS = LaunchSettings(run_id="job", restart_count=1, incarnation=3, use_agent_store=False)
LOGS = LogLayout("/logs")


def test_the_environment_is_torchruns() -> None:
    plan = plan_launch(group(), SETTINGS, LOGS, {})
    assert dict(plan.workers[1].env) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "ROLE_RANK": "3",
        "ROLE_NAME": "trainer",
        "GROUP_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "8",
        "GROUP_WORLD_SIZE": "3",
        "ROLE_WORLD_SIZE": "6",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29501",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_RUN_ID": "job",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": "/logs/attempt_3/1/error.json",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def test_what_the_user_set_for_nccl_stays() -> None:
    plan = plan_launch(group(), SETTINGS, LOGS, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"})
    assert plan.workers[0].env["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_macros_are_replaced_in_strings_only() -> None:
    program = plan_launch(group(args=("--rank=${local_rank}", "$HOME", 7)), SETTINGS, LOGS, {})
    assert program.workers[1].args == ("--rank=1", "$HOME", "7")
    function = plan_launch(group(entrypoint=print, args=("${local_rank}", 7, None)), SETTINGS, LOGS, {})
    assert function.workers[0].args == ("0", 7, None)


def test_virtual_local_ranks_see_one_device_each() -> None:
    plan = plan_launch(group(virtual_local_rank=True), SETTINGS, LOGS, {"CUDA_VISIBLE_DEVICES": "3, 5"})
    assert [w.env["CUDA_VISIBLE_DEVICES"] for w in plan.workers] == ["3", "5"]
    assert [w.env["LOCAL_RANK"] for w in plan.workers] == ["0", "0"]
    unrestricted = plan_launch(group(virtual_local_rank=True), SETTINGS, LOGS, {})
    assert [w.env["CUDA_VISIBLE_DEVICES"] for w in unrestricted.workers] == ["0", "1"]


def test_too_few_devices_for_virtual_local_ranks_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES=3 has 1 devices, and local rank 1"):
        plan_launch(group(virtual_local_rank=True), SETTINGS, LOGS, {"CUDA_VISIBLE_DEVICES": "3"})


def test_without_virtual_ranks_the_devices_are_inherited() -> None:
    plan = plan_launch(group(), SETTINGS, LOGS, {"CUDA_VISIBLE_DEVICES": "3,5"})
    assert "CUDA_VISIBLE_DEVICES" not in plan.workers[0].env


def test_prefixes_follow_the_template() -> None:
    assert plan_launch(group(), SETTINGS, LOGS, {}).workers[1].prefix == "[trainer1]:"
    settings = LaunchSettings(
        "job", 0, 0, False, prefix_template="<${role_name}/${rank}/${local_rank}/${other}>"
    )
    assert plan_launch(group(), settings, LOGS, {}).workers[1].prefix == "<trainer/5/1/${other}>"


def test_streams_go_where_they_were_sent() -> None:
    layout = LogLayout("/l", redirects={0: Std.ERR}, tee={1: Std.ALL}, console_ranks=frozenset({0, 2}))
    to = layout.for_incarnation(2, 0, 4)
    assert to.stdouts == {0: CONSOLE, 1: "/l/attempt_2/1/stdout.log", 2: CONSOLE, 3: "/dev/null"}
    assert to.stderrs == {
        0: "/l/attempt_2/0/stderr.log",
        1: "/l/attempt_2/1/stderr.log",
        2: CONSOLE,
        3: "/dev/null",
    }
    assert (to.tee_stdouts, to.tee_stderrs) == ({}, {}), "rank 1 is filtered from the console, its files stay"
    assert to.filtered_stdout == "/l/attempt_2/filtered_stdout.log"


def test_no_incarnation_shares_a_folder_with_another() -> None:
    roots = {LOGS.for_incarnation(n, 0, 1).error_files[0] for n in range(5)}
    assert len(roots) == 5


def test_a_plan_takes_torchs_way_of_placing_logs() -> None:
    class Torchs:
        def reify(self, envs: dict[int, dict[str, str]]) -> LogDestinations:
            for rank, env in envs.items():
                env["TORCHELASTIC_ERROR_FILE"] = f"/t/{rank}.json"
            return LogDestinations({0: "/t/0", 1: ""}, {0: "", 1: ""}, {0: "/t/0"}, {}, {}, "/t/f", "/t/g")

    plan = plan_launch(group(), SETTINGS, Torchs(), {})
    assert (plan.workers[0].stdout, plan.workers[0].tee_stdout) == ("/t/0", True)
    assert (plan.workers[1].stdout, plan.workers[1].tee_stdout) == (CONSOLE, False)
    assert plan.workers[1].error_file == "/t/1.json"
    assert (plan.filtered_stdout, plan.filtered_stderr) == ("/t/f", "/t/g")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", Std.NONE), ("3", Std.ALL), ("0:3,1:2", {0: Std.ALL, 1: Std.ERR}), ("10:1", {10: Std.OUT})],
)
def test_std_is_read_as_torch_reads_it_and_beyond_rank_9(text: str, value: object) -> None:
    assert parse_std(text) == value


@pytest.mark.parametrize("text", ["", "4", "all", "0:4", "0:1,", "a:1", "0:1;1:2", "-1:2"])
def test_anything_else_is_refused_with_the_option_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--tee is {text!r}; give 0"):
        parse_std(text, "--tee")


@given(
    st.dictionaries(st.integers(0, 2000), st.sampled_from([Std.NONE, Std.OUT, Std.ERR, Std.ALL]), min_size=1)
)
def test_any_map_survives_writing_and_reading(setting: dict[int, Std]) -> None:
    text = ",".join(f"{rank}:{int(std)}" for rank, std in setting.items())
    assert parse_std(text) == setting
    assert all(std_of(setting, rank) == setting.get(rank, Std.NONE) for rank in range(20))
