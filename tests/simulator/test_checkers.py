"""Checkers: each promise held and broken on events made by hand, and each planted bug in our agent caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import Fail, NodePlan, Scenario, Workload, faults, simulate
from simulator.checkers import (
    CHECKERS,
    Checker,
    Facts,
    Hit,
    Judgement,
    NodeEnd,
    checkers_named,
    judge,
    judge_record,
)
from simulator.checkers.record import record_of
from simulator.report import Report
from simulator.scenarios import ALL
from simulator.simulation import RallySubject
from toolkit.agent.launched import LaunchedAgent
from toolkit.core import events as ev
from toolkit.core.errors import ConfigurationError
from toolkit.core.job_report import FailureRecord
from toolkit.core.launch_plan import LogLayout
from toolkit.core.model import RunResult, Worker, WorkerGroup, WorkerState

START_NS = 1_790_000_000 * 10**9


class Story:
    """Events of several agents, made by hand in the order of the world."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.seq: dict[str, int] = {}
        self.at_s = 0.0

    def say(self, name: str, kind: type[ev.Event], **fields: Any) -> None:
        self.seq[name] = fields.pop("seq", self.seq.get(name, 0) + 1)
        at_ns = int(self.at_s * 1e9)
        header = {"run_id": "job", "node": f"{name}_7", "seq": self.seq[name], "wall_ns": START_NS + at_ns}
        self.events.append(kind(**{**header, "mono_ns": at_ns, **fields}))

    def start(self, name: str, *, budget: int = 3, workers: int = 1) -> None:
        self.seq[name] = 0
        self.say(
            name,
            ev.AgentStarted,
            pid=7,
            hostname=name,
            role="trainer",
            local_world_size=workers,
            restarts_max=budget,
            backend="c10d",
            entrypoint="train.py",
        )

    def join(self, name: str, rank: int = 0, size: int = 1, master: str = "a", **fields: Any) -> None:
        self.say(name, ev.RendezvousStarted, backend="c10d")
        known = {
            "group_rank": rank,
            "group_world_size": size,
            "world_size": size,
            "role_world_size": size,
            "master_addr": master,
            "master_port": 1,
            "global_ranks": [rank],
        }
        self.say(name, ev.RendezvousCompleted, **{**known, **fields})

    def work(self, name: str, rank: int = 0, incarnation: int = 0, before: str = "INIT") -> None:
        self.say(name, ev.WorkersStarting, incarnation=incarnation, count=1)
        self.say(
            name,
            ev.WorkerStarted,
            incarnation=incarnation,
            local_rank=0,
            global_rank=rank,
            role_rank=rank,
            world_size=1,
            worker_id="1",
        )
        self.say(name, ev.WorkersStarted, incarnation=incarnation)
        self.say(name, ev.GroupStateChanged, before=before, after="HEALTHY")

    def exit(
        self,
        name: str,
        rank: int = 0,
        code: int = 0,
        incarnation: int = 0,
        *,
        first: bool = True,
        hand: str = "unclear",
    ) -> None:
        exited = {
            "incarnation": incarnation,
            "local_rank": 0,
            "global_rank": rank,
            "pid": 1,
            "exit_code": code,
        }
        self.say(name, ev.WorkerExited, **exited)
        if code:
            how = {"signal": "", "message": "", "first": first, "hand": hand}
            self.say(name, ev.FailureRecorded, hostname=name, **how, **exited)
        self.say(name, ev.GroupStateChanged, before="HEALTHY", after="FAILED" if code else "SUCCEEDED")

    def restart(self, name: str, *, spends: bool, grace_s: float = 30.0, took_s: float = 0.0) -> None:
        before = "FAILED" if spends else "HEALTHY"
        self.say(name, ev.DecisionMade, action="restart", reason="", spends_budget=spends)
        self.say(name, ev.WorkersStopping, signal="SIGTERM", grace_s=grace_s, local_ranks=[0])
        self.at_s += took_s
        self.say(name, ev.WorkersStopped)
        self.say(name, ev.GroupStateChanged, before=before, after="STOPPED")

    def enter(self, name: str, members: int = 1) -> None:
        self.say(name, ev.DecisionMade, action="finish", reason="")
        self.say(name, ev.BarrierEntered, members=members, timeout_s=300.0)

    def leave(self, name: str, outcome: str = "complete", waited_s: float = 0.0) -> None:
        self.say(name, ev.BarrierLeft, outcome=outcome, waited_s=waited_s)

    def end(self, name: str, result: str = "SUCCEEDED", reason: str = "") -> None:
        self.say(name, ev.AgentFinished, result=result, reason=reason, duration_s=1.0)

    def pass_s(self, seconds: float) -> None:
        self.at_s += seconds

    def formed(self, *names: str, incarnation: int = 0, before: str = "INIT") -> None:
        """These nodes form a round together and start their workers."""
        for rank, name in enumerate(names):
            self.join(name, rank, len(names), names[0])
        for rank, name in enumerate(names):
            self.work(name, rank, incarnation, before)

    def succeed(self, *names: str) -> None:
        """All finish together."""
        for rank, name in enumerate(names):
            self.exit(name, rank)
        for name in names:
            self.enter(name, len(names))
        for name in names:
            self.leave(name)
            self.end(name)

    def judged(self, facts: Facts = Facts(), *names: str) -> Judgement:  # noqa: B008 - a frozen value
        return judge(self.events, facts, names)


