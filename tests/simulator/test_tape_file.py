"""Tapes as files: they come back as they were, and nothing else does. (What is refused: `tests/fronts/test_sim.py`.)"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import faults, tape_file
from simulator.rng import Choice
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Fail, Workload
from toolkit.core.errors import ConfigurationError

SCENARIO = Scenario(
    name="mine",
    about="for people",
    nodes=2,
    workload=Workload(steps=7, failures=(Fail(0, at_step=3),)),
    plans={"node1": NodePlan(start_s=5.0)},
    faults=(faults.CrashNode("node0", at_s=3.5),),
)
VERSIONS = {"rally": "0.1.0", "torch": "2.13.0"}


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    bound = draw(st.integers(1, 1 << 40))
    return Choice(draw(st.text(max_size=12)), draw(st.integers(0, bound - 1)), bound)


@given(st.lists(choices(), max_size=30), st.integers(), st.booleans())
def test_a_tape_comes_back(made: list[Choice], seed: int, packed: bool) -> None:
    seed %= 1 << 63
    tape = tape_file.recorded(SCENARIO, "torch", seed, VERSIONS, made)
    with TemporaryDirectory() as folder:
        path = Path(folder, "tape.gz" if packed else "tape")
        tape_file.save(path, tape)
        assert tape_file.load(path) == tape
    tape.check(SCENARIO, "torch", VERSIONS)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_in_words(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "tape")
        path.write_bytes(data)
        with pytest.raises(ConfigurationError, match="tape"):
            tape_file.load(path)


@given(st.data())
def test_a_spoiled_tape_is_a_tape_or_refused_in_words(data: st.DataObject) -> None:
    tape = tape_file.recorded(SCENARIO, "rally", 1, VERSIONS, [Choice("coin", 1, 2)] * 5)
    with TemporaryDirectory() as folder:
        path = Path(folder, "tape")
        tape_file.save(path, tape)
        spoiled = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(spoiled) - 1))
        spoiled[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        path.write_bytes(bytes(spoiled))
        try:
            found = tape_file.load(path)
        except ConfigurationError as error:
            assert "\n" not in str(error)
        else:
            assert all(0 <= choice.value < choice.bound for choice in found.choices)


def test_what_people_read_decides_nothing() -> None:
    from dataclasses import replace

    tape = tape_file.recorded(SCENARIO, "rally", 1, VERSIONS, ())
    tape.check(replace(SCENARIO, about="other words", note="a note", source="elsewhere"), "rally", VERSIONS)
    with pytest.raises(ConfigurationError, match="max_restarts was as by default"):
        tape.check(replace(SCENARIO, max_restarts=9), "rally", VERSIONS)


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"rally": "0.1.0", "torch": "2.6.0"}, "torch 2.13.0, and this is 2.6.0"),
        ({"rally": "0.2.0", "torch": "2.13.0"}, "rally 0.1.0, and this is 0.2.0"),
        ({"rally": "0.1.0"}, "torch 2.13.0, and this is absent"),
    ],
)
def test_another_version_is_another_run(versions: dict[str, str], words: str) -> None:
    tape = tape_file.recorded(SCENARIO, "rally", 1, VERSIONS, ())
    with pytest.raises(ConfigurationError, match=words):
        tape.check(SCENARIO, "rally", versions)
