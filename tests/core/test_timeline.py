"""The timeline: what a run's events fold into, in any portions, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.test_events import sample
from toolkit.core import events as ev
from toolkit.core import timeline as tl
from toolkit.core.job_report import FailureRecord

MS = 1_000_000


class Script:
    """Says events as one agent does: numbered, each `at_ms` of its own monotonic clock."""

    def __init__(self, node: str = "a", mono_offset_ms: int = 0, wall_offset_ms: int = 0) -> None:
        self.events: list[ev.Event] = []
        self._node = node
        self._mono_offset_ms, self._wall_offset_ms = mono_offset_ms, wall_offset_ms
        self.round = self.epoch = self.restart_count = self.seq = 0

    def say(self, at_ms: int, kind: type[ev.Event], **fields: Any) -> None:
        self.seq += 1
        self.events.append(
            kind(
                run_id="job",
                node=self._node,
                seq=self.seq,
                mono_ns=(at_ms + self._mono_offset_ms) * MS,
                wall_ns=(at_ms + self._wall_offset_ms) * MS,
                round=self.round,
                epoch=self.epoch,
                restart_count=self.restart_count,
                **fields,
            )
        )

    def start_agent(self, at_ms: int, *, pid: int = 10, workers: int = 2, restarts_max: int = 3) -> None:
        self.say(
            at_ms,
            ev.AgentStarted,
            pid=pid,
            hostname=f"host-{self._node}",
            role="trainer",
            local_world_size=workers,
            restarts_max=restarts_max,
            backend="solo",
            entrypoint="train.py",
        )

    def rendezvous(self, from_ms: int, to_ms: int, *, workers: int = 2, nodes: int = 1) -> None:
        self.say(from_ms, ev.RendezvousStarted, backend="solo")
        self.round += 1
        self.say(
            to_ms,
            ev.RendezvousCompleted,
            group_rank=0,
            group_world_size=nodes,
            world_size=workers * nodes,
            role_world_size=workers * nodes,
            master_addr="127.0.0.1",
            master_port=29500,
            global_ranks=list(range(workers)),
        )

    def start_workers(self, from_ms: int, to_ms: int, *, incarnation: int = 0, workers: int = 2) -> None:
        self.say(from_ms, ev.WorkersStarting, incarnation=incarnation, count=workers)
        for rank in range(workers):
            self.say(
                to_ms,
                ev.WorkerStarted,
                incarnation=incarnation,
                local_rank=rank,
                global_rank=rank,
                role_rank=rank,
                world_size=workers,
                worker_id=str(rank),
                pid=100 * (incarnation + 1) + rank,
            )
        self.say(to_ms, ev.WorkersStarted, incarnation=incarnation)

    def exit(self, at_ms: int, rank: int, *, incarnation: int = 0, **fields: Any) -> None:
        how = {"exit_code": 0, "pid": 100 * (incarnation + 1) + rank} | fields
        self.say(at_ms, ev.WorkerExited, incarnation=incarnation, local_rank=rank, global_rank=rank, **how)

    def fail(self, at_ms: int, rank: int, *, incarnation: int = 0, first: bool = True) -> None:
        self.exit(at_ms, rank, incarnation=incarnation, exit_code=None, signal="SIGKILL")
        self.say(
            at_ms,
            ev.FailureRecorded,
            incarnation=incarnation,
            local_rank=rank,
            global_rank=rank,
            pid=100 * (incarnation + 1) + rank,
            hostname="host",
            exit_code=None,
            signal="SIGKILL",
            message="killed",
            first=first,
        )

    def finish(self, at_ms: int, result: str = "SUCCEEDED", reason: str = "all workers succeeded") -> None:
        self.say(at_ms, ev.AgentFinished, result=result, reason=reason, duration_s=at_ms / 1e3)


def restarted_job(script: Script) -> Script:
    """Two workers; rank 1 is killed, the group is started again, and both succeed."""
    script.start_agent(0)
    script.rendezvous(10, 30)
    script.start_workers(40, 50)
    script.say(51, ev.GroupStateChanged, before="INIT", after="HEALTHY")
    script.fail(1_000, 1)
    script.say(1_001, ev.GroupStateChanged, before="HEALTHY", after="FAILED")
    script.restart_count = 1
    script.say(
        1_010, ev.DecisionMade, action="restart", reason="rank 1 died", spends_budget=True, restarts_left=2
    )
    script.say(1_011, ev.WorkersStopping, signal="SIGTERM", grace_s=30, local_ranks=[0])
    script.exit(1_100, 0, exit_code=None, signal="SIGTERM", stopped_by_agent=True)
    script.say(1_110, ev.WorkersStopped)
    script.say(1_110, ev.GroupStateChanged, before="FAILED", after="STOPPED")
    script.rendezvous(1_120, 1_320)
    script.start_workers(1_330, 1_370, incarnation=1)
    script.say(1_371, ev.GroupStateChanged, before="STOPPED", after="HEALTHY")
    for rank in range(2):
        script.exit(2_000, rank, incarnation=1)
    script.say(2_001, ev.DecisionMade, action="finish", reason="all local workers succeeded", restarts_left=2)
    script.say(2_002, ev.BarrierEntered, members=1, timeout_s=300)
    script.say(2_003, ev.BarrierLeft, outcome="complete", waited_s=0.001)
    script.finish(2_004)
    return script


def test_an_empty_recording_tells_nothing() -> None:
    timeline = tl.fold_all([])
    assert timeline.state == "unknown"
    assert timeline.result == timeline.reason == ""
    assert timeline.started is timeline.ended is timeline.duration_s is None


def test_a_restart_is_split_into_its_phases() -> None:
    (restart,) = tl.fold_all(restarted_job(Script()).events).restarts
    assert restart.detect_s == pytest.approx(0.010)
    assert restart.stop_s == pytest.approx(0.100)
    assert restart.wait_s == pytest.approx(0.010)
    assert restart.rendezvous_s == pytest.approx(0.200)
    assert restart.start_s == pytest.approx(0.040)
    assert restart.total_s == pytest.approx(0.370)
    assert (restart.spends_budget, restart.incarnation, restart.reason) == (True, 0, "rank 1 died")


def test_the_job_is_told() -> None:
    timeline = tl.fold_all(restarted_job(Script()).events)
    assert (timeline.run_id, timeline.state, timeline.result) == ("job", "succeeded", "SUCCEEDED")
    assert timeline.reason == "all workers succeeded"
    assert (timeline.rounds, timeline.restarts_used, timeline.restarts_max) == (2, 1, 3)
    assert timeline.time_lost_s == pytest.approx(0.370)
    assert timeline.duration_s == pytest.approx(2.004)
    node = timeline.nodes["a"]
    assert (node.host, node.pid, node.state, node.entrypoint) == ("host-a", 10, "finished", "train.py")
    assert node.barrier is not None
    assert node.barrier.outcome == "complete"
    assert [r.took_s for r in node.rounds] == [pytest.approx(0.020), pytest.approx(0.200)]


def test_each_rank_keeps_its_incarnations() -> None:
    node = tl.fold_all(restarted_job(Script()).events).nodes["a"]
    killed, stopped = node.ranks[1], node.ranks[0]
    assert [(i.number, i.state, i.pid) for i in (*killed.past, killed.now)] == [
        (0, "failed", 101),
        (1, "succeeded", 201),
    ]
    assert (stopped.past[0].state, stopped.past[0].signal) == ("stopped", "SIGTERM")


def test_the_worker_that_the_agent_stopped_is_no_failure() -> None:
    failures = list(tl.fold_all(restarted_job(Script()).events).failures.values())
    assert [(f.global_rank, f.first, f.message) for f in failures] == [(1, True, "killed")]


@pytest.mark.parametrize("upto", range(1, 29))
def test_the_state_while_it_runs_is_never_an_end(upto: int) -> None:
    timeline = tl.fold_all(restarted_job(Script()).events[:upto])
    assert timeline.result == ""
    assert timeline.state in {"starting", "rendezvous", "running", "restarting", "ending"}


def test_states_follow_the_job() -> None:
    states: list[str] = []
    timeline = tl.Timeline()
    for event in restarted_job(Script()).events:
        timeline = tl.fold(timeline, event)
        if states[-1:] != [timeline.state]:
            states.append(timeline.state)
    assert states == [
        "starting",
        "rendezvous",
        "starting",
        "running",
        "restarting",
        "running",
        "ending",
        "succeeded",
    ]


def test_a_failure_that_was_not_told_is_inferred_from_the_exit() -> None:
    script = Script()
    script.start_agent(0)
    script.start_workers(1, 2)
    script.exit(5, 0, exit_code=3)
    (failure,) = tl.fold_all(script.events).failures.values()
    assert (failure.exit_code, failure.told, failure.first, failure.at.mono_ns) == (3, False, True, 5 * MS)


def test_the_agent_knows_better_which_failure_was_first() -> None:
    script = Script()
    script.start_agent(0)
    script.start_workers(1, 2)
    script.exit(5, 0, exit_code=1)
    script.fail(6, 1, first=True)
    failures = tl.fold_all(script.events).failures.values()
    assert [(f.global_rank, f.first) for f in failures] == [(0, False), (1, True)]


def test_a_change_of_membership_is_told_apart() -> None:
    script = Script()
    script.start_agent(0)
    script.rendezvous(1, 2)
    script.start_workers(3, 4)
    script.say(100, ev.MembershipChanged, nodes_waiting=1)
    script.say(105, ev.DecisionMade, action="restart", reason="1 node waits", restarts_left=3)
    script.say(200, ev.WorkersStopped)
    script.rendezvous(200, 250)
    script.start_workers(250, 305, incarnation=1)
    timeline = tl.fold_all(script.events)
    (restart,) = timeline.restarts
    assert not restart.spends_budget
    assert restart.detect_s == pytest.approx(0.005)
    # The workers ran until the decision; before that nothing was lost.
    assert restart.total_s == pytest.approx(0.200)
    assert timeline.restarts_used == 0
    assert timeline.nodes["a"].nodes_waiting == 0


def test_a_restart_that_never_ends_has_the_phases_that_there_were() -> None:
    script = Script()
    script.start_agent(0)
    script.start_workers(3, 4)
    script.fail(10, 0)
    script.say(11, ev.DecisionMade, action="restart", reason="r", spends_budget=True)
    script.say(20, ev.WorkersStopped, unkillable=[1])
    script.say(21, ev.RendezvousStarted, backend="c10d")
    script.say(30, ev.RendezvousFailed, error="no quorum")
    script.finish(31, "ERROR", "RendezvousTimeoutError: no quorum")
    timeline = tl.fold_all(script.events)
    (restart,) = timeline.restarts
    assert restart.stop_s == pytest.approx(0.009)
    assert restart.rendezvous_s is restart.start_s is restart.total_s is None
    assert timeline.state == "error"
    assert timeline.nodes["a"].rounds[-1].error == "no quorum"
    assert timeline.nodes["a"].ranks[1].now.state == "unkillable"


def test_an_agent_with_hooks_of_its_own_is_followed_by_its_group_state() -> None:
    script = Script()
    script.start_agent(0)
    script.rendezvous(1, 2)
    script.say(3, ev.GroupStateChanged, before="INIT", after="HEALTHY")
    script.say(100, ev.GroupStateChanged, before="HEALTHY", after="FAILED")
    script.say(102, ev.DecisionMade, action="restart", reason="r", spends_budget=True)
    script.say(110, ev.GroupStateChanged, before="FAILED", after="STOPPED")
    script.rendezvous(111, 120)
    script.say(130, ev.GroupStateChanged, before="STOPPED", after="HEALTHY")
    timeline = tl.fold_all(script.events)
    (restart,) = timeline.restarts
    assert (restart.detect_s, restart.stop_s) == (pytest.approx(0.002), pytest.approx(0.008))
    assert restart.total_s == pytest.approx(0.030)
    assert timeline.state == "running"


def test_clocks_of_two_nodes_are_never_mixed() -> None:
    """Two nodes whose clocks, monotonic and wall, are days apart."""
    alone = tl.fold_all(restarted_job(Script("a")).events)
    far = restarted_job(Script("b", mono_offset_ms=10**9, wall_offset_ms=-(10**9))).events
    both = tl.fold_all([e for pair in zip(restarted_job(Script("a")).events, far, strict=True) for e in pair])
    assert both.nodes["a"] == alone.nodes["a"]
    assert {r.total_s for r in both.restarts} == {alone.restarts[0].total_s}
    assert both.time_lost_s == alone.time_lost_s


@pytest.mark.parametrize(
    ("results", "together", "state"),
    [
        (["SUCCEEDED", "SUCCEEDED"], "SUCCEEDED", "succeeded"),
        (["SUCCEEDED", "FAILED"], "FAILED", "failed"),
        (["SIGNAL", "SUCCEEDED"], "SIGNAL", "stopped"),
        (["STOPPED", "SUCCEEDED"], "SUCCEEDED", "succeeded"),
        (["ERROR", "SIGNAL"], "ERROR", "error"),
        (["gibberish", "SUCCEEDED"], "ERROR", "error"),
    ],
)
def test_the_job_ends_as_its_worst_node(results: list[str], together: str, state: str) -> None:
    nodes = [Script(f"n{i}") for i in range(len(results))]
    for node in nodes:
        node.start_agent(0)
    for node, result in zip(nodes, results, strict=True):
        node.finish(5, result)
    timeline = tl.fold_all([event for node in nodes for event in node.events])
    assert (timeline.result, timeline.state) == (together, state)


def test_the_job_goes_on_while_one_node_does() -> None:
    done, going = Script("a"), Script("b")
    done.start_agent(0)
    going.start_agent(0)
    done.finish(1)
    timeline = tl.fold_all([*done.events, *going.events])
    assert (timeline.result, timeline.state, timeline.duration_s) == ("", "ending", None)


def test_gaps_and_drops_are_counted() -> None:
    events = restarted_job(Script()).events
    dropped = ev.EventsDropped(run_id="job", node="a", seq=9, mono_ns=900 * MS, count=3, reason="no space")
    node = tl.fold_all([*events[:6], dropped, *events[9:]]).nodes["a"]
    assert (node.missing, node.dropped, node.last_seq) == (2, 3, len(events))


def test_events_seen_twice_count_once() -> None:
    events = restarted_job(Script()).events
    once, twice = tl.fold_all(events), tl.fold_all([event for event in events for _ in range(2)])
    assert twice.nodes["a"].repeated == len(events)
    assert twice.restarts == once.restarts
    assert twice.failures == once.failures
    assert (twice.sessions, twice.nodes["a"].life) == (1, 1)


def test_an_agent_that_comes_back_while_the_job_goes_on_has_another_life() -> None:
    first, second = Script(), Script(mono_offset_ms=5_000)
    first.start_agent(0)
    first.start_workers(1, 2)
    first.fail(3, 0)
    second.start_agent(0, pid=11)
    second.start_workers(1, 2)
    second.fail(3, 1)
    timeline = tl.fold_all([*first.events, *second.events])
    assert (timeline.nodes["a"].life, timeline.nodes["a"].pid, timeline.sessions) == (2, 11, 1)
    assert [(f.life, f.local_rank, f.first) for f in timeline.failures.values()] == [
        (1, 0, True),
        (2, 1, True),
    ]
    # Also if the line that tells of its start is missing.
    headless = tl.fold_all([*first.events, *second.events[1:]])
    assert headless.nodes["a"].life == 2


def test_a_job_that_runs_again_into_the_same_recording_is_told_alone() -> None:
    timeline = tl.fold_all(
        [*restarted_job(Script()).events, *restarted_job(Script(mono_offset_ms=9_000)).events]
    )
    assert (timeline.sessions, len(timeline.failures), timeline.restarts_used) == (2, 1, 1)
    assert timeline.nodes["a"].life == 1


def test_folding_changes_no_timeline_that_somebody_kept() -> None:
    events = restarted_job(Script()).events
    kept = [tl.Timeline()]
    for event in events:
        kept.append(tl.fold(kept[-1], event))
    assert kept == [tl.fold_all(events[:n]) for n in range(len(events) + 1)]


def test_what_can_grow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODES_MAX", "RANKS_PER_NODE_MAX", "FAILURES_MAX"):
        monkeypatch.setattr(tl, name, 3)
    script = Script()
    for rank in range(9):
        script.fail(rank, rank)
    others = [ev.RendezvousStarted(node=str(n), backend="x") for n in range(9)]
    timeline = tl.fold_all([*script.events, *others])
    assert (len(timeline.nodes), len(timeline.failures), len(timeline.nodes["a"].ranks)) == (3, 3, 3)
    assert timeline.ignored > 0


def test_restarts_for_membership_spend_nothing_and_are_counted_for_the_job() -> None:
    script = Script()
    script.start_agent(0)
    script.epoch = 1
    script.round = 3  # it came late: two rounds have ended without it
    script.say(
        50,
        ev.RendezvousCompleted,
        group_rank=1,
        group_world_size=2,
        world_size=4,
        role_world_size=4,
        master_addr="m",
        master_port=1,
        global_ranks=[2, 3],
        seat=4,
        coordinator="a_1_0123ab",
    )
    script.start_workers(60, 70)
    gone = "node b_2_abcdef is lost: it gave no sign of life for 4.0 s"
    script.say(
        900,
        ev.RoundEnded,
        ended=3,
        action="membership",
        reason=gone,
        by="a_1_0123ab",
        spends_budget=False,
        restarts=0,
    )
    script.say(901, ev.DecisionMade, action="restart", reason=gone, spends_budget=False, restarts_left=3)
    timeline = tl.fold_all(script.events)
    assert (timeline.rounds, timeline.restarts_used, timeline.restarts_total) == (3, 0, 2)
    (restart,) = timeline.restarts
    assert (restart.round, restart.spends_budget) == (3, False)
    assert restart.reason == "node b_2 is lost: it gave no sign of life for 4.0 s"
    (round_,) = timeline.nodes["a"].rounds
    assert (round_.number, round_.epoch, round_.seat, round_.coordinator) == (3, 1, 4, "a_1")
    ((number, end),) = timeline.job.ends
    assert (number, end.reason, end.by) == (3, restart.reason, "a_1")


def test_a_parked_node_waits_and_loses_no_time() -> None:
    script = restarted_job(Script())
    script.events = script.events[:-6]
    script.say(2_000, ev.Evicted, left=1, reason="the job went on")
    script.say(2_001, ev.DecisionMade, action="restart", reason="the job went on")
    script.say(2_002, ev.RendezvousStarted, backend="rally")
    script.say(2_003, ev.Parked, beside=4, reason="full")
    parked = tl.fold_all(script.events)
    assert (parked.state, parked.nodes["a"].state, parked.nodes["a"].evictions) == ("rendezvous", "parked", 1)
    script.rendezvous(2_002, 3_600_000)
    script.start_workers(3_600_001, 3_600_002, incarnation=2)
    timeline = tl.fold_all(script.events)
    assert timeline.time_lost_s == tl.fold_all(restarted_job(Script()).events).time_lost_s
    assert timeline.state == "running"


def test_a_node_keeps_its_latest_readings() -> None:
    script = restarted_job(Script())
    script.events = script.events[:-6]
    assert tl.fold_all(script.events).nodes["a"].readings is None
    for at_ms in (1_500, 1_600):
        worker = ev.WorkerReading(local_rank=1, cpu_percent=at_ms / 100, rss_bytes=1 << 30)
        script.say(at_ms, ev.ReadingsTaken, incarnation=1, workers=[worker])
    node = tl.fold_all(script.events).nodes["a"]
    assert node.readings is not None
    assert (node.state, node.readings.latest, node.readings.at) == (
        "running",
        script.events[-1],
        tl.Moment(1_600 * MS, 1_600 * MS),
    )
    assert node.readings.cpu_percent(1) == [15.0, 16.0]


def test_readings_of_workers_whose_start_is_missing_tell_that_they_run() -> None:
    script = restarted_job(Script())
    script.events = script.events[:12]  # it has decided on a restart
    assert tl.fold_all(script.events).state == "restarting"
    script.say(9_000, ev.ReadingsTaken, incarnation=0)
    assert tl.fold_all(script.events).state == "restarting", "they are being stopped"
    script.say(10_000, ev.ReadingsTaken, incarnation=1)
    timeline = tl.fold_all(script.events)
    assert (timeline.state, timeline.nodes["a"].incarnation) == ("running", 1)


def test_a_lost_node_keeps_nobody_waiting_and_the_job_s_own_outcome_counts() -> None:
    silent, host = Script("b_2"), Script("a_1")
    for script in (silent, host):
        script.start_agent(0)
        script.rendezvous(10, 30, nodes=2)
        script.start_workers(40, 50)
    host.say(5_000, ev.LeaseLost, lost="b_2_abcdef", reason="it gave no sign of life for 4.0 s", stood_s=4.0)
    host.say(9_000, ev.JobEnded, outcome="failed", why="too few nodes")
    assert tl.fold_all([*silent.events, *host.events]).state == "running"
    host.finish(9_001, result="ERROR", reason="it went wrong")
    timeline = tl.fold_all([*silent.events, *host.events])
    assert (timeline.state, timeline.result, timeline.reason) == ("failed", "FAILED", "too few nodes")


_INT = st.one_of(st.integers(-3, 4), st.integers())
_HEADER: dict[str, st.SearchStrategy[Any]] = {
    "run_id": st.sampled_from(["", "job"]),
    "node": st.sampled_from(["a", "b", ""]),
    "seq": st.one_of(st.integers(0, 30), st.integers()),
    "mono_ns": st.one_of(st.integers(0, 50), st.integers()),
    "wall_ns": _INT,
    "round": _INT,
    "epoch": _INT,
    "restart_count": _INT,
}
_WORDS = st.sampled_from(
    ["", "restart", "fail", "HEALTHY", "FAILED", "STOPPED", "SUCCEEDED", "\x1b[31m", "SIGKILL"]
)


def _any_event(kind: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    return st.builds(kind, **_HEADER, **{name: _value(text) for name, text in kind.__annotations__.items()})


def _value(annotation: str) -> st.SearchStrategy[Any]:
    by_annotation: dict[str, st.SearchStrategy[Any]] = {
        "int": _INT,
        "int | None": st.none() | _INT,
        "str": _WORDS,
        "bool": st.booleans(),
        "float": st.floats(),
        "list[int]": st.lists(_INT, max_size=3),
        "list[str]": st.lists(_WORDS, max_size=3),
        "list[WorkerReading]": st.lists(
            st.builds(ev.WorkerReading, local_rank=st.integers(0, 3)), max_size=3
        ),
        "list[GpuReading]": st.lists(
            st.builds(ev.GpuReading, index=st.integers(0, 3), util_percent=st.none() | st.floats()),
            max_size=2,
        ),
        "list[HungWorker]": st.lists(
            st.builds(ev.HungWorker, local_rank=st.integers(0, 3), kind=_WORDS, for_s=st.floats()), max_size=3
        ),
        "list[FailureRecord]": st.lists(st.builds(FailureRecord, node=_WORDS, message=_WORDS), max_size=3),
    }
    return by_annotation[annotation]


ANY_EVENTS = st.lists(st.one_of([_any_event(kind) for kind in ev.AnyEvent.__args__]), max_size=25)


@settings(deadline=None, max_examples=150)
@given(events=ANY_EVENTS, data=st.data())
def test_folding_never_raises_and_portions_make_no_difference(
    events: list[ev.Event], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    at_once, in_portions = tl.fold_all(events), tl.Timeline()
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        in_portions = tl.fold_all(events[start:end], in_portions)
    one_by_one = tl.Timeline()
    for event in events:
        one_by_one = tl.fold(one_by_one, event)
    # As text: a duration that is not a number equals nothing, itself neither.
    assert repr(in_portions) == repr(at_once) == repr(one_by_one)
    for name in (
        "state",
        "result",
        "reason",
        "started",
        "last",
        "ended",
        "duration_s",
        "rounds",
        "restarts_total",
        "time_lost_s",
    ):
        getattr(at_once, name)
    list(at_once.job.ends)
    for restart in at_once.restarts:
        assert restart.total_s is None or restart.total_s >= 0


@settings(deadline=None, max_examples=100)
@given(lost=st.sets(st.integers(0, 40)))
def test_a_torn_recording_still_tells_how_it_ended(lost: set[int]) -> None:
    events = restarted_job(Script()).events
    kept = [event for i, event in enumerate(events) if i not in lost or i == len(events) - 1]
    timeline = tl.fold_all(kept)
    assert timeline.state == "succeeded"
    assert timeline.restarts_used == 1
    assert timeline.nodes["a"].missing == len(events) - len(kept)


def test_a_job_that_somebody_stopped_has_not_failed() -> None:
    stop = replace(
        sample(ev.ActionTaken), node="a", run_id="job", seq=2, action="stop", outcome="done", by="me@here"
    )
    start = replace(sample(ev.AgentStarted), node="a", run_id="job", seq=1)
    end = replace(sample(ev.AgentFinished), node="a", run_id="job", seq=3, result="FAILED")
    stopped = tl.fold_all([start, stop, end])
    assert stopped.state == "stopped" and stopped.stopped_by == "me@here"
    assert tl.fold_all([start, end]).state == "failed"
    assert tl.fold_all([start, replace(stop, outcome="refused"), end]).state == "failed"
    again = tl.fold_all([replace(start, seq=1, pid=8, mono_ns=10**12)], stopped)
    assert again.stopped_by == "", "another job"