def simulated(story: Story, results: dict[str, str], **facts: Any) -> Facts:
    """Facts as the simulator would know them."""
    said = [((event.wall_ns - START_NS), 0) for event in story.events]
    nodes = {name: NodeEnd(result, exited_at_s=story.at_s) for name, result in results.items()}
    return Facts(nodes=nodes, said=said, ended_s=story.at_s + 1000, **facts)


def broken_promises(judgement: Judgement) -> list[str]:
    return list(dict.fromkeys(broken.promise for broken in judgement.broken))


def details(judgement: Judgement) -> str:
    return "\n".join(broken.detail for broken in judgement.broken)


def job_of_two() -> Story:
    story = Story()
    story.start("a")
    story.start("b")
    story.formed("a", "b")
    story.pass_s(10)
    return story


# -- what holds -----------------------------------------------------------------------------------------------


def test_a_job_that_goes_well_holds_what_a_recording_can_tell() -> None:
    story = job_of_two()
    story.succeed("a", "b")
    judgement = story.judged(Facts(min_nodes=2, max_nodes=2))
    assert broken_promises(judgement) == []
    assert judgement.with_status("undetermined") == []
    unjudged = [ruling.checker.promise for ruling in judgement.with_status("not judged")]
    assert unjudged == [
        "no-needless-end",
        "dead-node-noticed",
        "hung-coordinator-noticed",
        "operations-bounded",
    ]


def test_a_restart_within_the_budget_holds() -> None:
    story = job_of_two()
    for name, rank in (("a", 0), ("b", 1)):
        story.exit(name, rank, code=1)
    for name in ("a", "b"):
        story.restart(name, spends=True)
    story.formed("a", "b", incarnation=1, before="STOPPED")
    story.succeed("a", "b")
    judgement = story.judged(Facts(min_nodes=2, max_nodes=2))
    assert broken_promises(judgement) == []


def test_what_a_recording_does_not_have_is_undetermined() -> None:
    story = job_of_two()
    story.succeed("a", "b")
    only_a = [event for event in story.events if event.node == "a_7"]
    judgement = judge(only_a, Facts(min_nodes=2, max_nodes=2))
    why = {ruling.checker.promise: ruling.why for ruling in judgement.with_status("undetermined")}
    assert why["ranks-exact"] == "the recording has the events of 1 of 2 nodes"
    assert "same-result" in why and judgement.broken == []


def test_an_agent_without_an_end_leaves_the_end_open() -> None:
    story = job_of_two()
    judgement = story.judged()
    why = {ruling.checker.promise: ruling.why for ruling in judgement.with_status("undetermined")}
    assert why["everyone-ends"] == "a, b have no end in the recording"


# -- rounds ---------------------------------------------------------------------------------------------------


def test_members_with_other_master_addresses_are_named() -> None:
    """moved-rank-0."""
    story = Story()
    for name in "abc":
        story.start(name)
    story.join("b", 1, 3, "b")
    story.join("c", 2, 3, "b")
    story.join("a", 0, 3, "a")
    judgement = story.judged(Facts(), "one-master")
    assert "b and c were told MASTER_ADDR b, a was told MASTER_ADDR a; rank 0 is a" in details(judgement)


def test_a_master_address_that_rank_0_does_not_serve_is_broken() -> None:
    story = Story()
    story.start("b")
    story.start("c")
    story.join("b", 0, 2, "10.0.0.1")
    story.join("c", 1, 2, "10.0.0.1")
    facts = simulated(
        story, {"a": "LOST", "b": "RUNNING", "c": "RUNNING"}, addresses={"10.0.0.1": "a", "b": "b"}
    )
    assert "all were told MASTER_ADDR 10.0.0.1 (a); rank 0 is b" in details(story.judged(facts, "one-master"))


def test_a_rank_beyond_the_size_and_members_that_disagree_are_found() -> None:
    """clock-skew."""
    story = Story()
    story.start("a")
    story.start("b")
    story.join("b", 1, 1)
    story.join("a", 0, 2)
    text = details(story.judged(Facts(), "ranks-exact"))
    assert "b was told that it is rank 1 of 1" in text
    assert "members disagree on how many nodes there are: b says 1 and a says 2" in text


