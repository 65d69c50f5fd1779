"""`rally runs --prune-to` and `--prune-older`."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from toolkit.adapters.recording.directory import fresh_run_directory
from toolkit.fronts import cli
from toolkit.fronts.pruning import prune_command

from .test_runs import record

DAY_S = 86_400
#: of what is recorded here, none is younger
_OLD_S = -200 * DAY_S


def prune(
    state_dir: Path, *, to: int | None = None, older: float | None = None, yes: bool = True
) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    assert (
        prune_command(state_dir=state_dir, to_bytes=to, older_s=older, really=yes, stdout=out, stderr=err)
        == 0
    )
    return out.getvalue(), err.getvalue()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Runs with logs of 1 MB each, a day apart."""
    for number in range(3):
        run = record(tmp_path, f"run{number}", after_s=_OLD_S + number * DAY_S, result="SUCCEEDED")
        (run.path / "logs").mkdir()
        (run.path / "logs" / "stdout.log").write_bytes(b"x" * 1_000_000)
    return tmp_path


def names(state_dir: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[2] for path in state_dir.iterdir())


def test_what_would_go_is_listed_and_stays(three: Path) -> None:
    out, err = prune(three, to=2_500_000, yes=False)
    [line] = out.splitlines()
    assert line.startswith("would go")
    assert "1.0 MB" in line
    assert "-run0" in line
    assert err == "1 run (1.0 MB) would go, 2 runs (2.0 MB) stay; --yes removes them\n"
    assert names(three) == ["run0", "run1", "run2"]


def test_the_oldest_go_until_the_others_fit(three: Path) -> None:
    out, err = prune(three, to=1_500_000)
    assert [line.split()[0] for line in out.splitlines()] == ["removed", "removed"]
    assert names(three) == ["run2"]
    assert err == "removed 2 runs (2.0 MB); 1 run (1.0 MB) stay\n"
    assert prune(three, to=1_500_000) == ("", "nothing to remove; 1 run (1.0 MB) stay\n")


def test_those_that_are_old_go(three: Path) -> None:
    prune(three, older=100_000 * DAY_S)
    assert names(three) == ["run0", "run1", "run2"]
    prune(three, older=0)
    assert names(three) == []


def test_what_may_still_run_stays(tmp_path: Path) -> None:
    record(tmp_path, "elsewhere", after_s=0, result="")
    beginning = {"host": os.uname().nodename, "pid": os.getpid()}
    fresh_run_directory(tmp_path, "beginning", beginning, started_wall_ns=2_000_000_000 * 10**9)
    broken = record(tmp_path, "broken", after_s=0, result="SUCCEEDED")
    (broken.path / "run.json").write_text("{")
    prune(tmp_path, to=0, older=0)
    assert names(tmp_path) == ["beginning", "broken", "elsewhere"]


def test_links_are_not_followed(three: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    kept = record(other, "kept", after_s=_OLD_S, result="SUCCEEDED")
    (three / "20200101-000000.000-link").symlink_to(kept.path)
    prune(three, to=0)
    assert kept.path.exists()
    assert names(three) == ["link"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-n", "0"], "--limit is 0; give at least 1 run"),
        (["--prune-to", "1MB", "--json"], "--json is for the list of runs"),
        (["--yes"], "--yes removes nothing by itself"),
        (["--prune-older", "soon"], "--prune-older is 'soon'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"rally runs: {words}")
