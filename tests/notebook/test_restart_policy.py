"""`launch(restart_policy=...)`: a text, a value, or an object of one's own."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from toolkit import RestartPolicy, launch
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError
from toolkit.core.events import DecisionMade
from toolkit.core.restarts import FailureCause, PastRestart, RestartVerdict


@pytest.fixture
def crashes(tmp_path: Path) -> Path:
    path = tmp_path / "crashes.py"
    path.write_text("import sys\nsys.exit(7)\n")
    return path


class OnlyOnce:
    """Once, whatever it costs."""

    def __init__(self, most: int) -> None:
        self.most = most

    def judge(self, cause: FailureCause, past: tuple[PastRestart, ...], **given: Any) -> RestartVerdict:
        return RestartVerdict(len(past) < self.most, f"{cause.key}, {len(past)} of {self.most}", free=True)


def decided(policy: Any, script: Path, **options: Any) -> list[DecisionMade]:
    job = launch(script, restart_policy=policy, **options)
    result = job.wait(60)
    assert result is not None
    return [event for event in read_run(job.path).events() if isinstance(event, DecisionMade)]


@pytest.mark.parametrize("policy", ["crash-loop=2", RestartPolicy(crash_loop=2)])
def test_a_text_and_a_value_are_the_same(crashes: Path, policy: Any) -> None:
    restart, fail = decided(policy, crashes, max_restarts=9)
    assert (restart.action, restart.policy) == ("restart", "crash-loop=2")
    assert "crash loop: 2 failures in a row" in fail.reason


def test_an_object_goes_to_the_agent(crashes: Path) -> None:
    made = decided(OnlyOnce(2), crashes)
    assert [decision.action for decision in made] == ["restart", "restart", "fail"]
    assert "exit code 7, 2 of 2" in made[-1].reason


def test_a_class_of_a_cell_goes_by_value(crashes: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "from toolkit import RestartPolicy\n"
        "from toolkit.core.restarts import RestartVerdict\n"
        "class Cell(RestartPolicy):\n"
        "    def judge(self, cause, past, **given):\n"
        "        return RestartVerdict(not past, 'says a cell')\n",
        space,
    )
    made = decided(space["Cell"](), crashes, max_restarts=3)
    assert [decision.verdict for decision in made] == ["says a cell"] * 2


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("bakoff", "did you mean backoff?"),
        ("nowhere.py:Mine", "there is no file"),
        ("window=soon", "window=1h"),
        (3, "restart_policy is 3, which is of type int and no policy"),
        (OnlyOnce, "can't be called without arguments"),
        ({"window": 3}, "of type dict and no policy"),
    ],
)
def test_what_is_none_is_refused_before_anything_starts(
    crashes: Path, tmp_path: Path, policy: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        launch(crashes, restart_policy=policy, run_dir=tmp_path / "run")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_can_not_be_sent_is_named(crashes: Path) -> None:
    policy = OnlyOnce(1)
    policy.most = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match=r"can't be sent to the agent .*write it into a file"):
        launch(crashes, restart_policy=policy)
    assert "restart_policy" not in sys.modules
