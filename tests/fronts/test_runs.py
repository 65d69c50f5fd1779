"""`rally runs`: the list of recent runs."""

from __future__ import annotations

import io
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from toolkit.adapters.recording.directory import RunDirectory, fresh_run_directory
from toolkit.core import events as ev
from toolkit.fronts import runs
from toolkit.fronts.pruning import prune_command
from toolkit.fronts.runs import runs_command
from toolkit.fronts.sim import sim_command

ROOT = Path(__file__).parents[2]
STARTED_NS = 1_790_000_000 * 10**9


def record(state_dir: Path, run_id: str, *, after_s: int, result: str, restarts: int = 0) -> RunDirectory:
    began_ns = STARTED_NS + after_s * 10**9
    directory = fresh_run_directory(state_dir, run_id, {}, started_wall_ns=began_ns)
    header = {"run_id": run_id, "node": "gpu-a_7", "restart_count": restarts}
    events: list[ev.Event] = [
        ev.AgentStarted(
            **header,
            seq=1,
            wall_ns=began_ns,
            pid=7,
            hostname="gpu-a",
            role="trainer",
            local_world_size=2,
            restarts_max=3,
            backend="solo",
            entrypoint="train.py",
        )
    ]
    if result:
        finish = ev.AgentFinished(
            **header, seq=2, wall_ns=began_ns + 10**10, result=result, reason="", duration_s=10.0
        )
        events.append(finish)
    directory.events_path("gpu-a_7").write_bytes(b"".join(ev.encode(event) + b"\n" for event in events))
    return directory


def listed(
    state_dir: Path, *, as_json: bool = False, limit: int = 20, alive: bool | None = None
) -> tuple[str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = runs_command(
        as_json=as_json,
        state_dir=state_dir,
        limit=limit,
        stdout=stdout,
        stderr=stderr,
        is_alive=lambda *_: alive,
    )
    assert code == 0
    return stdout.getvalue(), stderr.getvalue()


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    record(tmp_path, "first", after_s=0, result="SUCCEEDED", restarts=2)
    record(tmp_path, "second", after_s=60, result="FAILED")
    record(tmp_path, "third", after_s=120, result="")
    head, third, second, first = listed(tmp_path, alive=False)[0].splitlines()
    assert head.split() == ["STATE", "RUN", "STARTED", "TOOK", "NODES", "RESTARTS", "ENTRYPOINT"]
    assert third.split()[:3] == ["✗", "vanished", "20260921-141520.000-third"]
    assert second.split()[:3] == ["✗", "failed", "20260921-141420.000-second"]
    assert first.split()[:3] == ["✓", "succeeded", "20260921-141320.000-first"]
    assert first.split()[-5:] == ["10.0", "s", "1", "2", "train.py"]


def test_runs_as_json(tmp_path: Path) -> None:
    directory = record(tmp_path, "a b", after_s=0, result="SUCCEEDED", restarts=1)
    (row,) = json.loads(listed(tmp_path, as_json=True)[0])
    assert row == {
        "name": directory.path.name,
        "run_id": "a b",
        "path": str(directory.path),
        "state": "succeeded",
        "result": "SUCCEEDED",
        "started": "2026-09-21T14:13:20.000Z",
        "duration_s": 10.0,
        "entrypoint": "train.py",
        "nodes": 1,
        "restarts": 1,
        "problem": "",
    }


def test_a_simulated_run_is_as_old_as_its_recording(tmp_path: Path) -> None:
    """By the clock of its world it would be removed with those of last winter."""
    pytest.importorskip("greenlet")
    sim = ["solo", "--run-dir", str(tmp_path / "one")]
    out, err = io.StringIO(), io.StringIO()
    assert sim_command(sim, environ={}, executable=sys.executable, stdout=out, stderr=err) == 0
    listed = io.StringIO()
    runs_command(as_json=True, state_dir=tmp_path, limit=5, stdout=listed, stderr=err)
    [row] = json.loads(listed.getvalue())
    assert row["entrypoint"] == "SIM solo" and row["duration_s"] > 0
    age_s = time.time() - datetime.fromisoformat(row["started"]).timestamp()
    assert -1 < age_s < 600
    given = {"to_bytes": None, "older_s": 86_400.0, "really": True, "stdout": out, "stderr": err}
    assert prune_command(state_dir=tmp_path, **given) == 0
    assert (tmp_path / "one").is_dir()


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    for number in range(5):
        record(tmp_path, f"job{number}", after_s=number, result="SUCCEEDED")
    assert len(json.loads(listed(tmp_path, as_json=True, limit=3)[0])) == 3


def test_a_run_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    directory = record(tmp_path, "job", after_s=0, result="SUCCEEDED")
    (directory.path / "run.json").write_text("\x1b[2J")
    text, _ = listed(tmp_path)
    assert "✗ unreadable" in text
    assert "is not a JSON object" in text
    assert "\x1b" not in text


def test_a_run_whose_agent_has_not_said_anything_yet_has_its_start(tmp_path: Path) -> None:
    fresh_run_directory(tmp_path, "job", {}, started_wall_ns=STARTED_NS)
    (row,) = json.loads(listed(tmp_path, as_json=True)[0])
    assert (row["state"], row["started"]) == ("unknown", "2026-09-21T14:13:20.000Z")
    (tmp_path / row["name"] / "run.json").write_text('{"started_wall_ns": 1e300}')
    assert json.loads(listed(tmp_path, as_json=True)[0])[0]["started"] == ""


def test_where_no_run_is_recorded_stderr_says_how_to_record_one(tmp_path: Path) -> None:
    stdout, stderr = listed(tmp_path / "absent")
    assert stdout == ""
    assert "`rally run` records one" in stderr
    assert listed(tmp_path / "absent", as_json=True) == ("[]\n", "")


def test_the_schema_that_is_written_down_is_that_of_the_code() -> None:
    path = ROOT / "toolkit" / "fronts" / "runs.schema.json"
    assert path.read_bytes() == runs.json_schema(), f"write `toolkit.fronts.runs.json_schema()` to {path}"
