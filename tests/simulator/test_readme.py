"""The README's examples run, and its map names every file."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("greenlet")

from simulator import scenarios, toml_file
from toolkit.fronts.sim import sim_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "simulator" / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


COMMANDS = [line for text in blocks("console") for line in text.splitlines()]


@pytest.mark.torch
@pytest.mark.parametrize(
    "text", blocks("python"), ids=["steps", "sweep", "scenario", "experiment", "fault", "checker"]
)
def test_python_runs(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    exec(compile(text, "README.md", "exec", dont_inherit=True), {"__name__": "readme"})


def test_python_and_toml_say_the_same() -> None:
    (text,) = blocks("toml")
    names: dict[str, object] = {}
    code = next(text for text in blocks("python") if 'name="my-job"' in text).split("report = ")[0]
    exec(compile(code, "README.md", "exec"), names)
    in_python, in_toml = names["mine"], toml_file.loads(text)
    for name in ("name", "nodes", "min_nodes", "max_restarts", "workload", "plans", "faults"):
        assert getattr(in_python, name) == getattr(in_toml, name)


@pytest.mark.torch
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "my-job.toml").write_text(blocks("toml")[0])
    monkeypatch.chdir(tmp_path)
    # A fresh process for --verify has to find the package from another directory.
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in COMMANDS:
        program, name, *words = shlex.split(line.replace("/tmp/", f"{tmp_path}/"))
        assert (program, name) == ("rally", "sim")
        stdout, stderr = io.StringIO(), io.StringIO()
        code = sim_command(words, environ=environ, executable=sys.executable, stdout=stdout, stderr=stderr)
        assert code in (0, 1), f"{line}: {stderr.getvalue()}"
        assert stdout.getvalue()


def test_the_map_names_every_file() -> None:
    for path in (ROOT / "simulator").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py" and not path.name.startswith("torch_"):
            assert f"`{path.name}`" in README, f"{path.name} is not on the map in simulator/README.md"


def test_every_scenario_that_it_speaks_of_is_there() -> None:
    for line in COMMANDS:
        word = shlex.split(line)[2]
        assert word.startswith("--") or word.endswith(".toml") or word in scenarios.ALL