def test_a_rank_with_two_holders_is_found() -> None:
    story = Story()
    for name in "abc":
        story.start(name)
    story.join("a", 0, 3)
    story.join("b", 1, 3)
    story.join("c", 1, 3)
    text = details(story.judged(Facts(), "ranks-exact"))
    assert "group rank 1 is held by b and c" in text
    assert "global rank 1 is held by b and c" in text


def test_wrong_global_ranks_are_found() -> None:
    story = Story()
    story.start("a", workers=2)
    story.join("a", global_ranks=[0, 7], world_size=2)
    assert "a holds rank 7 of a world of 2 workers" in details(story.judged(Facts(), "ranks-exact"))


def test_a_second_world_is_found() -> None:
    """store-stall."""
    story = job_of_two()
    story.start("c")
    story.join("c", 0, 1, "c")
    story.work("c")
    story.pass_s(60)
    story.exit("c")
    story.succeed("a", "b")
    text = details(story.judged(Facts(), "one-round-running", "ranks-exact"))
    assert (
        text
        == "two worlds at once for 60 s: c trains as rank 0 of 1, and a still as rank 0 of 2 of the round before"
    )


def test_an_old_round_may_be_on_its_way_out() -> None:
    story = job_of_two()
    story.start("c")
    story.join("c", 0, 1, "c")
    story.work("c")
    story.pass_s(3)
    for name in "ab":
        story.restart(name, spends=False)
    story.pass_s(60)
    assert broken_promises(story.judged(Facts(), "one-round-running")) == []


def test_workers_that_have_exited_do_not_work_until_their_agent_says_that_they_stopped() -> None:
    story = job_of_two()
    story.start("c")
    story.join("c", 0, 1, "c")
    story.work("c")
    for name in "ab":
        story.exit(name, code=1)
    story.pass_s(60)
    for name in "ab":
        story.say(name, ev.WorkersStopped)
    story.exit("c")
    assert broken_promises(story.judged(Facts(), "one-round-running")) == []


def test_who_starts_workers_of_an_old_round_is_named() -> None:
    story = Story()
    for name in "abc":
        story.start(name)
    story.join("a", 0, 2)
    story.join("b", 1, 2)
    story.pass_s(5)
    story.join("c", 0, 1, "c")
    story.pass_s(5)
    story.work("a")
    text = details(story.judged(Facts(), "one-round-running"))
    assert text == "a starts workers of the round of a and b 5.0 s after the newer one of c had formed"


def test_a_round_of_another_size_than_asked_for_is_broken() -> None:
    story = job_of_two()
    judgement = story.judged(Facts(min_nodes=3, max_nodes=4), "size-in-bounds")
    assert "it has 2 nodes; 3 to 4 may be" in details(judgement)


# -- restarts -------------------------------------------------------------------------------------------------


def test_members_that_count_other_restarts_are_found() -> None:
    """split-budget."""
    story = Story()
    story.start("a")
    story.start("b")
    story.join("a", 0, 2, restart_count=1)
    story.join("b", 1, 2)
    assert "a counts 1 and b counts 0 restarts" in details(story.judged(Facts(), "one-restart-count"))


def test_a_restart_beyond_the_budget_is_found() -> None:
    story = Story()
    story.start("a", budget=1)
    story.formed("a")
    for incarnation in (1, 2):
        story.exit("a", code=1, incarnation=incarnation - 1)
        story.restart("a", spends=True)
        story.formed("a", incarnation=incarnation, before="STOPPED")
    judgement = story.judged(Facts(), "restart-budget", "job-restart-budget")
    assert set(broken_promises(judgement)) == {"restart-budget", "job-restart-budget"}
    assert "it makes restart 2, and 1 are allowed" in details(judgement)
    assert "the job restarts for the 2nd time" in details(judgement)


def test_a_member_that_comes_back_later_failed_in_a_round_that_is_counted() -> None:
    story = Story()
    for name in "ab":
        story.start(name, budget=1)
    story.formed("a", "b")
    for name in "ab":
        story.exit(name, "ab".index(name), code=1)
    story.restart("a", spends=True)
    story.formed("a", incarnation=1, before="STOPPED")
    story.pass_s(20)
    story.restart("a", spends=False)
    story.formed("a", "b", incarnation=2, before="STOPPED")
    assert broken_promises(story.judged(Facts(), "job-restart-budget")) == []


def test_a_member_that_stays_away_takes_no_failed_round_with_it() -> None:
    story = Story()
    for name in "abc":
        story.start(name, budget=1)
    story.formed("a", "b", "c")
    story.exit("b", 1, code=1)
    for name in "ac":
        story.restart(name, spends=True)
    story.formed("a", "c", incarnation=1, before="STOPPED")
    story.pass_s(20)
    story.exit("a", code=1, incarnation=1)
    for name in "abc":
        story.restart(name, spends=True)
    story.formed("a", "b", "c", incarnation=2, before="STOPPED")
    judgement = story.judged(Facts(), "job-restart-budget")
    assert "the job restarts for the 2nd time" in details(judgement)


