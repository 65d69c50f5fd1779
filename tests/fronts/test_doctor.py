"""`rally doctor` as a command over facts that are given, or that never come."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from tests.core.test_doctor import WELL, facts_of
from toolkit.adapters.doctor.gather import Gatherer
from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import Report
from toolkit.fronts import doctor
from toolkit.fronts.doctor import doctor_command

ROOT = Path(__file__).parents[2]


def gatherers_of(machine: Machine) -> dict[str, Gatherer]:
    def giving(name: str) -> Gatherer:
        return lambda patience_s: getattr(machine, name)

    return {name: giving(name) for name in machine.__struct_fields__}


def examined(
    *argv: str,
    machine: Machine = WELL,
    environ: Mapping[str, str] | None = None,
    instead: Mapping[str, Gatherer] | None = None,
) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = doctor_command(
        argv,
        environ=environ or {"OMP_NUM_THREADS": "1"},
        state_dir=Path("/state"),
        executable=sys.executable,
        stdout=stdout,
        stderr=stderr,
        gatherers=lambda _: {**gatherers_of(machine), **(instead or {})},
    )
    return code, stdout.getvalue(), stderr.getvalue()


def test_a_machine_that_is_well() -> None:
    code, said, complained = examined()
    assert (code, complained) == (0, "")
    assert said.splitlines()[-1].startswith("✔ no warnings, no problems")
    assert "judged for 8 workers (one for each GPU)" in said


def test_a_name_service_that_hangs_does_not_hang_the_doctor() -> None:
    never = threading.Event()
    code, said, _ = examined("--timeout", "0.2", instead={"fqdn": lambda patience_s: never.wait()})
    never.set()
    assert code == 0
    assert "! this machine's full name: did not answer in 0.2 s" in said
    assert "rally doctor --skip network.fqdn" in said
    assert "✔ gpu-a is 10.0.0.5" in said, "what did not hang is told"


def test_what_hangs_counts_if_warnings_do() -> None:
    never = threading.Event()
    code, _, _ = examined("--timeout", "0.2", "--strict", instead={"fqdn": lambda patience_s: never.wait()})
    never.set()
    assert code == 1


def test_a_problem_makes_the_exit_code() -> None:
    code, said, _ = examined(machine=facts_of("memory", shm_there=False))
    assert code == 1
    assert said.splitlines()[-1].startswith("✘ 1 problem, no warnings")


def test_json_has_all_that_is_documented() -> None:
    code, said, _ = examined("--json")
    found = msgspec.json.decode(said, type=Report)
    assert code == 0
    assert (found.version, found.verdict, found.problems) == (1, "ok", 0)
    assert found.facts == WELL
    raw = json.loads(said)
    assert set(raw) == set(Report.__struct_fields__)
    assert {"id", "title", "level", "what", "why", "remedy", "command"} == set(raw["findings"][0])


def test_json_tells_what_did_not_come() -> None:
    never = threading.Event()
    _, said, _ = examined("--json", "--timeout", "0.2", instead={"clock": lambda patience_s: never.wait()})
    never.set()
    raw = json.loads(said)
    assert raw["facts"]["clock"] is None
    assert raw["silent"]["clock"]["after_s"] == 0.2


def test_only_what_is_asked_for_is_looked_at() -> None:
    def must_not(patience_s: float) -> object:
        raise AssertionError("nobody asked")

    _, said, _ = examined(
        "--only", "limits.nofile,clock", instead={"gpus": must_not, "fqdn": must_not}, environ={}
    )
    assert "clock" in said and "network" not in said
    assert "1 check in" in examined("--only", "limits.nofile")[1]


def test_workers_are_counted_as_a_run_counts_them() -> None:
    assert "judged for 3 workers (--nproc-per-node)" in examined("--nproc-per-node", "3")[1]
    assert "judged for 3 workers" in examined("--nproc", "3")[1]
    assert "(--nproc-per-node cpu)" in examined("--nproc-per-node", "cpu")[1]


def test_the_list_has_every_check_and_checks_nothing() -> None:
    code, said, _ = examined("--list", instead={"clock": lambda _: pytest.fail("nothing is to be checked")})
    assert code == 0
    assert "limits.nofile" in said and "place.slurm" in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--only", "gp"], "--only is 'gp', and no check is called so; did you mean gpu?"),
        (["--only", ""], "--only is empty; `rally doctor --list` has what it takes"),
        (["--skip", ","], "--skip is empty"),
        (["--list", "--json"], "--list is for people and --json of what is found; leave one of them out"),
        (["--nproc-per-node", "0"], "--nproc-per-node is 0; a node has at least 1 worker"),
        (["--nproc-per-node", "many"], "--nproc-per-node is 'many'"),
        (["--endpoint", "a b:1"], "--endpoint is 'a b:1'"),
        (["--endpoint", "host:99999"], "--endpoint is 'host:99999'; the port must be"),
        (["--timeout", "soon"], "--timeout is 'soon'; give a number of seconds"),
        (["--timeout", "0"], "--timeout is '0'"),
        (["--shutdown-timeout", "-1"], "--shutdown-timeout is '-1'"),
    ],
)
def test_bad_input_is_refused_with_the_value(argv: list[str], words: str) -> None:
    code, said, complained = examined(*argv)
    assert (code, said) == (2, "")
    assert complained.startswith(f"rally doctor: {words}")


def test_the_schema_that_is_written_down_is_that_of_the_code() -> None:
    path = ROOT / "toolkit" / "fronts" / "doctor.schema.json"
    assert path.read_bytes() == doctor.json_schema(), f"write `toolkit.fronts.doctor.json_schema()` to {path}"
