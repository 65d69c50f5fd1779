"""`rally check`: recordings of real and of simulated runs, held against the promises."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from simulator import Fail, Scenario, Workload, simulate
from tests.simulator.test_checkers import START_NS, Story
from toolkit.adapters.recording.directory import fresh_run_directory
from toolkit.core import events as ev
from toolkit.fronts import check, cli
from toolkit.fronts.check import check_command, sessions_of

ROOT = Path(__file__).parents[2]


def record(state_dir: Path, said: Sequence[ev.Event], run: dict[str, Any] | None = None) -> Path:
    run_id = said[0].run_id if said else "job"
    directory = fresh_run_directory(state_dir, run_id, run or {}, started_wall_ns=START_NS)
    for node in dict.fromkeys(event.node for event in said):
        lines = [ev.encode(event) + b"\n" for event in said if event.node == node]
        directory.events_path(node).write_bytes(b"".join(lines))
    return directory.path


def checked(state_dir: Path, run: str, *, as_json: bool = False) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = check_command(run, as_json=as_json, state_dir=state_dir, stdout=stdout, stderr=stderr)
    return code, stdout.getvalue(), stderr.getvalue()


def good() -> Story:
    story = Story()
    story.start("a")
    story.start("b")
    story.formed("a", "b")
    story.pass_s(10)
    story.succeed("a", "b")
    return story


BOUNDS = {"min_nodes": 2, "max_nodes": 2}


def test_a_good_run_holds(tmp_path: Path) -> None:
    path = record(tmp_path, good().events, BOUNDS)
    code, text, error = checked(tmp_path, str(path))
    assert (code, error) == (0, "")
    assert text.startswith("✓ job promises: 22 held, 4 not judged\n")
    assert "✓ one-master                    all members of a round hold the same master address" in text
    assert "- dead-node-noticed" in text and "not judged: only the simulator knows who died" in text


def test_a_broken_promise_is_told_in_words(tmp_path: Path) -> None:
    story = good()
    story.say("a", ev.GroupStateChanged, before="SUCCEEDED", after="HEALTHY")
    code, text, _ = checked(tmp_path, str(record(tmp_path, story.events, BOUNDS)))
    assert code == 1
    assert "✗ legal-states" in text and "      a: its group went from SUCCEEDED to HEALTHY" in text


def test_a_recording_without_an_end_is_undetermined(tmp_path: Path) -> None:
    unfinished = [event for event in good().events if not isinstance(event, ev.AgentFinished)]
    code, text, _ = checked(tmp_path, str(record(tmp_path, unfinished, BOUNDS)))
    assert code == 3
    assert "undetermined: a, b have no end in the recording" in text


def test_without_the_bounds_they_are_not_judged(tmp_path: Path) -> None:
    record(tmp_path, good().events, {"min_nodes": "two", "max_nodes": True})
    code, text, _ = checked(tmp_path, "job")
    assert code == 0
    assert "not judged: how many nodes a round may have is not recorded" in text


@pytest.mark.parametrize("name", ["nothing", "", "/nowhere/at/all", "no\0pe"])
def test_a_run_that_is_not_there_is_bad_input(tmp_path: Path, name: str) -> None:
    record(tmp_path, good().events)
    code, text, error = checked(tmp_path, name)
    assert (code, text) == (2, "")
    assert error.startswith("rally check: ")


def test_a_recording_without_events_is_bad_input(tmp_path: Path) -> None:
    code, _, error = checked(tmp_path, str(record(tmp_path, [])))
    assert code == 2 and "has no events" in error


def test_too_many_events_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "EVENTS_MAX", 5)
    code, _, error = checked(tmp_path, str(record(tmp_path, good().events)))
    assert code == 2 and "more than 5 events" in error


def test_json_has_what_its_schema_says(tmp_path: Path) -> None:
    story = good()
    story.say("a", ev.GroupStateChanged, before="SUCCEEDED", after="HEALTHY")
    code, text, _ = checked(tmp_path, str(record(tmp_path, story.events, BOUNDS)), as_json=True)
    said = msgspec.json.decode(text, type=check.CheckSummary)
    assert code == 1 and said.verdict == "broken"
    assert {broken.promise for broken in said.broken} == {"legal-states", "events-complete"}
    assert (said.nodes, said.events, said.sessions) == (2, len(story.events), 1)
    assert "one-master" in said.held and "no-needless-end" in [found.promise for found in said.not_judged]


def test_the_schema_that_is_written_down_is_that_of_the_code() -> None:
    path = ROOT / "toolkit" / "fronts" / "check.schema.json"
    assert path.read_bytes() == check.json_schema(), f"write `toolkit.fronts.check.json_schema()` to {path}"


def test_nothing_in_a_recording_can_command_the_terminal(tmp_path: Path) -> None:
    story = Story()
    story.start("a\x1b[31m")
    story.say("a\x1b[31m", ev.GroupStateChanged, before="HEALTHY", after="\x1b]0;owned\x07")
    _, text, _ = checked(tmp_path, str(record(tmp_path, story.events)))
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[31m" in text


def test_jobs_that_ran_one_after_another_are_judged_one_by_one(tmp_path: Path) -> None:
    first, second = good(), good()
    later = [_later(event, 3600) for event in second.events]
    said = [*first.events, *later]
    assert [len(session) for session in sessions_of(said)] == [len(first.events), len(second.events)]
    code, text, _ = checked(tmp_path, str(record(tmp_path, said, BOUNDS)))
    assert code == 0, text
    assert "It holds 2 jobs that ran one after another; all are judged." in text


def _later(event: ev.Event, seconds: int) -> ev.Event:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    moved = {"mono_ns": event.mono_ns + seconds * 10**9, "wall_ns": event.wall_ns + seconds * 10**9}
    return type(event)(**{**fields, **moved})


def test_an_agent_that_comes_while_others_run_begins_no_new_job() -> None:
    story = good()
    story.start("c")
    begun = Story()
    begun.start("a")
    begun.start("c")
    assert len(sessions_of(story.events)) == 2 and len(sessions_of(begun.events)) == 1


def test_a_simulated_run_that_holds_holds_as_a_recording(tmp_path: Path) -> None:
    workload = Workload(steps=20, failures=(Fail(rank=1, at_step=5, exit_code=-9),))
    report = simulate(Scenario("crash", local_world_size=2, solo=True, workload=workload), seed=1)
    code, text, _ = checked(tmp_path, str(record(tmp_path, report.events, {"min_nodes": 1, "max_nodes": 1})))
    assert report.verdict == "held" and code == 0, text


def test_the_command_line_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, good().events, BOUNDS)
    assert cli.main(["check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "held"
    assert cli.main(["check", str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check"])