def test_a_window_lets_old_restarts_be_forgotten() -> None:
    story = Story()
    story.start("a", budget=1)
    story.formed("a")
    for incarnation in (1, 2):
        story.exit("a", code=1, incarnation=incarnation - 1)
        reason = "a worker failed; restart 1 of 1 within 60 s"
        story.say("a", ev.DecisionMade, action="restart", reason=reason, spends_budget=True)
        story.say("a", ev.WorkersStopped)
        story.formed("a", incarnation=incarnation, before="STOPPED")
        story.pass_s(100)
    assert broken_promises(story.judged(Facts(), "restart-budget", "job-restart-budget")) == []


def test_a_failure_that_nobody_counts_is_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.exit("a", code=1)
    story.restart("a", spends=False)
    text = details(story.judged(Facts(), "restart-budget"))
    assert text == "a: it restarts a failed group without counting it"


def test_healthy_workers_that_are_restarted_again_and_again_are_found() -> None:
    """flapping-joiner."""
    story = Story()
    story.start("a", budget=2)
    story.formed("a")
    for incarnation in range(1, 6):
        story.restart("a", spends=False)
        story.formed("a", incarnation=incarnation, before="STOPPED")
    text = details(story.judged(Facts(), "membership-restarts-bounded"))
    assert "a: its healthy workers were restarted 5 times" in text and "3 would be enough" in text


def test_a_healthy_group_that_is_restarted_after_a_success_is_found() -> None:
    """barrier-blocks-beat."""
    story = job_of_two()
    story.exit("a")
    story.enter("a", 2)
    story.pass_s(16)
    story.restart("b", spends=False)
    story.join("b", 0, 1, "b")
    story.work("b", 0, 1, "STOPPED")
    text = details(story.judged(Facts(), "no-restart-after-success"))
    assert text == "b restarts its healthy workers, 16.0 s after a had succeeded"


def test_a_joiner_that_runs_finished_work_again_is_found() -> None:
    """late-joiner."""
    story = job_of_two()
    story.exit("a")
    story.pass_s(30)
    story.start("c")
    story.join("c", 0, 1, "c")
    story.work("c")
    assert (
        "c joins and starts workers, so that finished work is run again, 30.0 s after a had succeeded"
        in details(story.judged(Facts(), "no-restart-after-success"))
    )


def test_a_failed_group_may_restart_after_a_success() -> None:
    story = job_of_two()
    story.exit("a")
    story.exit("b", 1, code=1)
    story.restart("b", spends=True)
    story.join("b", 0, 1, "b")
    assert broken_promises(story.judged(Facts(), "no-restart-after-success")) == []


# -- the end --------------------------------------------------------------------------------------------------


def test_who_leaves_the_barrier_before_all_have_come_is_found() -> None:
    story = job_of_two()
    story.exit("a")
    story.enter("a", 2)
    story.leave("a")
    story.pass_s(30)
    story.succeed("b")
    text = details(story.judged(Facts(), "exit-barrier"))
    assert "a: it left the exit barrier as complete when 1 of 2 agents had come" in text
    assert "b: it waits for 1 agents in a round of 2" in text


def test_who_ends_without_the_barrier_is_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.exit("a")
    story.say("a", ev.DecisionMade, action="finish", reason="")
    story.end("a")
    assert details(story.judged(Facts(), "exit-barrier")) == "a: it ended without the exit barrier"


def test_a_barrier_that_does_not_hear_of_a_failure_is_found() -> None:
    """barrier-after-failure."""
    story = job_of_two()
    story.exit("a")
    story.enter("a", 2)
    story.pass_s(5)
    story.exit("b", 1, code=1)
    story.end("b", "FAILED")
    story.pass_s(295)
    story.leave("a", "timeout", 300.0)
    story.end("a")
    judgement = story.judged(Facts(), "barrier-hears-failure", "same-result")
    assert broken_promises(judgement) == ["barrier-hears-failure", "same-result"]
    assert (
        "for 295 s (timeout) for b, which had ended FAILED at 15.0 s, and could not say that it was b"
        in details(judgement)
    )
    assert "a SUCCEEDED and b FAILED" in details(judgement)


def test_a_barrier_that_ends_with_the_failure_holds() -> None:
    story = job_of_two()
    story.exit("a")
    story.enter("a", 2)
    story.pass_s(200)
    story.exit("b", 1, code=1)
    story.end("b", "FAILED")
    story.leave("a", "error", 200.0)
    assert broken_promises(story.judged(Facts(), "barrier-hears-failure")) == []


