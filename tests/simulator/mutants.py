"""Mutants of our own code: for each promise of the rendezvous some lines made wrong, and a search that must find it.

They are planted by name, wherever that name is looked up, so that code may move from one module to another. What they
break is said as the promise's number in the design (`rendezvous.md`) and the checker that has to notice.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import msgspec

from simulator import NodePlan, Scenario, Workload, explore, faults, scenarios
from simulator.workloads import Fail

Search = Callable[[], Iterable[Scenario]]
#: where mistakes are planted: what runs in the simulator
ROOMS = ("toolkit.core.", "toolkit.agent.")


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        name: what is wrong.
        promise: which one breaks, by its number in `rendezvous.md`.
        checker: that must say so.
        plant: makes the mistake while it is entered.
        search: scenarios of which one must show it.
    """

    name: str
    promise: int
    checker: str
    plant: Callable[[], AbstractContextManager[None]]
    search: Search


# -- planting -------------------------------------------------------------------------------------------------


def planted(name: str, make: Callable[..., Any]) -> Callable[[], AbstractContextManager[None]]:
    """Puts another in the place of a function ("rung") or a method ("Keeper.claim") of ours.

    Args:
        make: called as the original would be, with the original before its arguments.
    """

    @contextmanager
    def plant() -> Iterator[None]:
        places = _places(name)
        assert places, f"there is no {name} any more; name in mutants.py what does its work now"
        originals = [vars(owner)[attribute] for owner, attribute in places]
        assert len({id(original) for original in originals}) == 1, f"{name} means several things"
        original = originals[0]

        def mutant(*args: Any, **kwargs: Any) -> Any:
            return make(original, *args, **kwargs)

        for owner, attribute in places:
            setattr(owner, attribute, mutant)
        try:
            yield
        finally:
            for owner, attribute in places:
                setattr(owner, attribute, original)

    return plant


