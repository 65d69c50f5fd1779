"""What the nodes of a job decided together, folded from whichever recordings there are."""

from __future__ import annotations

from typing import Any

from toolkit.core import events as ev
from toolkit.core import job_story
from toolkit.core.job_report import FailureRecord
from toolkit.core.job_story import JobStory
from toolkit.core.moment import Moment

A, B, C = "gpu-a_1_0000aa", "gpu-b_2_0000bb", "gpu-c_3_0000cc"


def story(*told: ev.Event) -> JobStory:
    result = JobStory()
    for at_s, event in enumerate(told):
        result = job_story.told(result, event, Moment(at_s, at_s))
    return result


def formed(node: str = "gpu-b_2", number: int = 1, *, epoch: int = 1) -> ev.RendezvousCompleted:
    return ev.RendezvousCompleted(
        node=node,
        round=number,
        epoch=epoch,
        group_rank=0,
        group_world_size=2,
        world_size=4,
        role_world_size=4,
        master_addr="m",
        master_port=1,
        global_ranks=[0, 1],
        coordinator=A if epoch else "",
    )


def ended(node: str, reason: str = "rank 1 failed", **fields: Any) -> ev.RoundEnded:
    told = {"ended": 1, "action": "restart", "by": B, "spends_budget": True, "restarts": 1} | fields
    return ev.RoundEnded(node=node, round=1, reason=reason, **told)


def test_rounds_have_the_number_of_the_job_and_all_that_its_nodes_know() -> None:
    said = story(ev.RoundFormed(node="gpu-a_1", formed=1, members=[A, B], parked=[C]), formed())
    (round_,) = said.rounds.values()
    assert (round_.number, round_.epoch, round_.coordinator, round_.size) == (1, 1, "gpu-a_1", 2)
    assert (round_.members, round_.parked) == (("gpu-a_1", "gpu-b_2"), ("gpu-c_3",))


def test_rounds_of_other_rendezvous_are_each_node_s_own() -> None:
    assert story(formed(epoch=0)) == JobStory()


def test_an_end_that_all_say_is_kept_once_at_the_time_of_who_decided_it() -> None:
    said = story(ended("gpu-a_1"), ended("gpu-b_2"), ended("gpu-c_3"))
    ((number, end),) = said.ends
    assert (number, end.by, end.told_by, end.at.mono_ns) == (1, "gpu-b_2", "gpu-b_2", 1)


def test_a_failure_in_a_round_that_nodes_have_left_comes_on_top() -> None:
    gone = ended("gpu-a_1", f"node {C} is lost: it left", action="membership", by=A, spends_budget=False)
    said = story(ended("gpu-b_2"), gone)
    assert [end.reason for _, end in said.ends] == ["node gpu-c_3 is lost: it left", "rank 1 failed"]


def test_coordinators_follow_each_other() -> None:
    first = ev.CoordinatorChanged(node="gpu-b_2", began=1, coordinator=A, before="")
    gone = ev.CoordinatorChanged(node="gpu-b_2", began=1, coordinator="", before=A)
    late = ev.CoordinatorChanged(node="gpu-c_3", began=2, coordinator=B, before="")
    own = ev.CoordinatorChanged(node="gpu-b_2", began=2, coordinator=B, before=A, reason="it left")
    said = story(first, gone, late, own)
    assert said.coordinator == "gpu-b_2"
    assert [(e.coordinator, e.before, e.reason) for e in said.epochs.values()] == [
        ("gpu-a_1", "", ""),
        ("gpu-b_2", "gpu-a_1", "it left"),
    ]


def test_lost_held_and_refused_nodes_and_a_silent_store_are_kept() -> None:
    refused = {"joiner": C, "reason": "it has node rank 1, and so has gpu-b_2_0000bb"}
    said = story(
        ev.LeaseLost(node="gpu-a_1", lost=C, reason="it gave no sign of life for 4.0 s", stood_s=4.0),
        ev.JoinHeld(node="gpu-a_1", joiner=C, reason="lost twice", for_s=30.0),
        ev.JoinRefused(node="gpu-a_1", **refused),
        ev.JoinRefused(node="gpu-c_3", **refused),
        ev.StoreSilent(node="gpu-b_2", where="gpu-a:29400", silent_s=3.0, limit_s=60.0),
        ev.StoreAnswers(node="gpu-b_2", where="gpu-a:29400", silent_s=19.5),
        ev.StoreSilent(node="gpu-b_2", where="gpu-a:29400", silent_s=3.0, limit_s=60.0),
    )
    assert [(lost.node, lost.by) for lost in said.lost] == [("gpu-c_3", "gpu-a_1")]
    assert [(join.kind, join.joiner, join.for_s) for join in said.joins] == [
        ("held", "gpu-c_3", 30.0),
        ("refused", "gpu-c_3", 0.0),
    ]
    assert said.joins[1].reason == "it has node rank 1, and so has gpu-b_2"
    assert [(silence.silent_s, silence.answered) for silence in said.silences] == [(19.5, True), (3.0, False)]


def test_who_could_not_wait_for_the_report_does_not_replace_it() -> None:
    record = FailureRecord(global_rank=3, exit_code=1)
    whole = ev.JobEnded(node="gpu-a_1", outcome="failed", why="it failed", failures=[record])
    hasty = ev.JobEnded(node="gpu-b_2", outcome="failed", why="it failed")
    for said in (story(whole, hasty), story(hasty, whole)):
        assert said.outcome is not None
        assert said.outcome.failures == (record,)


def test_what_can_grow_has_a_bound() -> None:
    said = story(*(ended("gpu-a_1", ended=number) for number in range(job_story.ROUNDS_MAX + 5)))
    assert min(said.rounds) == 5
    many = story(*(ended("gpu-a_1", reason=f"{count}") for count in range(20)))
    assert len(many.rounds[1].ends) == job_story.ENDS_MAX
