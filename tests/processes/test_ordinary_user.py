"""Somebody without rights of their own: no account, no home, folders of others that they may not even look into."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.jobs import RALLY, clean_environment

#: a user id that no account has
NOBODY = "54321"
#: what this user runs already is enough for the limit, pytest and the command itself
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
os.execvp(sys.argv[1], sys.argv[1:])
"""
STRANGER = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


def run(*words: str | Path, before: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """A command of `rally` to its end, with its output into pipes."""
    return subprocess.run(
        [*before, *RALLY, *map(str, words)],
        check=False,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def without_rights() -> tuple[str, ...]:
    """What is to stand before a command that is refused what is not for its user, though root runs the tests."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and there is no setpriv")
    return ("setpriv", "--inh-caps=-all", "--bounding-set=-all")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may look into."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    "words",
    [
        "show LOCKED",
        "show LOCKED/run",
        "show LOCKED/run --json",
        "logs LOCKED/run",
        "top --plain LOCKED/run",
        "check LOCKED/run",
        "web LOCKED/run",
        "sim worker-crash --run-dir LOCKED/run",
        "experiment worker-crash --world sim --run-dir LOCKED/run",
        "run --restart-policy LOCKED/policy.py:Mine script.py",
    ],
)
def test_what_another_user_keeps_to_himself_is_named(
    words: str, without_rights: tuple[str, ...], locked: Path, tmp_path: Path
) -> None:
    env = clean_environment(tmp_path)
    (tmp_path / "script.py").touch()
    said = [
        word.replace("LOCKED", str(locked)).replace("script.py", f"{tmp_path}/script.py")
        for word in words.split()
    ]
    done = run(*said, before=without_rights, **env)
    assert done.returncode == 2 and done.stdout == "", done
    [line] = done.stderr.splitlines()
    assert line.startswith(f"rally {said[0]}: ") and str(locked) in line, line
    assert "can't be read: Permission denied" in line or "can't be written: Permission denied" in line, line


@pytest.mark.parametrize("words", ["run script.py", "demo", "experiment worker-crash"])
def test_where_runs_can_not_be_recorded_another_place_is_asked_for(
    words: str, without_rights: tuple[str, ...], locked: Path, tmp_path: Path
) -> None:
    env = {**clean_environment(tmp_path), "XDG_STATE_HOME": str(locked / "state")}
    (tmp_path / "script.py").touch()
    done = run(*words.replace("script.py", f"{tmp_path}/script.py").split(), before=without_rights, **env)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done
    assert str(locked) in done.stderr.splitlines()[-1] and "Permission denied" in done.stderr, done.stderr


def test_the_doctor_finds_that_runs_can_not_be_recorded(
    without_rights: tuple[str, ...], locked: Path, tmp_path: Path
) -> None:
    env = {**clean_environment(tmp_path), "XDG_STATE_HOME": str(locked / "state")}
    done = run("doctor", "--only", "storage", before=without_rights, **env)
    assert done.returncode == 1 and "recordings can't be written to" in done.stdout, done


@pytest.mark.skipif(os.geteuid() == 0, reason="root may start as many threads as it likes")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("run script.py", 2, "rally run: no more threads may be started; raise the limit (ulimit -u"),
        ("doctor --only limits", 1, "0 more threads may be started (ulimit -u is 2)"),
        ("doctor", 1, "0 more threads may be started (ulimit -u is 2)"),
    ],
)
def test_who_may_start_no_more_threads_is_told_which_limit_to_raise(
    words: str, code: int, says: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").touch()
    said = words.replace("script.py", f"{tmp_path}/script.py").split()
    done = run(*said, before=(sys.executable, "-c", LIMITED), **clean_environment(tmp_path))
    assert done.returncode == code and says in done.stdout + done.stderr, done
    assert "Traceback" not in done.stderr


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without an account, as containers of OpenShift have it: HOME can't be written."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*STRANGER, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this kernel gives nobody a user namespace")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0o500)
    temporary.mkdir()
    env = {**clean_environment(tmp_path), "TMPDIR": str(temporary), "HOME": str(home)}
    del env["XDG_STATE_HOME"]
    return env


@pytest.mark.parametrize(
    ("words", "code"),
    [("runs", 0), ("show", 2), ("logs", 2), ("top --plain", 2), ("doctor --only storage", None)],
)
@pytest.mark.parametrize("home", ["", "unwritable"])
def test_a_user_without_account_or_home_has_a_place(
    words: str, code: int | None, home: str, stranger: dict[str, str]
) -> None:
    if not home:
        del stranger["HOME"]
    done = run(*words.split(), before=STRANGER, **stranger)
    assert "Traceback" not in done.stderr, done.stderr
    if code is not None:
        # Without HOME it is the root folder, which is root's own if root runs the tests.
        at_root = not home and os.access("/", os.W_OK)
        place = "/.local/state/rallypoint" if at_root else f"{stranger['TMPDIR']}/rallypoint-{NOBODY}"
        assert done.returncode == code
        assert f"no run is recorded under {place}/runs" in done.stdout + done.stderr


def test_the_job_of_who_may_not_write_at_home_runs_and_is_found(
    stranger: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text("print('trained')")
    done = run("run", tmp_path / "script.py", before=STRANGER, **stranger)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done
    done = run("show", before=STRANGER, **stranger)
    assert done.returncode == 0 and "succeeded" in done.stdout, done


def test_what_another_user_has_put_there_is_left_alone(stranger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('trained')")
    if os.geteuid() != 0:
        pytest.skip("who is not root can't give a folder away")
    place = Path(stranger["TMPDIR"], f"rallypoint-{NOBODY}")
    place.mkdir(mode=0o777)
    os.chown(place, 12345, 12345)
    done = run("run", tmp_path / "script.py", before=STRANGER, **stranger)
    assert done.returncode == 2, done
    assert f"{stranger['HOME']}/.local/state/rallypoint/runs" in done.stderr
    assert list(place.iterdir()) == []