def all_of(*plants: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Several mistakes at once: where one fence stands behind another."""

    @contextmanager
    def plant() -> Iterator[None]:
        first, *others = plants
        with first():
            if others:
                with all_of(*others)():
                    yield
            else:
                yield

    return plant


def _places(name: str) -> list[tuple[Any, str]]:
    """Where a name is looked up: the modules that have a function of that name, or the class that has a method."""
    owner, _, attribute = name.rpartition(".")
    modules = [module for at, module in sorted(sys.modules.items()) if at.startswith(ROOMS)]
    if not owner:
        return [
            (module, attribute) for module in modules if isinstance(vars(module).get(attribute), FunctionType)
        ]
    classes = {found for module in modules for found in vars(module).values() if inspect.isclass(found)}
    return [(found, attribute) for found in classes if found.__name__ == owner and attribute in vars(found)]


def changed(value: Any, **fields: Any) -> Any:
    """A copy of one of our structs."""
    return msgspec.structs.replace(value, **fields)


# -- searches -------------------------------------------------------------------------------------------------


def gallery(*names: str) -> Search:
    """Scenarios by name."""
    return lambda: [scenarios.named(name) for name in names]


def anywhere(*kinds: str) -> Search:
    """A fault at each store operation of each node."""
    return lambda: itertools.chain.from_iterable(explore.anywhere(kind) for kind in kinds)


def written(*some: Scenario) -> Search:
    """Scenarios that are made for it."""
    return lambda: some


_SHORT = Workload(steps=30, collective=False)

#: two run, a third comes a minute later
COMES_LATE = Scenario(
    name="comes-late",
    nodes=3,
    min_nodes=3,
    workload=_SHORT,
    plans={"node2": NodePlan(start_s=60)},
    rdzv_conf={"last_call_timeout": "5"},
)
#: the machine of the store loses its power
HOST_DIES = Scenario(
    name="host-dies",
    nodes=3,
    workload=Workload(steps=60, collective=False),
    faults=(faults.CrashNode("node0", at_s=30),),
)
#: one of three goes, comes back, and without it they are too few
ONE_SHORT = Scenario(
    name="one-short",
    nodes=3,
    min_nodes=3,
    workload=_SHORT,
    faults=(faults.CrashNode("node2", at_s=10, reboot_after_s=20),),
)
#: two may run, and there are four
TOO_MANY = Scenario(
    name="too-many",
    nodes=4,
    min_nodes=2,
    max_nodes=2,
    workload=Workload(steps=30, failures=(Fail(rank=1, at_step=10),)),
)
#: the workers of one node fail again and again
FAILS_AGAIN = Scenario(
    name="fails-again",
    nodes=2,
    max_restarts=1,
    workload=Workload(
        steps=30, failures=(Fail(rank=1, at_step=5, incarnations=None),), collective_timeout_s=20
    ),
    quiet_by_s=100,
    limit_s=100,
)


def stopped_for_a_while(**more: Any) -> Search:
    """The agent of one of three is stopped for longer than its lease, at several moments; its workers run on."""
    cluster = Scenario(
        nodes=3, min_nodes=2, workload=Workload(steps=200, collective=False), store_apart=True, **more
    )
    moments = (20, 20.3, 20.6, 20.9, 21.2)
    return lambda: [
        replace(cluster, name=f"stopped-at-{at_s}", faults=(faults.PauseAgent("node2", at_s=at_s, for_s=20),))
        for at_s in moments
    ]


#: it fails meanwhile
FAILS_MEANWHILE = {"node2": NodePlan(workload=Workload(steps=25, failures=(Fail(rank=2, at_s=25),)))}
#: it succeeds meanwhile, and in the round without it a worker fails
SUCCEEDS_MEANWHILE = {
    "node0": NodePlan(
        workload=Workload(steps=60, collective=False, failures=(Fail(rank=0, at_s=40, incarnations=2),))
    ),
    "node2": NodePlan(workload=Workload(steps=25, collective=False)),
}
#: workers fail on both nodes at one time, for good
BOTH_FAIL = Scenario(
    name="both-fail",
    nodes=2,
    max_restarts=0,
    workload=Workload(steps=30, failures=(Fail(rank=0, at_step=10), Fail(rank=1, at_step=10))),
)
#: the coordinator is killed, and with it a worker that the others can't do without
NOBODY_WRITES = Scenario(
    name="nobody-writes",
    nodes=3,
    min_nodes=1,
    max_restarts=0,
    workload=Workload(steps=60),
    plans={"node1": NodePlan(start_s=1), "node2": NodePlan(start_s=1)},
    rdzv_conf={"last_call_timeout": "5"},
    faults=(faults.KillAgent("node0", at_s=20),),
    store_apart=True,
)
#: nodes finish one after the other, and each loses an answer of the store
ONE_BY_ONE = explore.Anywhere(
    replace(explore.SMALL, workload=Workload(steps=8, start_s=0.5, collective=False, spread_s=3)),
    lambda node, number: faults.DropAtOperation(node, number=number),
)


#: one of three is told to end
LEAVES = Scenario(
    name="leaves",
    nodes=3,
    min_nodes=2,
    workload=Workload(steps=60, collective_timeout_s=60),
    faults=(faults.SignalAgent("node2", at_s=20),),
    store_apart=True,
)
#: the coordinator stands still for long
COORDINATOR_HANGS = Scenario(
    name="coordinator-hangs",
    nodes=3,
    min_nodes=2,
    workload=Workload(steps=100, collective=False),
    faults=(faults.PauseAgent("node0", at_s=20, for_s=60),),
    plans={"node0": NodePlan(start_s=0), "node1": NodePlan(start_s=1), "node2": NodePlan(start_s=1)},
    store_apart=True,
)
#: the machine of the store is switched on again, and knows nothing any more
STORE_ANEW = Scenario(
    name="store-anew",
    nodes=3,
    min_nodes=1,
    workload=Workload(steps=100, collective=False),
    plans={"node2": NodePlan(start_s=40)},
    rdzv_conf={"last_call_timeout": "5"},
    faults=(faults.CrashNode("store-host", at_s=20, reboot_after_s=2),),
    store_apart=True,
)


# -- mistakes that need more than a line ----------------------------------------------------------------------


def _rank_twice(planned: Any, *args: Any, **kwargs: Any) -> Any:
    plan = planned(*args, **kwargs)
    last = plan.members[-1]
    return changed(plan, members=[*plan.members[:-1], changed(last, seat=changed(last.seat, group_rank=0))])


def _last_is_master(planned: Any, *args: Any, **kwargs: Any) -> Any:
    plan = planned(*args, **kwargs)
    return changed(
        plan,
        members=[
            changed(place, seat=changed(place.seat, master_addr=args[1][-1].card.address))
            for place in plan.members
        ],
    )


def _own_master(taken: Any, self: Any, seat: Any) -> Any:
    return taken(self, changed(seat, master_addr=self._connector.local_address))


def _own_port(taken: Any, self: Any, seat: Any) -> Any:
    return taken(self, changed(seat, master_port=self._reservation.port))


def _never_evicted(over: Any, head: Any, of_round: int) -> Any:
    found = over(head, of_round)
    return None if found is not None and found.kind == "evicted" else found


def _one_is_enough(look: Any, head: Any, gathering: Any, now_ns: int) -> Any:
    return look(changed(head, settings=changed(head.settings, min_nodes=1)), gathering, now_ns)


def _all_of_them(chosen: Any, head: Any, candidates: Any, now_ns: int) -> Any:
    return list(candidates)


def _leaving_fails(rung: Any, head: Any, node: str, of_round: int, ring: Any, *hosts: Any) -> Any:
    made = rung(head, node, of_round, ring, *hosts)
    leaves = made is not None and ring.action == "membership" and "leaves" in ring.reason
    return changed(made, phase="failed", why=ring.reason) if leaves else made


def _counts_nothing(rung: Any, head: Any, *args: Any) -> Any:
    made = rung(head, *args)
    return None if made is None else changed(made, restarts=head.restarts)


def _counts_twice(rung: Any, head: Any, *args: Any) -> Any:
    made = rung(head, *args)
    return None if made is None else changed(made, restarts=2 * made.restarts - head.restarts)


def _one_is_left(judge: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    return judge(self, *args, **{**kwargs, "remaining": 1})


def _deaf_to_failure(wait_for_end: Any, self: Any) -> Any:
    over = self._seen_over

    def succeeded() -> Any:
        found = over()
        return None if found is not None and found.kind == "failed" else found

    self._seen_over = succeeded
    return wait_for_end(self)


def _first_is_last(arrive: Any, self: Any, number: int, group_rank: int, size: int) -> None:
    arrive(self, number, group_rank, 1)


def _a_tenth(look: Any, self: Any, value: Any, now_ns: int, gap_max_ns: int) -> int:
    return look(self, value, now_ns, gap_max_ns // 10)


def _watches_nothing(wait: Any, self: Any) -> None:
    self._answered = -1
    wait(self)


def _at_the_20th(look: Any, self: Any, *args: Any) -> str:
    why = look(self, *args)
    self.asked = getattr(self, "asked", 0) + bool(why)
    return why if self.asked >= 20 else ""


def _commits_over_changes(change: Any, self: Any, make: Any, *, ring: bool = True) -> bool:
    if ring:
        return change(self, make)
    seen = self.head

    def without_the_check(now: Any) -> Any:
        made = make(changed(now, version=seen.version, coordinator=self.node))
        return made and changed(made, version=now.version + 1)

    return change(self, without_the_check, ring=False)


def _asks_again(call: Any, self: Any, operation: Any, *, once: bool = False) -> Any:
    return call(self, operation)


def _of_any_round(step: Any, head: Any, node: str, of_round: int, *args: Any) -> Any:
    return step(head, node, head.round, *args)


def _hears_nothing(take_heard: Any, self: Any) -> bool:
    self._heard.clear()
    return False


def _tells_once(tell: Any, self: Any, operation: Any, *, lasting: bool = True) -> None:
    tell(self, operation, lasting=False)


def _looks_for_each(look: Any, self: Any) -> None:
    for _ in range(self.desk.settings.max_nodes):
        look(self)


def _looked_just_now(look: Any, self: Any) -> None:
    look(self)
    self.looked_ns = self.desk.clock.now_ns()


def _own_report(report: Any, self: Any) -> Any:
    return changed(report(self), failures=[])


MUTANTS: tuple[Mutant, ...] = (
    # -- 1 ------------------------------------------------------------------------------------------------
    Mutant("a rank is given twice", 1, "ranks-exact", planted("planned", _rank_twice), gallery("happy")),
    # -- 2 ------------------------------------------------------------------------------------------------
    Mutant(
        "the last member is the master",
        2,
        "one-master",
        planted("planned", _last_is_master),
        gallery("happy"),
    ),
    Mutant(
        "each member is its own master",
        2,
        "one-master",
        planted("RallyRendezvous._taken", _own_master),
        gallery("happy"),
    ),
    Mutant(
        "each member takes its own port",
        2,
        "one-master",
        planted("RallyRendezvous._taken", _own_port),
        gallery("moved-rank-0"),
    ),
    # -- 3 ------------------------------------------------------------------------------------------------
    Mutant(
        "an evicted agent does not notice",
        3,
        "one-round-running",
        all_of(planted("over", _never_evicted), planted("Keeper._take_heard", _hears_nothing)),
        stopped_for_a_while(),
    ),
    Mutant(
        "workers start without a look",
        3,
        "one-round-running",
        planted("RallyRendezvous.still_in", lambda *_: True),
        anywhere("pause"),
    ),
    Mutant(
        "an old answer counts as a look",
        3,
        "one-round-running",
        planted("Keeper._look", _looked_just_now),
        anywhere("pause"),
    ),
    Mutant(
        "another store at the same address is taken for the job's",
        3,
        "one-round-running",
        planted("Birth.is_that_of", lambda *_: True),
        written(STORE_ANEW),
    ),
    # -- 4 ------------------------------------------------------------------------------------------------
    Mutant(
        "min_nodes is not looked at",
        4,
        "size-in-bounds",
        all_of(planted("look", _one_is_enough), planted("Coordinator._is_too_early", lambda *_: False)),
        written(ONE_SHORT),
    ),
    Mutant(
        "max_nodes is not looked at", 4, "size-in-bounds", planted("chosen", _all_of_them), written(TOO_MANY)
    ),
    Mutant(
        "one that leaves fails the job",
        4,
        "no-needless-end",
        planted("rung", _leaving_fails),
        written(LEAVES),
    ),
    Mutant(
        "a failure in an old round fails the job",
        4,
        "no-needless-end",
        planted("failed", _of_any_round),
        stopped_for_a_while(plans=FAILS_MEANWHILE, max_restarts=0),
    ),
    Mutant(
        "a plan is committed over a head that has changed",
        4,
        "no-needless-end",
        planted("Desk.change", _commits_over_changes),
        anywhere("overlap"),
    ),
    # -- 5 ------------------------------------------------------------------------------------------------
    Mutant(
        "a restart is not counted",
        5,
        "job-restart-budget",
        planted("rung", _counts_nothing),
        written(FAILS_AGAIN),
    ),
    Mutant(
        "a restart is counted twice",
        5,
        "one-restart-count",
        planted("rung", _counts_twice),
        written(FAILS_AGAIN),
    ),
    Mutant(
        "a failure in an old round is counted",
        5,
        "one-restart-count",
        planted("rung", _of_any_round),
        stopped_for_a_while(plans=FAILS_MEANWHILE, max_restarts=1),
    ),
    Mutant(
        "the budget is not looked at",
        5,
        "job-restart-budget",
        planted("RestartPolicy.judge", _one_is_left),
        written(FAILS_AGAIN),
    ),
    Mutant(
        "who flaps is not held back",
        5,
        "membership-restarts-bounded",
        planted("hold_s", lambda *_: 0.0),
        gallery("flapping-joiner"),
    ),
    # -- 6 ------------------------------------------------------------------------------------------------
    Mutant(
        "success is not claimed",
        6,
        "no-restart-after-success",
        planted("finishing", lambda *_: None),
        gallery("late-joiner"),
    ),
    Mutant(
        "success in an old round ends restarts",
        6,
        "no-needless-end",
        planted("finishing", _of_any_round),
        stopped_for_a_while(plans=SUCCEEDS_MEANWHILE),
    ),
    # -- 7 ------------------------------------------------------------------------------------------------
    Mutant(
        "the first to finish ends the job",
        7,
        "exit-barrier",
        planted("Keeper.arrive", _first_is_last),
        gallery("barrier-blocks-beat"),
    ),
    Mutant(
        "who asks again is counted again",
        7,
        "exit-barrier",
        planted("Link.call", _asks_again),
        lambda: ONE_BY_ONE.strikes("one-by-one"),
    ),
    Mutant(
        "what a broken connection took is not told again",
        7,
        "everyone-ends",
        planted("Link.tell", _tells_once),
        anywhere("lost-request"),
    ),
    Mutant(
        "the exit barrier is deaf to failure",
        7,
        "everyone-ends",
        planted("RallyRendezvous.wait_for_end", _deaf_to_failure),
        gallery("barrier-after-failure"),
    ),
    Mutant(
        "each agent tells of its own failure",
        7,
        "same-result",
        planted("RallyRendezvous.report", _own_report),
        written(BOTH_FAIL),
    ),
    Mutant(
        "without a coordinator nobody writes the report",
        7,
        "same-result",
        planted("Keeper.write_report", lambda *_: None),
        written(NOBODY_WRITES),
    ),
    Mutant(
        "nobody takes over",
        7,
        "everyone-ends",
        planted("Succession.look", lambda *_: ""),
        anywhere("crash"),
    ),
    # -- 8 ------------------------------------------------------------------------------------------------
    Mutant(
        "the lease is ten times as long",
        8,
        "dead-node-noticed",
        planted("Standstill.look", _a_tenth),
        gallery("silent-node-loss"),
    ),
    Mutant(
        "nobody is ever lost",
        8,
        "dead-node-noticed",
        planted("Coordinator._judge", lambda *_: None),
        gallery("silent-node-loss"),
    ),
    Mutant(
        "no heart watches the store while the agent's loop rests",
        8,
        "dead-node-noticed",
        planted("Heart._wait_for_beat", _watches_nothing),
        written(HOST_DIES),
    ),
    Mutant(
        "a coordinator is replaced late",
        8,
        "hung-coordinator-noticed",
        planted("Succession.look", _at_the_20th),
        written(COORDINATOR_HANGS),
    ),
    # -- 9 ------------------------------------------------------------------------------------------------
    Mutant(
        "who waits polls",
        9,
        "operations-bounded",
        planted("Keeper._beat_s", lambda *_: 0.05),
        written(COMES_LATE),
    ),
    Mutant(
        "each look looks again for each node",
        9,
        "operations-bounded",
        planted("Keeper._look", _looks_for_each),
        written(replace(COMES_LATE, nodes=12, min_nodes=12)),
    ),
)