def test_an_end_with_an_error_that_nothing_explains_is_found() -> None:
    """scale-up, store-host-loss, bystander-closes."""
    story = job_of_two()
    story.end("a", "ERROR", "RendezvousClosedError: closed")
    facts = simulated(story, {"a": "ERROR", "b": "RUNNING"})
    text = details(story.judged(facts, "no-needless-end"))
    assert text == (
        "a: it ended with an error, though nothing had happened to it, with 3 of 3 restarts left: "
        "RendezvousClosedError: closed"
    )
    hit = Hit("CrashNode", "b", 5.0, words="b loses power")
    assert "though the fault struck b" in details(
        story.judged(simulated(story, {"a": "ERROR", "b": "LOST"}, hits=(hit,)), "no-needless-end")
    )


def test_the_node_that_was_hit_may_end_with_an_error() -> None:
    story = job_of_two()
    story.end("a", "ERROR", "LaunchError: no more processes")
    hit = Hit("FailSpawn", "a", 5.0, words="")
    facts = simulated(story, {"a": "ERROR", "b": "RUNNING"}, hits=(hit,))
    assert broken_promises(story.judged(facts, "no-needless-end")) == []


def test_who_never_ends_is_named_with_what_it_waits_for() -> None:
    nodes = {"a": NodeEnd("RUNNING", waits_for="the store: get MASTER_ADDR")}
    stuck = Facts(nodes=nodes, stuck="nothing is left to happen", ended_s=70.0)
    story = job_of_two()
    assert "a waits for the store: get MASTER_ADDR, and nothing is left to happen" in details(
        story.judged(stuck, "everyone-ends")
    )
    late = Facts(nodes=nodes, ended_s=500.0, end_by_s=400.0, limit="the run takes more than 500 s")
    assert "all should have ended by 400 s" in details(story.judged(late, "everyone-ends"))
    cut_short = Facts(nodes=nodes, ended_s=300.0, end_by_s=400.0, limit="the run takes more than 300 s")
    assert story.judged(cut_short, "everyone-ends").rulings[0].status == "undetermined"


# -- who notices ----------------------------------------------------------------------------------------------


def test_a_death_that_is_noticed_late_is_found() -> None:
    """silent-node-loss."""
    story = job_of_two()
    story.pass_s(600)
    story.exit("a", code=1)
    hit = Hit("CrashNode", "b", 10.0, words="b loses power")
    facts = simulated(story, {"a": "RUNNING", "b": "LOST"}, hits=(hit,))
    text = details(story.judged(facts, "dead-node-noticed"))
    assert text == "b died at 10.0 s, and a noticed after 600 s; 6 s are allowed"


def test_a_death_that_is_noticed_in_time_holds() -> None:
    story = job_of_two()
    story.pass_s(5)
    story.restart("a", spends=False)
    story.pass_s(100)
    hit = Hit("CrashNode", "b", 10.0, words="b loses power")
    facts = simulated(story, {"a": "RUNNING", "b": "LOST"}, hits=(hit,))
    assert story.judged(facts, "dead-node-noticed").rulings[0].status == "held"


def test_too_many_store_operations_are_found() -> None:
    story = job_of_two()
    said = [(event.wall_ns - START_NS, number * 100) for number, event in enumerate(story.events)]
    nodes = {"a": NodeEnd("RUNNING"), "b": NodeEnd("RUNNING")}
    facts = Facts(nodes=nodes, said=said, store_host="a", ended_s=20.0)
    assert "took 300 store operations, 150 for each node; 20 are allowed" in details(
        story.judged(facts, "operations-bounded")
    )


# -- one agent ------------------------------------------------------------------------------------------------


def test_an_illegal_step_is_found() -> None:
    story = Story()
    story.start("a")
    story.say("a", ev.GroupStateChanged, before="INIT", after="SUCCEEDED")
    assert "its group went from INIT to SUCCEEDED" in details(story.judged(Facts(), "legal-states"))


def test_a_step_from_where_the_group_was_not_is_found() -> None:
    story = Story()
    story.start("a")
    story.say("a", ev.GroupStateChanged, before="HEALTHY", after="STOPPED")
    assert "it leaves HEALTHY while it was INIT" in details(story.judged(Facts(), "legal-states"))


def test_a_start_without_a_rendezvous_is_found() -> None:
    story = Story()
    story.start("a")
    story.work("a")
    assert "without a rendezvous" in details(story.judged(Facts(), "start-after-rendezvous"))


def test_a_second_start_while_the_first_workers_run_is_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.work("a", incarnation=1, before="HEALTHY")
    found = broken_promises(story.judged())
    assert "one-incarnation-at-a-time" in found and "one-start-per-round-and-rank" in found
    assert "start-after-rendezvous" in found


def test_workers_of_which_no_end_is_told_are_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.end("a", "SIGNAL")
    text = details(story.judged(Facts(), "nothing-outlives-the-agent"))
    assert text == "a: it ended and said nothing of the end of rank 0"


def test_a_stop_that_takes_longer_than_its_grace_is_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.restart("a", spends=False, grace_s=10.0, took_s=40.0)
    text = details(story.judged(Facts(), "stop-within-grace"))
    assert text == "a: stopping its workers took 40.0 s; the grace is 10 s"


