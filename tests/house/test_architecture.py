"""The rules that hold the house up, as far as import-linter can't see them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "textual", "numpy", "rich", "psutil", "IPython", "multiprocessing", "asyncio")


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not imported_by("import toolkit").intersection(HEAVY)


def test_importing_the_package_loads_none_of_its_rooms() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import toolkit, sys; print([n for n in sys.modules if n.startswith('toolkit.')])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_light() -> None:
    assert not imported_by("import toolkit.fronts.cli; toolkit.fronts.cli.main(['--help'])").intersection(
        HEAVY
    )


def test_a_run_on_one_node_needs_neither_torch_nor_rich() -> None:
    assert not imported_by("import toolkit.fronts.run, toolkit.api").intersection(HEAVY)


def test_names_of_the_package_are_there_when_asked_for() -> None:
    import toolkit

    for name in toolkit.__all__:
        assert getattr(toolkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = toolkit.nonsense


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def environment_reads(path: Path) -> list[int]:
    tree = ast.parse(path.read_text())
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "getenv", "environb")
    ]


def test_only_one_module_reads_the_environment() -> None:
    # A function worker is another process: it sets the environment that its plan says. The demo's training script is a
    # stand-alone example, and the worker of an experiment a script that imports nothing of ours.
    allowed = {
        "toolkit/surroundings.py",
        "toolkit/adapters/processes/function_worker.py",
        "toolkit/adapters/experiment/worker.py",
        "toolkit/demo/train_digits.py",
    }
    readers = {
        str(path.relative_to(ROOT)) for path in modules("toolkit", "simulator") if environment_reads(path)
    }
    assert readers <= allowed


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules("toolkit", "simulator")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_map_names_every_room() -> None:
    the_map = (ROOT / "toolkit" / "README.md").read_text()
    for path in [*modules("toolkit/core", "toolkit/agent"), *(ROOT / "toolkit").glob("*.py")]:
        if path.name != "__init__.py":
            assert path.name in the_map, f"{path} is not on the map in toolkit/README.md"


def test_the_agent_is_small_enough_to_read() -> None:
    """A room that is too full is split; 500 lines is where one stops seeing it whole."""
    full = {
        str(p.relative_to(ROOT)): n
        for p in modules("toolkit")
        if (n := len(p.read_text().splitlines())) > 550
    }
    assert full == {}
