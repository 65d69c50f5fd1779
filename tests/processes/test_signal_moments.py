"""A signal at 40 moments of a run that starts, fails, restarts and succeeds: nothing is left, the exit code and the
recording say why.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from toolkit.adapters.recording.layout import RUN_FILE
from toolkit.core.events import AgentFinished, SignalReceived

from .conftest import Rally
from .jobs import LONG_S, REPOSITORY, Job, until
from .moments import PHASES, Hit, Moment, install

GRACE_S = 2
#: jobs at one time
AT_ONCE = 4

#: Of its two lives the first one ends with a failure; who is stopped takes a moment for it. A shell starts fast.
WORKER = """\
#!/bin/sh
if [ "$TORCHELASTIC_RESTART_COUNT" = 0 ]; then
    if [ "$LOCAL_RANK" = 1 ]; then
        until [ -e "$PLACE/up" ]; do sleep 0.01; done
        sleep 0.05
        exit 3
    fi
    trap 'sleep 0.1; exit 0' TERM INT HUP
    : > "$PLACE/up"
    while :; do sleep 0.02; done
fi
sleep 0.1
"""

MOMENTS = (
    *(Moment("start", steps) for steps in (1, 100, 300, 600, 900, 1200, 1500)),
    *(Moment("recorded", steps) for steps in (1, 5, 20)),
    *(Moment("starting", steps) for steps in (1, 4, 8)),
    *(Moment("running", ms=ms) for ms in (0.1, 10, 30)),
    *(Moment("failing", steps) for steps in (1, 2)),
    *(Moment("stopping", ms=ms) for ms in (0.1, 5, 20, 50, 90)),
    *(Moment("restarting", steps) for steps in (1, 3, 6)),
    *(Moment("running again", ms=ms) for ms in (0.1, 20, 50, 80)),
    *(Moment("finishing", steps) for steps in (1, 2)),
    *(Moment("over", steps) for steps in (1, 2, 3)),
    *(Moment("over", ms=ms) for ms in (0.1, 1)),
    Moment("exiting"),
    *(Moment("exiting", ms=ms) for ms in (0.5, 3)),
)


def test_there_are_forty() -> None:
    assert len(set(MOMENTS)) == 40
    assert {moment.phase for moment in MOMENTS} == set(PHASES)


class Shot:
    """One run that gets its signals at one moment."""

    def __init__(self, rally: Rally, folder: Path, moment: Moment, signals: Sequence[signal.Signals]) -> None:
        place = folder / "-".join([*moment.text.replace("|", " ").split(), *(sig.name for sig in signals)])
        place.mkdir()
        self.moment, self.signum, self._hit = moment, signals[0], place / "hit"
        run_dir = place / "run"
        self.job: Job = rally(
            *("--standalone", "--nproc-per-node", "2", "--max-restarts", "1"),
            *("--shutdown-timeout", str(GRACE_S), "--no-python", folder / "worker.sh"),
            run_dir=run_dir,
            env={
                "PLACE": str(place),
                "PYTHONPATH": os.pathsep.join([str(folder / "hook"), str(REPOSITORY)]),
                "MOMENT": moment.text,
                "MOMENT_SIGNALS": ",".join(str(int(sig)) for sig in signals),
                "MOMENT_RUN": str(run_dir),
                "MOMENT_HIT": str(self._hit),
            },
        )
        self.ended_s = 0.0

    def over(self) -> bool:
        """Whether it has ended; notes when that was seen."""
        if not self.ended_s and self.job.ended():
            self.ended_s = time.monotonic()
        return bool(self.ended_s)

    def judged(self) -> str:
        """The phase in which it was hit, after a look at how it ended."""
        told = f"{self.moment}; {self.job.told()}"
        assert self._hit.exists(), f"no signal came: {told}"
        hit = Hit.of(self._hit)
        code, name = self.job.wait(), self.signum.name
        assert self.ended_s - hit.at_s < GRACE_S + 1, told
        if not hit.handled:
            assert (hit.phase, code) == ("start", -self.signum), told
            return hit.phase
        assert "Traceback" not in self.job.stderr, told
        assert "ignored" not in self.job.stderr, told
        if not (self.job.run_dir / RUN_FILE).exists():
            assert code == 128 + self.signum, told
            assert self.job.stderr == f"rally run: stopped by {name} before anything was started\n"
            return hit.phase
        [finished] = self.job.events(AgentFinished)
        heard = [event.signal for event in self.job.events(SignalReceived)]
        if hit.phase in ("over", "exiting") or finished.result == "SUCCEEDED":
            assert (code, finished.result, heard) == (0, "SUCCEEDED", []), f"{hit}: {told}"
            assert hit.phase in ("finishing", "over", "exiting"), f"{hit}: {told}"
        else:
            assert (code, finished.result, heard) == (128 + self.signum, "SIGNAL", [name]), f"{hit}: {told}"
            assert finished.reason == f"the agent got {name}"
            assert f"stopped by {name}" in self.job.stderr
        assert self.job.timeline().state in ("stopped", "succeeded")
        return hit.phase


@pytest.fixture
def range_(tmp_path: Path) -> Path:
    """A folder with the hook and the worker's script."""
    (tmp_path / "hook").mkdir()
    install(tmp_path / "hook")
    worker = tmp_path / "worker.sh"
    worker.write_text(WORKER)
    worker.chmod(0o755)
    return tmp_path


def shots(rally: Rally, folder: Path, signals: Sequence[signal.Signals]) -> Iterator[Shot]:
    """All of them, some at a time, each after its end."""
    for first in range(0, len(MOMENTS), AT_ONCE):
        some = [Shot(rally, folder, moment, signals) for moment in MOMENTS[first : first + AT_ONCE]]
        until("the end of these runs", partial(all_over, some), LONG_S)
        yield from some


def all_over(some: Sequence[Shot]) -> bool:
    """Whether all of them have ended; looks at each, so that none is seen late."""
    return sum(shot.over() for shot in some) == len(some)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGTERM] * 3, [signal.SIGINT], [signal.SIGHUP]],
    ids=["SIGTERM", "SIGTERM thrice", "SIGINT", "SIGHUP"],
)
def test_a_signal_at_forty_moments(rally: Rally, range_: Path, signals: list[signal.Signals]) -> None:
    hit = [shot.judged() for shot in shots(rally, range_, signals)]
    assert set(hit) == set(PHASES), "each phase was hit"
