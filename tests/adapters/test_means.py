"""What keeps workers from outliving their agent on this machine, in words."""

import os
import sys
from pathlib import Path

import pytest

from tests.leaks import nothing_left
from toolkit.adapters.leftovers import cgroup, means, supervisor
from toolkit.adapters.leftovers.cgroup import Cgroup
from toolkit.adapters.processes import prctl


def test_the_words_name_what_is_used_and_why_the_rest_is_not() -> None:
    text = str(means.Means(("supervisor",), {"cgroup": "/sys/fs/cgroup can't be written"}))
    assert text == "supervisor; no cgroup: /sys/fs/cgroup can't be written"
    assert str(means.Means((), {})) == "nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux has")
def test_this_machine_is_looked_at_and_left_as_it_is() -> None:
    before = prctl.is_subreaper()
    with nothing_left():
        found = means.of_this_machine()
    assert {"parent-death signal", "supervisor", "subreaper", "environment marker"} <= set(found.used)
    assert not set(found.used) & set(found.missing)
    assert found.enough
    assert ("cgroup" in found.used) == bool(cgroup.own_folder()[0])
    assert prctl.is_subreaper() == before


def test_a_machine_without_a_shell_has_no_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SHELL", "/no/such/shell")
    found = means.of_this_machine()
    assert found.missing["supervisor"] == "there is no /no/such/shell"
    assert not found.enough


def test_a_cgroup_that_is_not_there_has_nobody_in(tmp_path: Path) -> None:
    group = Cgroup(str(tmp_path), "x")
    assert group.pids() == []
    assert group.remove()


@pytest.mark.skipif(not cgroup.own_folder()[0], reason="no cgroup v2 can be made here")
def test_a_cgroup_has_whoever_is_below_and_lets_go_of_them_at_its_end() -> None:
    pid = os.fork()
    if pid == 0:
        os.read(os.pipe()[0], 1)
    try:
        folder, _ = cgroup.own_folder()
        group = Cgroup(folder, f"test-{os.getpid()}")
        inner = Path(Cgroup(group.path, "inner").path)
        inner.mkdir(parents=True)
        (inner / "cgroup.procs").write_text(str(pid))
        assert group.pids() == [pid]
        assert group.remove()
        assert not Path(group.path).exists()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
