"""The arithmetic of big runs against published figures, against itself, and against the simulator."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("greenlet")

from simulator import Scenario, Workload, planning, sweep
from toolkit.core.errors import ConfigurationError

HOUR_S, DAY_S = planning.HOUR_S, planning.DAY_S


def test_what_meta_projects_is_what_the_formula_gives() -> None:
    projected = [figure for figure in planning.published() if figure.kind == "projected"]
    assert len(projected) == 2
    for figure in projected:
        assert figure.ours == pytest.approx(figure.value, rel=0.03), figure.what


def test_what_meta_measured_is_not() -> None:
    measured = {figure.value: figure.ours for figure in planning.published() if "measured" in figure.kind}
    assert measured[7.9] == pytest.approx(28.8, abs=0.1)
    assert measured[47.7 * 24] == pytest.approx(153.8 * 24, rel=0.01)


def test_llama_3_fails_each_three_hours() -> None:
    assert planning.LLAMA_3.mttf_s / HOUR_S == pytest.approx(3.1, abs=0.05)
    assert planning.LLAMA_3.per_node_day * 1000 == pytest.approx(3.79, abs=0.01)
    assert planning.mttf_s(16_384, planning.LLAMA_3.per_node_day) == pytest.approx(planning.LLAMA_3.mttf_s)
    interruptions = {figure.value for figure in planning.published()}
    assert {466, 419, 0.90} <= interruptions


def test_ninety_per_cent_is_within_reach_at_that_rate() -> None:
    mttf = planning.LLAMA_3.mttf_s
    interval_s = planning.best_interval_s(mttf, 30)
    assert interval_s == pytest.approx(817, abs=1)
    assert planning.expected_ettr(mttf, interval_s, 30, 300) > 0.90
    assert planning.restart_budget_s(0.90, mttf, interval_s, 30) == pytest.approx(345, abs=1)


def test_a_second_of_restart_of_that_run() -> None:
    run = planning.LLAMA_3
    worth = planning.worth_of_restart_second(run.gpus, run.days * DAY_S, run.mttf_s)
    assert worth == pytest.approx(419 * 16_384 / 3600)
    # The formula of the ratio says the same, to first order.
    base = (run.mttf_s, 800.0, 30.0)
    lost = planning.expected_ettr(*base, 300) - planning.expected_ettr(*base, 301)
    assert lost * run.gpus * run.days * 24 == pytest.approx(worth, rel=0.15)


times = st.floats(1.0, 1e6)


@given(mttf=times, interval_s=times, checkpoint_s=st.floats(0, 1e4), restart_s=st.floats(0, 1e4))
def test_the_ratio_is_one_and_gets_worse_with_all_that_costs(
    mttf: float, interval_s: float, checkpoint_s: float, restart_s: float
) -> None:
    ratio = planning.expected_ettr(mttf, interval_s, checkpoint_s, restart_s)
    assert 0 <= ratio <= 1
    assert planning.expected_ettr(mttf, interval_s, checkpoint_s + 1, restart_s) <= ratio
    assert planning.expected_ettr(mttf, interval_s, checkpoint_s, restart_s + 1) <= ratio
    assert planning.expected_ettr(2 * mttf, interval_s, checkpoint_s, restart_s) >= ratio * (1 - 1e-9)


@given(st.floats(3600, 1e7), st.floats(1, 60))
def test_the_best_interval_is_best(mttf: float, checkpoint_s: float) -> None:
    best_s = planning.best_interval_s(mttf, checkpoint_s, order="daly")
    at_best = planning.expected_ettr(mttf, best_s, checkpoint_s)
    for other in (0.5, 0.8, 1.25, 2.0):
        assert planning.expected_ettr(mttf, best_s * other, checkpoint_s) < at_best
    young = planning.expected_ettr(mttf, planning.best_interval_s(mttf, checkpoint_s), checkpoint_s)
    assert young == pytest.approx(at_best, rel=1e-3)


def test_the_budget_is_the_ratio_solved_for_the_restart() -> None:
    for restart_s in (0.0, 10.0, 600.0):
        ratio = planning.expected_ettr(10_000, 500, 20, restart_s)
        assert planning.restart_budget_s(ratio, 10_000, 500, 20) == pytest.approx(restart_s, abs=1e-6)
    assert planning.restart_budget_s(0.99, 1_000, 500, 20) < 0


def test_small_losses_add_up() -> None:
    ratio = planning.expected_ettr(100_000, 1_000, 10, 200)
    assert ratio == pytest.approx(1 - 10 / 1_000 - (500 + 200) / 100_000, abs=2e-4)


def test_a_restart_is_the_sum_of_its_parts() -> None:
    assert planning.Restart(detect_s=4, stop_s=0.1, rendezvous_s=1, start_s=30, load_s=60).total_s == 95.1


def test_availability_is_binomial() -> None:
    assert planning.availability(1, 0, 900, 100) == pytest.approx(0.9)
    assert planning.availability(2, 0, 900, 100) == pytest.approx(0.81)
    assert planning.availability(2, 1, 900, 100) == pytest.approx(0.9**3 + 3 * 0.9**2 * 0.1)
    assert planning.availability(4, 0, 900, 0) == 1
    # Many nodes, each seldom down: Poisson.
    down = 2048 * 3600 / 2.3e7
    poisson = math.exp(-down) * sum(down**k / math.factorial(k) for k in range(3))
    assert planning.availability(2048, 2, 2.3e7, 3600) == pytest.approx(poisson, rel=0.002)


def test_spares_pay_until_they_do_not() -> None:
    run = planning.LLAMA_3
    worth = planning.worth_of_spares(
        *(2048, 30, planning.mtbf_of_node_s(run.per_node_day), DAY_S, run.days * DAY_S),
        interval_s=800,
        checkpoint_s=30,
        restart_s=300,
    )
    count = planning.spares_that_pay(worth)
    assert 15 <= count <= 20
    assert worth[count - 1].pays and not worth[count].pays
    assert all(after.ettr >= before.ettr for before, after in pairwise(worth))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: planning.mttf_s(0, 0.1),
        lambda: planning.mttf_s(8, -1),
        lambda: planning.best_interval_s(100, 0),
        lambda: planning.expected_ettr(100, math.nan),
        lambda: planning.expected_ettr(100, 10, restart_s=-1),
        lambda: planning.availability(4, -1, 100, 10),
        lambda: planning.restart_budget_s(1.5, 100, 10),
    ],
)
def test_what_can_not_be_is_said(ask: object) -> None:
    with pytest.raises(ConfigurationError, match=r"; give"):
        ask()  # type: ignore[operator]


# -- against the simulator ------------------------------------------------------------------------------------

#: two hours of training: 5 s a step, a checkpoint of 5 s each 180 s, 30 s from a start to the first step
_TRAINED_S, _INTERVAL_S, _CHECKPOINT_S, _START_S = 7200.0, 180.0, 5.0, 30.0
RUN = Scenario(
    name="planned",
    nodes=4,
    store_apart=True,
    workload=Workload(
        steps=1440, step_s=5, checkpoint_every=36, checkpoint_s=_CHECKPOINT_S, start_s=_START_S
    ),
    max_restarts=10_000,
    # Fewer beats make fewer steps of the kernel.
    rdzv_conf={"beat": "5", "lease": "20"},
    limit_s=80_000,
)


def with_first_start(ettr: float) -> float:
    """The formula is of a job that goes on for ever; a simulated one is started, which takes time once."""
    return _TRAINED_S / (_START_S + _TRAINED_S / ettr)


@pytest.mark.slow
def test_the_formula_foretells_runs_with_failing_workers() -> None:
    result = sweep(RUN, {"mtbf_s": [2400, 4800, 14_400], "mtbf_hits": "worker"}, seeds=10, progress=False)
    assert set(result["result"]) == {"SUCCEEDED"} and set(result["verdict"]) == {"held"}
    for group in result.mean("mtbf_s", "ettr"):
        foretold = with_first_start(
            # A worker that ends is noticed at once: a restart is the start of the next ones.
            planning.expected_ettr(
                group.params["mtbf_s"] / RUN.nodes, _INTERVAL_S, _CHECKPOINT_S, _START_S + 1
            )
        )
        simulated = group.estimates["ettr"]
        assert simulated.low <= foretold <= simulated.high or simulated.mean == pytest.approx(
            foretold, rel=0.05
        )


@pytest.mark.slow
def test_the_formula_foretells_what_spares_are_worth() -> None:
    mtbf_s, repair_s, needed = 14_400, 600.0, 4
    for spares in (0, 1, 2):
        result = sweep(
            RUN,
            {
                "nodes": needed + spares,
                "min_nodes": needed,
                "max_nodes": needed,
                "mtbf_s": mtbf_s,
                "repair_s": repair_s,
            },
            seeds=10,
            progress=False,
        )
        # A lost node is noticed at the end of its lease, at the latest.
        foretold = with_first_start(
            planning.ettr_with_spares(
                *(needed, spares, mtbf_s, repair_s),
                interval_s=_INTERVAL_S,
                checkpoint_s=_CHECKPOINT_S,
                restart_s=20 + _START_S,
            )
        )
        simulated = result.summary()[0].estimates["ettr"]
        assert simulated.low <= foretold <= simulated.high or simulated.mean == pytest.approx(
            foretold, rel=0.05
        )