@pytest.mark.parametrize(("firsts", "words"), [((True, True), "2 failures"), ((False, False), "no failure")])
def test_each_incarnation_has_one_first_failure(firsts: tuple[bool, bool], words: str) -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    for first in firsts:
        story.exit("a", code=1, first=first)
    assert f"it marks {words} as the first" in details(story.judged(Facts(), "first-failure-once"))


@pytest.mark.parametrize(
    ("hands", "held"),
    [
        (("second", "first"), True),
        (("second", "second"), False),
        (("first", "first"), False),
        (("second", "first", "first"), False),
    ],
)
def test_a_late_culprit_takes_the_place_of_its_victim_once(hands: tuple[str, ...], held: bool) -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    for hand in hands:
        story.exit("a", code=1, hand=hand)
    told = details(story.judged(Facts(), "first-failure-once"))
    assert ("failures as the first" in told) != held, told


def test_an_agent_that_ends_long_after_the_signal_is_found() -> None:
    story = Story()
    story.start("a")
    story.formed("a")
    story.say("a", ev.SignalReceived, signal="SIGTERM", count=1)
    story.pass_s(60)
    story.end("a", "SIGNAL")
    assert "it ended 60 s after the signal" in details(story.judged(Facts(), "signal-ends-agent"))


def test_missing_events_are_found_and_leave_other_promises_open() -> None:
    story = Story()
    story.start("a")
    story.say("a", ev.GroupStateChanged, seq=5, before="UNKNOWN", after="HEALTHY")
    judgement = story.judged(Facts(), "events-complete", "legal-states")
    assert details(judgement) == "a: 3 events missing"
    assert judgement.with_status("undetermined")[0].checker.promise == "legal-states"


def test_events_that_an_agent_says_it_dropped_are_not_missing() -> None:
    story = Story()
    story.start("a")
    story.say("a", ev.EventsDropped, seq=5, count=3, reason="disk full")
    assert broken_promises(story.judged(Facts(), "events-complete")) == []


def test_an_agent_that_goes_on_after_its_end_is_found() -> None:
    story = Story()
    story.start("a")
    story.end("a")
    story.join("a")
    assert "it goes on after it said that it had finished" in details(
        story.judged(Facts(), "events-complete")
    )


# -- judging --------------------------------------------------------------------------------------------------


def test_a_checker_that_raises_is_a_finding_about_the_checker() -> None:
    def mistaken(record: object) -> Iterator[Any]:
        raise ZeroDivisionError("division by zero")

    checker = Checker("mistaken", "nothing", mistaken)
    ruling = judge_record(record_of(job_of_two().events), [checker]).rulings[0]
    assert ruling.status == "broken"
    assert ruling.broken[0].detail == "the checker itself crashed: ZeroDivisionError: division by zero"


def test_a_checker_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no checker 'one-mastr'; did you mean one-master"):
        checkers_named(["one-mastr"])


def test_every_promise_has_a_name_and_a_line() -> None:
    assert len({checker.promise for checker in CHECKERS}) == len(CHECKERS)
    assert all(checker.about and len(checker.about) < 90 for checker in CHECKERS)


def test_clocks_of_two_machines_decide_nothing_within_the_slack() -> None:
    """The same story, told by machines whose clocks are a second apart, is not broken by that."""
    story = job_of_two()
    story.succeed("a", "b")
    skewed = [
        event if event.node == "a_7" else replace_wall(event, event.wall_ns - 10**9) for event in story.events
    ]
    by_clock = sorted(skewed, key=lambda event: event.wall_ns)
    assert broken_promises(judge(by_clock, Facts(min_nodes=2, max_nodes=2))) == []


def replace_wall(event: ev.Event, wall_ns: int) -> ev.Event:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event)(**{**fields, "wall_ns": wall_ns})


_NUMBERS = st.integers(-2, 5)
_HEADERS = st.fixed_dictionaries(
    {
        "node": st.sampled_from(["a_1", "b_1", "c_1"]),
        "seq": st.integers(0, 30),
        "mono_ns": st.integers(-(2**63), 2**63 - 1),
        "wall_ns": st.integers(-(2**63), 2**63 - 1),
    }
)
_TEXTS = st.sampled_from(
    ["", "HEALTHY", "FAILED", "restart", "finish", "a worker failed within 5 s", "SUCCEEDED"]
)


_RECORDS = st.builds(FailureRecord, node=_TEXTS, global_rank=_NUMBERS, signal=_TEXTS)
_LISTS = {
    str(list[str]): st.lists(_TEXTS, max_size=3),
    str(list[FailureRecord]): st.lists(_RECORDS, max_size=2),
    str(list[ev.WorkerReading]): st.lists(st.builds(ev.WorkerReading), max_size=2),
    str(list[ev.GpuReading]): st.lists(st.builds(ev.GpuReading), max_size=2),
}


