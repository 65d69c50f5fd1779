"""What `rally doctor` shows, at every width and with or without Unicode."""

from __future__ import annotations

import pytest

from tests.core.test_doctor import ASKED, BAD, WELL, facts_of
from toolkit.core.doctor.checks import CHECKS, judged
from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import Report, report
from toolkit.views.doctor_lines import report_lines


def seen(machine: Machine) -> Report:
    return report(judged(CHECKS, machine, ASKED, {}), ASKED, machine, {}, strict=False, took_s=1.84)


def shown(machine: Machine, width: int = 100, *, unicode: bool = True, every: bool = False) -> list[str]:
    lines = report_lines(seen(machine), ASKED, width=width, unicode=unicode, every=every)
    return ["".join(text for text, _ in line) for line in lines]


def test_what_is_well_takes_a_screen_at_the_most() -> None:
    lines = shown(WELL)
    assert len(lines) <= 24
    assert lines[-1].startswith("✔ no warnings, no problems · ")


def test_a_problem_is_told_with_reason_remedy_and_a_whole_command() -> None:
    text = "\n".join(shown(facts_of("memory", shm_there=False)))
    assert "memory       ✘ there is no /dev/shm  memory.shm" in text
    assert "               → have it mounted:\n                 sudo mount -t tmpfs tmpfs /dev/shm" in text
    assert text.endswith("\n\n✘ 1 problem, no warnings · 49 checks in 1.8 s")


@pytest.mark.parametrize("width", [28, 40, 63, 64, 80, 100, 200])
@pytest.mark.parametrize("case", range(len(BAD)))
def test_no_line_is_wider_than_the_terminal_but_for_commands(case: int, width: int) -> None:
    machine = BAD[case][2]
    commands = {finding.command for finding in seen(machine).findings if finding.command}
    for line in shown(machine, width):
        is_command = any(line.endswith(command) for command in commands)
        one_word = " " not in line.removeprefix("network").strip(" ✔•!✘→")
        assert is_command or one_word or len(line) <= width, line


def test_without_unicode_all_signs_are_ascii() -> None:
    for _, _, machine, _ in BAD:
        lines = shown(machine, unicode=False)
        assert all(line.replace("°", "").isascii() for line in lines), lines


def test_each_check_has_a_line_of_its_own_if_asked() -> None:
    text = "\n".join(shown(WELL, every=True))
    for finding in seen(WELL).findings:
        assert finding.id in text


def test_the_worst_of_a_group_comes_first() -> None:
    both = facts_of("network", rendezvous_port_problem="in use", interfaces=[])
    lines = [
        line
        for line in shown(both)
        if line.startswith("network") or line.lstrip().startswith(("•", "✔", "!"))
    ]
    group = lines[[line.startswith("network") for line in lines].index(True) :]
    assert [line[13] for line in group[:3]] == ["!", "•", "✔"]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_what_is_not_well_is_told_with_the_id_to_skip_it_by(case: int) -> None:
    check, _, machine, _ = BAD[case]
    assert any(line.endswith(f"  {check}") for line in shown(machine, 200))
