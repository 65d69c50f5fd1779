"""Prints the digests of scenarios, for another process to compare with its own: `python -m tests.simulator.digests`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from simulator import scenarios
from simulator.scenario import Scenario
from simulator.subjects import subject_named
from simulator.verify import Trace, traced

#: of scenarios that are about many nodes: enough of them to see a difference
_NODES = {"happy-64": "12", "join-contention": "12"}


def small(name: str) -> Scenario:
    """The scenario, with few nodes."""
    scenario = scenarios.named(name)
    return scenarios.with_settings(scenario, {"nodes": _NODES[name]}) if name in _NODES else scenario


def trace_of(name: str, subject: str, seed: int = 1) -> Trace:
    """One run of it."""
    return traced(small(name), subject_named(subject), seed)


def digests(names: Sequence[str], subjects: Sequence[str]) -> dict[str, str]:
    """Of all of them, by "scenario/subject"."""
    return {
        f"{name}/{subject}": fingerprint(trace_of(name, subject)) for name in names for subject in subjects
    }


def fingerprint(trace: Trace) -> str:
    """The digest of the run and one of what its agents said and how they ended."""
    import hashlib

    said = "\n".join((*trace.events, *trace.outcome)).encode()
    return f"{trace.digest} {hashlib.blake2b(said, digest_size=16).hexdigest()}"


if __name__ == "__main__":
    print(json.dumps(digests(sys.argv[2].split(","), sys.argv[1].split(","))))