def _hostile(kind: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    own = [field for field in msgspec.structs.fields(kind) if field.name not in ev.Event.__struct_fields__]
    values = {
        field.name: _LISTS[kind_of] if (kind_of := str(field.type)) in _LISTS else _value_of(field.name)
        for field in own
    }
    return st.builds(lambda header, fields: kind(**header, **fields), _HEADERS, st.fixed_dictionaries(values))


def _value_of(name: str) -> st.SearchStrategy[Any]:
    if name.endswith("ranks") or name in ("killed", "unkillable"):
        return st.lists(_NUMBERS, max_size=3)
    if name.endswith("_s"):
        return st.sampled_from([0.0, -1.0, 1e300, float("inf"), float("nan")])
    if name in ("spends_budget", "first", "stopped_by_agent"):
        return st.booleans()
    text = ("signal", "before", "after", "action", "reason", "outcome", "result", "error", "hostname", "role")
    numbers = (
        "incarnation",
        "pid",
        "count",
        "members",
        "size",
        "rank",
        "code",
        "left",
        "max",
        "port",
        "waiting",
    )
    return _TEXTS if name in text or not name.endswith(numbers) else _NUMBERS


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of([_hostile(kind) for kind in ev.AnyEvent.__args__]), max_size=25))
def test_no_checker_crashes_on_a_hostile_recording(said: list[ev.Event]) -> None:
    judgement = judge(said, Facts(min_nodes=1, max_nodes=2))
    assert "crashed" not in details(judgement)


# -- planted bugs ---------------------------------------------------------------------------------------------


class Planted(RallySubject):
    """Our agent with a bug, made by a subclass."""

    def __init__(self, agent: type[LaunchedAgent], rendezvous: Any = None, surroundings: Any = None) -> None:
        super().__init__(rendezvous, surroundings)
        self._agent = agent

    def _make(self, *args: Any) -> LaunchedAgent:
        good = super()._make(*args)
        return self._agent(
            good.get_worker_group().spec,
            LogLayout("/logs"),
            exit_barrier_timeout=good._exit_barrier_timeout,
            shutdown_timeout=good._shutdown_timeout,
            ports=good._ports,
        )


class SkipsTheBudget(LaunchedAgent):
    def _spend_restart(self, decision: Any, result: RunResult) -> None:
        """Nothing is counted."""


class LeavesTheBarrierEarly(LaunchedAgent):
    def _exit_barrier(self) -> None:
        members = int(self._worker_group.group_world_size or 1)
        self._reporter.say(ev.BarrierEntered, members=members, timeout_s=300.0)
        self._reporter.say(ev.BarrierLeft, outcome="complete", waited_s=0.0)


class SkipsTheBarrier(LaunchedAgent):
    def _exit_barrier(self) -> None:
        """It does not wait for anybody."""


class StartsWorkersTwice(LaunchedAgent):
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        super()._start_workers(worker_group)
        self._workers = None
        return super()._start_workers(worker_group)


class LeavesOldWorkersRunning(LaunchedAgent):
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._workers = None


class ForgetsItsState(LaunchedAgent):
    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        self._enter(WorkerState.INIT)
        super()._restart_workers(worker_group)


class BlamesEverybody(LaunchedAgent):
    def _say_failure(self, group: WorkerGroup, end: Any, told: Any, *, first: bool) -> None:
        super()._say_failure(group, end, told, first=True)


class DawdlesAfterSignals(LaunchedAgent):
    def _shut_down_with(self, death_sig: Any) -> None:
        until_ns = self._ports.clock.now_ns() + 120 * 10**9
        while self._ports.clock.now_ns() < until_ns:
            self._ports.bell.wait(10.0)
        super()._shut_down_with(death_sig)


class TakesAllForRankZero(LaunchedAgent):
    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: Any
    ) -> list[Worker]:
        workers = super()._assign_worker_ranks(store, group_rank, group_world_size, spec)
        for worker in workers:
            worker.global_rank = worker.local_rank
        return workers


class StopsSlowly(LaunchedAgent):
    def _shutdown(self, death_sig: Any = 15, timeout: int = 30) -> None:
        said = self._reporter.say

        def late(kind: type[ev.Event], **fields: Any) -> None:
            if kind is ev.WorkersStopped:
                self._ports.bell.wait(60.0)
            said(kind, **fields)

        self._reporter.say = late  # type: ignore[method-assign]
        super()._shutdown(death_sig, timeout)
        self._reporter.say = said  # type: ignore[method-assign]


class SwallowsAnEvent(LaunchedAgent):
    def _say_started(self) -> None:
        super()._say_started()
        self._reporter._seq += 1


CRASHING = Workload(steps=20, failures=(Fail(rank=1, at_step=5, exit_code=3, incarnations=5),))
SOLO = Scenario("planted", nodes=1, local_world_size=2, solo=True, max_restarts=2, workload=CRASHING)


