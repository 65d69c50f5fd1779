"""The demo keeps its promise with a real job, and leaves nothing behind when it is interrupted."""

import io
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from toolkit.core.errors import ConfigurationError
from toolkit.demo.scenario import demo_command
from toolkit.fronts.show import show_command

REPOSITORY = Path(__file__).parents[2]


def run_demo(state_dir: Path, workers: int) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()

    def show(run: Path) -> int:
        return show_command(str(run), as_json=False, state_dir=state_dir, stdout=stdout, stderr=stderr)

    code = demo_command(
        state_dir=state_dir, workers=workers, environ=os.environ, stdout=stdout, stderr=stderr, show=show
    )
    return code, stdout.getvalue(), stderr.getvalue()


def test_no_workers_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--workers is 0"):
        run_demo(tmp_path, workers=0)


def test_a_missing_library_is_named_with_the_extra_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # what Python takes for "can't be imported"
    with pytest.raises(ConfigurationError, match=r"sklearn.*pip install 'rallypoint\[demo\]'"):
        run_demo(tmp_path, workers=2)
    assert not list(tmp_path.iterdir()), "nothing was started"


@pytest.mark.torch
@pytest.mark.slow
def test_a_killed_worker_comes_back_and_the_training_reaches_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(REPOSITORY)  # the job imports toolkit from where it is started, if it is not installed
    code, stdout, stderr = run_demo(tmp_path, workers=2)
    assert code == 0, stderr
    assert "killed with SIGKILL" in stderr
    assert "the agent noticed after" in stderr
    assert "2 workers again after" in stderr
    assert "resumed from the checkpoint of epoch 3" in stdout
    assert "final test accuracy" in stdout
    assert "was killed by SIGKILL" in stdout, "the summary of `rally show`"


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process(tmp_path: Path, signum: signal.Signals) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "toolkit.fronts.cli", "demo", "--workers", "2"]
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"TEST_MARK": mark, "XDG_STATE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        ) as demo,
    ):
        try:
            assert demo.stdout is not None
            # Ends with the job if the line never comes; the suite's time limit bounds the rest.
            assert any(line.startswith(b"epoch  1/") for line in demo.stdout)
            demo.send_signal(signum)
            demo.stdout.read()
            assert demo.wait(30) == 128 + signum
        finally:
            demo.kill()
    assert not [process for process in psutil.process_iter() if carries(process, mark)]


def carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get("TEST_MARK") == mark)
    except (psutil.Error, OSError):
        return False
