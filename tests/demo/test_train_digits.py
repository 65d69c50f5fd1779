"""The example under plain torchrun: real processes, since what it shows is how to live with a launcher."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.demo import scenario

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.torch

SCRIPT = Path(scenario.__file__).with_name("train_digits.py")


def torchrun(workers: int, *arguments: str, cwd: Path) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(cwd)}
    command = [*launch, str(SCRIPT), *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_goes_on_from_its_checkpoint_with_another_number_of_workers(tmp_path: Path) -> None:
    first = torchrun(3, "--epochs", "4", "--checkpoint-dir", "saved", cwd=tmp_path)
    assert "resumed" not in first
    assert [path.name for path in sorted((tmp_path / "saved").iterdir())] == [
        "epoch-0003.pt",
        "epoch-0004.pt",
    ]

    second = torchrun(2, "--epochs", "6", "--checkpoint-dir", "saved", cwd=tmp_path)
    assert "resumed from the checkpoint of epoch 4" in second
    assert "epoch  4/6" not in second and "epoch  5/6" in second and "epoch  6/6" in second
    (final,) = [line for line in second.splitlines() if line.startswith("final test accuracy ")]
    assert float(final.split()[3]) > 95


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["toolkit.fronts.cli run", "torch.distributed.run"])
def test_it_saves_its_work_when_the_launcher_is_told_to_end(tmp_path: Path, launcher: str) -> None:
    """In the midst of an epoch; the next run, with another number of workers, goes on from that step."""
    words = [sys.executable, "-m", *launcher.split(), "--standalone", "--nproc-per-node"]
    training = [str(SCRIPT), "--epochs", "2", "--checkpoint-dir", "saved"]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [*words, "2", *training, "--step-delay-s", "0.2"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            assert job.stdout is not None
            assert any(line.startswith("2 workers on") for line in job.stdout), "it trains"
            job.send_signal(signal.SIGTERM)
            said = job.stdout.read()
            code = job.wait(60)
        finally:
            os.killpg(job.pid, signal.SIGKILL) if job.poll() is None else None
    stopped = re.search(r"stopped on request after step (\d+) of epoch 1, (\d+) s to spare", said)
    assert stopped is not None, said
    assert 20 < int(stopped[2]) <= 30
    [saved] = (tmp_path / "saved").iterdir()
    assert saved.name == f"epoch-0000.step-{int(stopped[1]):06d}.pt"
    if "toolkit" in launcher:
        assert code == 128 + signal.SIGTERM

    done = subprocess.run(
        [*words, "1", *training],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"resumed from the checkpoint of epoch 0, step {stopped[1]} of the next" in done.stdout
    assert "epoch  2/2" in done.stdout
    assert not saved.exists(), "older ones go"


def test_without_a_launcher_it_says_how_to_start_it(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "start this script with `rally run` or `torchrun`" in done.stderr