@pytest.mark.parametrize(
    ("agent", "promise"),
    [
        (SkipsTheBudget, "restart-budget"),
        (StartsWorkersTwice, "one-start-per-round-and-rank"),
        (StartsWorkersTwice, "one-incarnation-at-a-time"),
        (StartsWorkersTwice, "start-after-rendezvous"),
        (LeavesOldWorkersRunning, "one-incarnation-at-a-time"),
        (ForgetsItsState, "legal-states"),
        (StopsSlowly, "stop-within-grace"),
        (SwallowsAnEvent, "events-complete"),
    ],
)
def test_a_planted_bug_is_caught(agent: type[LaunchedAgent], promise: str) -> None:
    healthy = simulate(SOLO, seed=1)
    assert healthy.verdict == "held", str(healthy)
    report = simulate(SOLO, Planted(agent), seed=1)
    assert promise in broken_in(report), str(report)


def test_an_agent_that_skips_the_barrier_is_caught() -> None:
    scenario = replace(SOLO, workload=Workload(steps=5))
    assert simulate(scenario, seed=1).verdict == "held"
    assert broken_in(simulate(scenario, Planted(SkipsTheBarrier), seed=1)) == ["exit-barrier"]


def test_an_agent_that_blames_every_failed_worker_is_caught() -> None:
    both = tuple(Fail(rank=rank, at_s=2.0 + rank * 1e-3, exit_code=3) for rank in (0, 1))
    scenario = replace(SOLO, workload=Workload(steps=20, collective=False, failures=both))
    # One is seen by the agent before the other ends, and the other is not told apart: let both be seen at once.
    paused = replace(scenario, faults=(faults.PauseAgent("node0", at_s=1.0, for_s=5.0),))
    assert simulate(paused, seed=1).verdict == "held"
    assert "first-failure-once" in broken_in(simulate(paused, Planted(BlamesEverybody), seed=1))


def test_an_agent_that_takes_its_time_after_a_signal_is_caught() -> None:
    scenario = replace(
        SOLO, workload=Workload(steps=200), faults=(faults.SignalAgent("node0", at_s=20.0, times=2),)
    )
    assert simulate(scenario, seed=1).verdict == "held"
    assert "signal-ends-agent" in broken_in(simulate(scenario, Planted(DawdlesAfterSignals), seed=1))


def broken_in(report: Report) -> list[str]:
    return list(dict.fromkeys(broken.promise for broken in report.broken))


def over_torch(agent: type[LaunchedAgent]) -> Planted:
    from simulator.torch_subject import torch_handler
    from simulator.torch_surroundings import TorchSurroundings

    return Planted(agent, torch_handler, TorchSurroundings)


SPREAD = Scenario(
    "spread",
    nodes=2,
    workload=Workload(steps=10, collective=False),
    plans={"node1": NodePlan(workload=Workload(steps=60, collective=False))},
)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("scenario", "agent", "promise"),
    [
        (SPREAD, LeavesTheBarrierEarly, "exit-barrier"),
        (SPREAD, TakesAllForRankZero, "ranks-exact"),
        (SPREAD, StartsWorkersTwice, "one-incarnation-at-a-time"),
        (
            Scenario("crashing", nodes=2, max_restarts=1, workload=CRASHING, limit_s=600),
            SkipsTheBudget,
            "restart-budget",
        ),
    ],
)
def test_a_planted_bug_is_caught_on_several_nodes(
    scenario: Scenario, agent: type[LaunchedAgent], promise: str
) -> None:
    pytest.importorskip("torch")
    assert promise not in broken_in(simulate(scenario, "rally", seed=1))
    report = simulate(scenario, over_torch(agent), seed=1)
    assert promise in broken_in(report), str(report)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "promise", "words"),
    [
        ("scale-up", "no-needless-end", "MASTER_ADDR"),
        ("moved-rank-0", "one-master", "were told MASTER_ADDR node-b"),
        ("store-stall", "one-round-running", "two worlds at once"),
        ("clock-skew", "ranks-exact", "rank 1 of 1"),
        ("silent-node-loss", "dead-node-noticed", "noticed after 600 s"),
        ("crash-in-rank-exchange", "no-needless-end", "the fault struck node-b"),
        ("barrier-after-failure", "barrier-hears-failure", "could not say that it was node-b"),
        ("split-budget", "one-restart-count", "node-a counts 1 and node-b counts 0"),
    ],
)
def test_the_gallery_comes_out_with_its_reason(name: str, promise: str, words: str) -> None:
    pytest.importorskip("torch")
    report = simulate(replace(ALL[name], checkers=()), "torch", seed=1)
    found = [broken.detail for broken in report.broken if broken.promise == promise]
    assert any(words in detail for detail in found), str(report)


def test_the_checkers_need_neither_greenlet_nor_the_agent() -> None:
    import subprocess
    import sys

    code = "import simulator.checkers, sys; print(sorted({'greenlet', 'toolkit.agent', 'rich'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
