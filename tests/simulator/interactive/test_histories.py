"""Whatever one does to a simulation, what it has come to is a run with these faults at these moments, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("greenlet")

from simulator.faults import ConnectionDrop, CrashNode, Fault, KillAgent, KillWorker, PauseNode, SlowLinks
from simulator.interactive.hosted import HostedRun
from tests.simulator.interactive.jobs import SMALL, straight

#: with a store elsewhere, so that each node may be struck
JOB = replace(SMALL, store_apart=True, rdzv_conf={"last_call_timeout": "5"})

FAULTS = st.sampled_from(
    [
        CrashNode("node1", reboot_after_s=6.0),
        CrashNode("rank0", 1.5),
        KillAgent("node2", restart_after_s=3.0),
        KillWorker("any"),
        KillWorker("node0", 0.75),
        PauseNode("last-joiner", for_s=7.0),
        SlowLinks("node1", latency_s=0.3, for_s=10.0),
        ConnectionDrop("busy"),
    ]
)
SHARE = st.integers(0, 100).map(lambda hundredths: hundredths / 100)
MOVE = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("run"), st.floats(0.0, 25.0)),
    st.tuples(st.just("count"), st.integers(1, 12)),
    st.tuples(st.just("inject"), FAULTS),
    st.tuples(st.just("rewind"), SHARE),
    st.tuples(st.just("branch"), st.booleans()),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("end"), st.none()),
)


def do(run: HostedRun, what: str, how: object) -> None:
    match what, how:
        case "step", int(count):
            run.step(count)
        case "run", float(for_s):
            run.run(until=run.now_s + for_s)
        case "count", int(count):
            wanted = len(run.events) + count
            run.run(lambda timeline: sum(node.events_seen for node in timeline.nodes.values()) >= wanted)
        case "inject", Fault() as fault if not run.over or run.finding:
            run.inject(fault)
        case "rewind", float(share):
            run.rewind(run.now_s * share)
        case "checkpoint", _:
            run._history.keep_checkpoint()
        case "end", _:
            run.run()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVE, min_size=1, max_size=14), st.integers(0, 3))
def test_any_history_is_a_run_with_its_faults(moves: list[tuple[str, object]], seed: int) -> None:
    here = HostedRun(JOB, seed)
    keeper = here._history.talk._keeper
    others: list[HostedRun] = []
    try:
        for what, how in moves:
            if what == "branch":
                others.append(here.branch())
                if how:
                    here, others[-1] = others[-1], here
            else:
                do(here, what, how)
        for run in (here, *others):
            run.run()
            told = straight(JOB, seed, injected=run._history.injected)
            assert list(run.events) == told.events
            assert (run.digest, run.steps, run.now_s) == (told.digest, told.steps, told.virtual_s)
            assert run.report().struck[: len(told.struck)] == tuple(told.struck)
    finally:
        keeper.end()
        for run in (here, *others):
            run.close()
