"""The kernel: time jumps, ties are drawn and repeatable, a crash is a power cut, a pause loses nothing."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Callable
from dataclasses import dataclass

import pytest

pytest.importorskip("greenlet")

from simulator.kernel import SECOND, Kernel, LimitReached, Limits, TaskKilled
from simulator.rng import Tape, TapeMismatch


@dataclass(eq=False)
class Box:
    """Implements Owner."""

    name: str = "box"
    paused: bool = False


def kernel(seed: int = 0, **limits: int) -> Kernel:
    return Kernel(Tape(seed), Limits(**limits))


# -- time ---------------------------------------------------------------------------------------------------


def test_time_jumps_to_the_next_happening() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        hub.sleep(3600 * SECOND)
        seen.append(hub.now_ns)
        hub.sleep(1)
        seen.append(hub.now_ns)

    hub.spawn(run, "sleeper")
    assert hub.run() is False  # nothing is left, and no goal was given
    assert seen == [3600 * SECOND, 3600 * SECOND + 1]
    assert hub.steps == 3


def test_a_run_until_a_moment_ends_there_and_goes_on_later() -> None:
    hub, seen = kernel(), []
    hub.call_at(10, "happening", lambda: seen.append(hub.now_ns))
    assert hub.run(until_ns=5) is False
    assert (hub.now_ns, seen) == (5, [])
    hub.run(until_ns=20)
    assert (hub.now_ns, seen) == (20, [10])


def test_a_run_ends_as_soon_as_its_goal_is_reached() -> None:
    hub, seen = kernel(), []
    for at_ns in (1, 2, 3):
        hub.call_at(at_ns, "happening", lambda: seen.append(hub.now_ns))
    assert hub.run(lambda: len(seen) == 2) is True
    assert hub.now_ns == 2


def test_what_is_to_happen_in_the_past_happens_now() -> None:
    hub, seen = kernel(), []
    hub.call_at(10, "first", lambda: hub.call_at(3, "late", lambda: seen.append(hub.now_ns)))
    hub.call_at(20, "second", lambda: hub.call_after(-5, "late", lambda: seen.append(hub.now_ns)))
    hub.run()
    assert seen == [10, 20]


# -- waiting ------------------------------------------------------------------------------------------------


def test_a_wake_and_a_timeout_are_told_apart() -> None:
    hub, woken = kernel(), []

    def wait(timeout_ns: int) -> Callable[[], None]:
        return lambda: woken.append((timeout_ns, hub.park("something", timeout_ns), hub.now_ns))

    early, late = hub.spawn(wait(10), "early"), hub.spawn(wait(30), "late")
    for task in (early, late):
        hub.call_at(20, "wakes", lambda task=task: hub.wake(task))  # type: ignore[misc]
    hub.run()
    assert woken == [(10, False, 10), (30, True, 20)]


def test_a_wake_is_for_one_wait_only() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        hub.park("the first", 10)
        seen.append(hub.now_ns)
        hub.park("the second", 100)
        seen.append(hub.now_ns)

    task = hub.spawn(run, "sleeper")
    # It is on its way for the first wait when that one ends; the second one must not end by it.
    hub.call_at(5, "wakes", lambda: hub.wake(task, delay_ns=50))
    hub.run()
    assert seen == [10, 110]


def test_the_timeout_of_an_earlier_wait_does_not_end_a_later_one() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        assert hub.park("the first", 50) is True
        assert hub.park("the second") is True
        seen.append(hub.now_ns)

    task = hub.spawn(run, "waiter")
    hub.call_at(10, "wakes", lambda: hub.wake(task))
    hub.call_at(90, "wakes", lambda: hub.wake(task))
    hub.run()
    assert seen == [90]


def test_many_waits_with_long_timeouts_leave_one_timer() -> None:
    hub, woken = kernel(), []

    def run() -> None:
        for _ in range(1000):
            woken.append(hub.park("an answer", 3600 * SECOND))
        woken.append(hub.park("no answer", 3600 * SECOND))

    task = hub.spawn(run, "asker")
    for number in range(1000):
        hub.call_at(number + 1, "answers", lambda: hub.wake(task))
    hub.run(until_ns=2000)
    assert woken == [True] * 1000
    assert len(hub._times) == 1
    steps = hub.steps
    hub.run()
    # The timer of the first wait went off too early for the last one, which costs no step.
    assert (woken[-1], hub.now_ns, hub.steps - steps) == (False, 1000 + 3600 * SECOND, 1)


def test_short_waits_between_long_ones_leave_few_timers() -> None:
    hub, ends = kernel(), []

    def run() -> None:
        for _ in range(100):
            hub.park("an answer", 1000)
            hub.sleep(10)
            ends.append(hub.now_ns)
        assert hub.park("no answer", 500) is False
        ends.append(hub.now_ns)

    task = hub.spawn(run, "asker")
    for number in range(100):
        hub.call_at(11 * number + 1, "answers", lambda: hub.wake(task))
    hub.run(until_ns=1100)
    assert ends == [11 * (number + 1) for number in range(100)]
    assert len(hub._times) <= 2
    hub.run()
    assert ends[-1] == 1100 + 500


def test_a_wait_without_a_timeout_outlives_the_timer_of_an_earlier_one() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        hub.park("the first", 50)
        seen.append(hub.park("the second"))

    task = hub.spawn(run, "waiter")
    hub.call_at(10, "wakes", lambda: hub.wake(task))
    hub.call_at(50, "another thing", lambda: None)
    hub.call_at(90, "wakes", lambda: hub.wake(task))
    hub.run()
    assert (seen, hub.now_ns) == ([True], 90)


def test_who_goes_on_at_once_does_so_within_the_step() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        seen.append((hub.park("an answer", 100), hub.now_ns))
        hub.sleep(5)
        seen.append((False, hub.now_ns))

    task = hub.spawn(run, "asker")
    hub.call_at(10, "the answer", lambda: hub.go_on(task))
    hub.run()
    assert seen == [(True, 10), (False, 15)]
    assert hub.steps == 3  # its start, the answer, the sleep
    hub.go_on(task)  # it is done


def test_who_goes_on_at_once_while_paused_does_so_later() -> None:
    hub, box, seen = kernel(), Box(), []
    task = hub.spawn(lambda: seen.append((hub.park("an answer", 20), hub.now_ns)), "asker", box)

    def go_on() -> None:
        box.paused = False
        hub.resume(box)

    hub.call_at(5, "pause", lambda: setattr(box, "paused", True))
    hub.call_at(10, "the answer", lambda: hub.go_on(task))
    hub.call_at(50, "resume", go_on)
    hub.run()
    assert seen == [(True, 50)]


def test_only_a_happening_lets_a_task_go_on_at_once() -> None:
    hub = kernel()
    other = hub.spawn(lambda: hub.park("something"), "other")
    hub.spawn(lambda: hub.go_on(other), "task", None, 5)
    hub.run()
    assert "only out of a happening" in str(hub.crashes[0][1])
    hub.close()


def test_waking_who_is_done_or_killed_does_nothing() -> None:
    hub = kernel()
    done, killed = hub.spawn(lambda: None, "done"), hub.spawn(lambda: hub.sleep(5), "killed")
    hub.run(until_ns=0)
    hub.kill(killed)
    hub.wake(done)
    hub.wake(killed)
    steps = hub.steps
    hub.run()
    assert hub.steps == steps
    hub.close()


def test_only_tasks_wait() -> None:
    with pytest.raises(AssertionError, match="only a task can wait"):
        kernel().park("the hub itself")


def test_who_waits_for_what_can_be_told() -> None:
    hub = kernel()
    hub.spawn(lambda: hub.park("an answer"), "asker")
    assert hub.run() is False
    assert [(task.name, task.waits_for) for task in hub.waiting()] == [("asker", "an answer")]
    hub.close()


# -- ties ---------------------------------------------------------------------------------------------------


def order_of_ties(tape: Tape, tasks: int = 4) -> str:
    hub, order = Kernel(tape), []
    for name in "abcdefgh"[:tasks]:
        hub.spawn(lambda name=name: order.append(name), name)  # type: ignore[misc]
    hub.run()
    return "".join(order)


def test_ties_are_explored_by_the_seed() -> None:
    orders = {order_of_ties(Tape(seed), tasks=3) for seed in range(200)}
    assert len(orders) == 6  # each permutation


def test_ties_come_again_with_the_seed_and_with_the_tape() -> None:
    tape = Tape(7)
    order = order_of_ties(tape, tasks=8)
    assert order_of_ties(Tape(7), tasks=8) == order
    assert order_of_ties(Tape(99, tape.choices), tasks=8) == order


def test_the_digest_tells_runs_apart_and_only_runs() -> None:
    def digest(seed: int, name: str = "task") -> str:
        hub = kernel(seed)
        for index in range(5):
            hub.spawn(lambda: hub.sleep(3), f"{name}{index}")
        hub.run()
        return hub.digest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
    assert digest(1) != digest(1, "other")


def test_the_trace_keeps_the_latest_steps() -> None:
    hub = Kernel(Tape(0), trace_length=3)
    hub.spawn(lambda: [hub.sleep(1, f"sleep {n}") for n in range(5)], "sleeper")
    hub.run()
    assert [(entry.at_ns, entry.step) for entry in hub.trace] == [(3, 4), (4, 5), (5, 6)]
    assert hub.trace[-1].what == "timeout sleeper: sleep 4"
    hub.keep_trace(2)
    assert [entry.step for entry in hub.trace] == [5, 6]


# -- killing ------------------------------------------------------------------------------------------------


def test_a_kill_is_a_power_cut() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        try:
            hub.sleep(100)
            seen.append("went on")
        finally:
            seen.append("cleaned up")

    task = hub.spawn(run, "victim")
    hub.call_at(50, "power fails", lambda: hub.kill(task))
    hub.call_at(200, "later", lambda: None)
    hub.run()
    assert seen == []
    assert hub.waiting() == []
    hub.close()
    assert seen == ["cleaned up"]  # the memory has to go somewhere, but only when the run is over


def test_who_is_killed_before_its_start_never_starts() -> None:
    hub, seen = kernel(), []
    hub.kill(hub.spawn(lambda: seen.append("ran"), "victim"))
    hub.run()
    hub.close()
    assert seen == []


def test_clean_up_at_the_end_does_not_wait_any_more() -> None:
    hub, seen = kernel(), []

    def run() -> None:
        try:
            hub.park("for ever")
        except TaskKilled:
            try:
                hub.sleep(5)
            except TaskKilled:
                seen.append("no more sleep")
            raise

    hub.spawn(run, "stubborn")
    hub.run()
    hub.close()
    assert seen == ["no more sleep"]
    assert not hub.crashes


# -- pausing ------------------------------------------------------------------------------------------------


def test_a_paused_task_goes_on_when_its_owner_does() -> None:
    hub, box, seen = kernel(), Box(), []

    def run() -> None:
        hub.sleep(10)
        seen.append(("first", hub.now_ns))
        hub.sleep(10)
        seen.append(("second", hub.now_ns))

    def go_on() -> None:
        box.paused = False
        hub.resume(box)

    hub.spawn(run, "task", box)
    hub.call_at(5, "pause", lambda: setattr(box, "paused", True))
    hub.call_at(100, "resume", go_on)
    hub.run()
    # The timer was due during the pause; the next one counts from when it noticed.
    assert seen == [("first", 100), ("second", 110)]


def test_what_ended_a_wait_during_a_pause_is_known_after_it() -> None:
    hub, box, woken = kernel(), Box(), {}

    def wait(name: str) -> Callable[[], None]:
        return lambda: woken.update({name: hub.park("something", 20)})

    timed, rung = hub.spawn(wait("timed"), "timed", box), hub.spawn(wait("rung"), "rung", box)
    assert timed is not rung

    def go_on() -> None:
        box.paused = False
        hub.resume(box)

    hub.call_at(5, "pause", lambda: setattr(box, "paused", True))
    hub.call_at(10, "wakes", lambda: hub.wake(rung))  # before its timeout, which is due during the pause too
    hub.call_at(50, "resume", go_on)
    hub.run()
    assert woken == {"timed": False, "rung": True}


def test_a_wake_that_comes_many_times_during_a_pause_wakes_once() -> None:
    hub, box, seen = kernel(), Box(), []

    def run() -> None:
        hub.park("the first")
        seen.append(hub.now_ns)
        hub.park("the second")
        seen.append(hub.now_ns)

    task = hub.spawn(run, "task", box)

    def go_on() -> None:
        box.paused = False
        hub.resume(box)

    hub.call_at(5, "pause", lambda: setattr(box, "paused", True))
    for at_ns in range(10, 20):
        hub.call_at(at_ns, "wakes", lambda: hub.wake(task))
    hub.call_at(50, "resume", go_on)
    hub.run()
    assert seen == [50]
    hub.close()


def test_a_pause_right_after_a_resume_loses_nothing() -> None:
    hub, box, seen = kernel(), Box(), []
    hub.spawn(lambda: (hub.sleep(10), seen.append(hub.now_ns)), "task", box)

    def blink() -> None:
        box.paused = False
        hub.resume(box)
        box.paused = True

    def go_on() -> None:
        box.paused = False
        hub.resume(box)

    hub.call_at(5, "pause", lambda: setattr(box, "paused", True))
    hub.call_at(20, "blink", blink)
    hub.call_at(30, "resume", go_on)
    hub.run()
    assert seen == [30]


# -- bounds and crashes -------------------------------------------------------------------------------------


def forever(hub: Kernel) -> Callable[[], None]:
    def run() -> None:
        while True:
            hub.sleep(SECOND)

    return run


def test_a_run_has_a_limit_of_steps() -> None:
    hub = kernel(steps=100)
    hub.spawn(forever(hub), "endless")
    with pytest.raises(LimitReached, match="more than 100 steps"):
        hub.run()
    hub.close()


def test_a_run_has_a_limit_of_time() -> None:
    hub = kernel(time_ns=60 * SECOND)
    hub.spawn(forever(hub), "endless")
    with pytest.raises(LimitReached, match="more than 60 s of virtual time"):
        hub.run()
    assert hub.now_ns == 61 * SECOND
    hub.close()


def test_a_run_has_a_limit_of_tasks() -> None:
    hub = kernel(tasks=3)
    for _ in range(3):
        hub.spawn(forever(hub), "endless")
    with pytest.raises(LimitReached, match="more than 3 tasks"):
        hub.spawn(forever(hub), "one too many")
    hub.close()


def test_a_run_stops_when_told_to() -> None:
    hub = kernel()
    hub.spawn(forever(hub), "endless")
    hub.call_at(10 * SECOND, "somebody says so", lambda: hub.stop("stopped by hand"))
    with pytest.raises(LimitReached, match="stopped by hand"):
        hub.run()
    assert hub.now_ns <= 11 * SECOND
    hub.close()


def test_the_crash_of_a_task_is_kept_and_the_others_go_on() -> None:
    hub, seen = kernel(), []

    def crash() -> None:
        raise ValueError("a bug")

    task = hub.spawn(crash, "buggy")
    hub.spawn(lambda: (hub.sleep(5), seen.append(hub.now_ns)), "other")
    hub.run()
    assert [(who, str(error)) for who, error in hub.crashes] == [(task, "a bug")]
    assert seen == [5]


def test_what_ends_the_process_ends_the_run() -> None:
    hub = kernel()

    def interrupted() -> None:
        raise KeyboardInterrupt

    hub.spawn(interrupted, "task")
    with pytest.raises(KeyboardInterrupt):
        hub.run()
    hub.close()


def test_a_replay_that_asks_otherwise_stops_even_if_the_code_swallows_the_error() -> None:
    tape = Tape(1)
    tape.draw("coin", 2)

    hub, seen = Kernel(Tape(1, tape.choices)), []

    def run() -> None:
        try:
            hub.tape.draw("die", 6)
        except Exception:
            seen.append("swallowed")
        hub.sleep(5)
        seen.append("went on")

    hub.spawn(run, "task")
    with pytest.raises(TapeMismatch, match="'coin' of 2, and the run asks for 'die' of 6"):
        hub.run()
    assert seen == ["swallowed"]
    hub.close()


def test_on_done_is_told_of_ends_but_not_of_power_cuts() -> None:
    hub, told = kernel(), []
    for name in ("ends", "is killed"):
        task = hub.spawn(lambda: hub.sleep(10), name)
        task.on_done = lambda name=name: told.append(name)  # type: ignore[misc]
        if name == "is killed":
            hub.call_at(5, "kill", lambda task=task: hub.kill(task))  # type: ignore[misc]
    hub.run()
    hub.close()
    assert told == ["ends"]


# -- hygiene ------------------------------------------------------------------------------------------------


def test_context_variables_of_tasks_are_apart() -> None:
    hub, seen = kernel(), {}
    setting = contextvars.ContextVar("setting", default="outside")

    def run(name: str) -> Callable[[], None]:
        def body() -> None:
            assert setting.get() == "before"
            setting.set(name)
            hub.sleep(1)
            seen[name] = setting.get()

        return body

    token = setting.set("before")
    for name in ("a", "b"):
        hub.spawn(run(name), name)
    hub.run()
    assert seen == {"a": "a", "b": "b"}
    assert setting.get() == "before"
    setting.reset(token)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_garbage_collector_rests_during_a_run_and_is_as_before_afterwards(
    enabled: bool, fails: bool
) -> None:
    was, seen = gc.isenabled(), []
    hub = kernel(steps=1 if fails else 100)
    hub.spawn(lambda: (hub.sleep(1), seen.append(gc.isenabled())), "task")
    hub.spawn(lambda: seen.append(gc.isenabled()), "task")
    try:
        (gc.enable if enabled else gc.disable)()
        try:
            hub.run()
        except LimitReached:
            assert fails
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
    hub.close()
    assert not any(seen)


def test_tasks_nest_in_depth_and_number() -> None:
    hub, done = kernel(), []

    def run(depth: int) -> None:
        if depth:
            run(depth - 1)
        else:
            hub.sleep(1)

    def body() -> None:
        run(200)
        done.append(1)

    for _ in range(500):
        hub.spawn(body, "deep")
    hub.run()
    assert len(done) == 500
    assert not hub.tasks
