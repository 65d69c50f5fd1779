"""Draws what goes wrong: a fault script from a tape, for a cluster of some size. Pure: it strikes nothing.

Swarm testing (Groce et al., ISSTA 2012): each family of faults is left out with p = 0.5, so that runs with few kinds
come up often; what one kind would hide, another run shows. Severities are log-uniform: short and long ones are alike
likely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from simulator import faults
from simulator.faults import Fault
from simulator.rng import Tape
from simulator.scenario import Scenario
from toolkit.core.errors import ConfigurationError

#: the smallest severity in seconds; the largest is an option
_SHORTEST_S = 0.1
_DEATH_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_WORKER_SIGNALS = ("SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGSTOP")


@dataclass(frozen=True, slots=True)
class Options:
    """What may be drawn.

    Args:
        until_s: faults strike before.
        faults_max: how many strike at the most.
        longest_s: how long one lasts at the most.
        families: which may be drawn; empty means all of `FAMILIES`.
        off: share of the families that is left out, from 0 to 1.
        deaths_max: nodes and agents that go for ever, at the most.

    Raises:
        ConfigurationError: a value that can't be.
    """

    until_s: float = 120.0
    faults_max: int = 5
    longest_s: float = 120.0
    families: tuple[str, ...] = ()
    off: float = 0.5
    deaths_max: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown:
            raise ConfigurationError(
                f"there is no family of faults {unknown[0]!r}; families are {', '.join(FAMILIES)}"
            )
        if not 0 <= self.off <= 1:
            raise ConfigurationError(f"off is {self.off}; give a share from 0 to 1")
        if not (0 < self.until_s < math.inf and _SHORTEST_S < self.longest_s < math.inf):
            raise ConfigurationError(
                f"until_s is {self.until_s:g} and longest_s {self.longest_s:g}; "
                f"give finite times, the latter above {_SHORTEST_S}"
            )
        if self.faults_max < 0 or self.deaths_max < 0:
            raise ConfigurationError(
                f"faults_max is {self.faults_max} and deaths_max {self.deaths_max}; give 0 or more"
            )


class _Draw:
    """Draws for one fault, each by its own label, so that leaving out one fault moves no other."""

    def __init__(self, tape: Tape, number: int, scenario: Scenario, options: Options) -> None:
        self._tape, self._number, self._options = tape, number, options
        self._scenario = scenario
        self.workers = min(scenario.workers_of(name) for name in scenario.node_names)
        self.target = self._target()
        # Rounded down, so that it is never after the limit.
        at_ms = math.floor(1000 * self.fraction("at") * min(options.until_s, scenario.limit_s))
        self.at_s = at_ms / 1000

    def fraction(self, what: str) -> float:
        return self._tape.fraction(f"nemesis/{self._number}/{what}")

    def below(self, what: str, bound: int) -> int:
        return self._tape.draw(f"nemesis/{self._number}/{what}", bound)

    def _target(self) -> str:
        # Half of the faults aim at somebody who matters.
        aims = (*faults.ROLES, "any") if self.below("aims", 2) else self._scenario.node_names
        return aims[self.below("target", len(aims))]

    def span_s(self, what: str = "for") -> float:
        """Log-uniform between the shortest and the longest time, in seconds."""
        exponent = self.fraction(what) * math.log(self._options.longest_s / _SHORTEST_S)
        return round(min(_SHORTEST_S * math.exp(exponent), self._options.longest_s), 3)

    def share(self, what: str, low: float, high: float) -> float:
        """Log-uniform between two positive numbers."""
        return round(low * math.exp(self.fraction(what) * math.log(high / low)), 6)

    def signed(self, what: str, value: float) -> float:
        return -value if self.below(what, 2) else value


def _crash(d: _Draw) -> Fault:
    return faults.CrashNode(d.target, d.at_s)


def _crash_at_operation(d: _Draw) -> Fault:
    return faults.CrashAtOperation(d.target, d.at_s, number=1 + d.below("number", 60))


def _pause_at_operation(d: _Draw) -> Fault:
    return faults.PauseAtOperation(d.target, d.at_s, number=1 + d.below("number", 60), for_s=d.span_s())


def _drop_at_operation(d: _Draw) -> Fault:
    number, answer_lost = 1 + d.below("number", 60), bool(d.below("lost", 2))
    return faults.DropAtOperation(d.target, d.at_s, number, answer_lost)


def _reboot(d: _Draw) -> Fault:
    return faults.CrashNode(d.target, d.at_s, reboot_after_s=d.span_s("back"))


def _pause(d: _Draw) -> Fault:
    return faults.PauseNode(d.target, d.at_s, for_s=d.span_s())


def _slow(d: _Draw) -> Fault:
    return faults.SlowNode(d.target, d.at_s, factor=d.share("factor", 1.5, 50), for_s=d.span_s())


def _agent_killed(d: _Draw) -> Fault:
    return faults.KillAgent(d.target, d.at_s)


def _agent_restarted(d: _Draw) -> Fault:
    return faults.KillAgent(d.target, d.at_s, restart_after_s=d.span_s("back"))


def _agent_stopped(d: _Draw) -> Fault:
    return faults.PauseAgent(d.target, d.at_s, for_s=d.span_s())


def _agent_signalled(d: _Draw) -> Fault:
    name = _DEATH_SIGNALS[d.below("signal", len(_DEATH_SIGNALS))]
    times, every_s = 1 + d.below("times", 3), d.share("every", 0.01, 10)
    return faults.SignalAgent(d.target, d.at_s, name, times, every_s)


def _worker(d: _Draw) -> Fault:
    name = _WORKER_SIGNALS[d.below("signal", len(_WORKER_SIGNALS))]
    return faults.KillWorker(d.target, d.at_s, d.below("rank", d.workers), name)


def _worker_error(d: _Draw) -> Fault:
    causes = sorted(faults.WORKER_CAUSES)
    return faults.FailWorker(
        d.target, d.at_s, d.below("rank", d.workers), causes[d.below("cause", len(causes))]
    )


def _worker_slow(d: _Draw) -> Fault:
    rank, factor = d.below("rank", d.workers), d.share("factor", 1.5, 50)
    return faults.SlowWorker(d.target, d.at_s, rank, factor, for_s=d.span_s())


def _partition(d: _Draw) -> Fault:
    return faults.Partition(d.target, d.at_s, for_s=d.span_s(), one_way=bool(d.below("one way", 2)))


def _latency(d: _Draw) -> Fault:
    return faults.SlowLinks(d.target, d.at_s, latency_s=d.share("latency", 0.001, 5), for_s=d.span_s())


def _drop(d: _Draw) -> Fault:
    return faults.ConnectionDrop(d.target, d.at_s)


def _stall(d: _Draw) -> Fault:
    return faults.StallStore("store-host", d.at_s, for_s=d.span_s())


def _clock(d: _Draw) -> Fault:
    match d.below("how", 3):
        case 0:
            return faults.ClockOffset(d.target, d.at_s, d.signed("way", d.span_s("by")))
        case 1:
            return faults.ClockStep(d.target, d.at_s, d.signed("way", d.span_s("by")))
        case _:
            return faults.ClockDrift(d.target, d.at_s, d.signed("way", d.share("share", 1e-5, 0.1)))


def _disk(d: _Draw) -> Fault:
    return faults.FillDisk(d.target, d.at_s, for_s=d.span_s())


def _spawn(d: _Draw) -> Fault:
    return faults.FailSpawn(d.target, d.at_s, d.below("rank", d.workers))


def _start(d: _Draw) -> Fault:
    return faults.SlowStart(d.target, d.at_s, extra_s=d.span_s("extra"), for_s=d.span_s())


FAMILIES: dict[str, Callable[[_Draw], Fault]] = {
    "crash": _crash,
    "crash-at-operation": _crash_at_operation,
    "pause-at-operation": _pause_at_operation,
    "drop-at-operation": _drop_at_operation,
    "reboot": _reboot,
    "pause": _pause,
    "slow": _slow,
    "agent-killed": _agent_killed,
    "agent-restarted": _agent_restarted,
    "agent-stopped": _agent_stopped,
    "agent-signalled": _agent_signalled,
    "worker": _worker,
    "worker-error": _worker_error,
    "worker-slow": _worker_slow,
    "partition": _partition,
    "latency": _latency,
    "drop": _drop,
    "stall": _stall,
    "clock": _clock,
    "disk": _disk,
    "spawn": _spawn,
    "start": _start,
}

#: after these a node has no agent any more
_DEADLY = ("crash", "crash-at-operation", "agent-killed", "agent-signalled")


def schedule(tape: Tape, scenario: Scenario, options: Options = Options()) -> tuple[Fault, ...]:
    """Faults for a scenario, in the order of their times; each is one that it accepts.

    Args:
        tape: draws; the same tape gives the same faults.
        scenario: whose cluster they strike; its own faults are not looked at.
        options: what may be drawn.
    """
    families = _families_in_force(tape, options)
    if not families:
        return ()
    drawn: list[Fault] = []
    deaths = 0
    for number in range(tape.draw("nemesis/count", options.faults_max + 1)):
        family = families[tape.draw(f"nemesis/{number}/family", len(families))]
        if family in _DEADLY:
            deaths += 1
            if deaths > options.deaths_max:
                continue
        drawn.append(FAMILIES[family](_Draw(tape, number, scenario, options)))
    return tuple(sorted(drawn, key=lambda fault: fault.at_s))


def _families_in_force(tape: Tape, options: Options) -> list[str]:
    names = options.families or tuple(FAMILIES)
    return [name for name in names if tape.fraction(f"nemesis/family/{name}") >= options.off]
