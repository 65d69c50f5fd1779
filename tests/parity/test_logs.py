"""torch's DefaultLogsSpecs in torch's agent and in ours: the same files, the same lines on the console."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std

from . import worker_functions
from .scripted import ScriptedRendezvous
from .subjects import Subject

pytestmark = [
    pytest.mark.torch,
    # torch's agent leaves the files that it opened to the garbage collector; ours are below another folder.
    pytest.mark.filterwarnings("ignore:unclosed file .*/torch/parity-run_:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file .*/dev/null:ResourceWarning"),
]

# A line is one write: both workers' lines meet on the console.
TALK = (
    "import os, sys\n"
    "rank = os.environ['RANK']\n"
    "for n in range(3):\n"
    "    sys.stdout.write(f'out {rank} {n} loss\\n'); sys.stdout.flush()\n"
    "    sys.stderr.write(f'err {rank} {n}\\n'); sys.stderr.flush()\n"
    "os.write(1, f'grüße {rank}\\n'.encode())\n"
    "sys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] < os.environ['TORCHELASTIC_MAX_RESTARTS'])\n"
)
Said = tuple[dict[str, list[str]], list[str], list[str]]

SETTINGS: dict[str, dict[str, Any]] = {
    "console": {},
    "redirects": {"redirects": Std.ALL},
    "redirects stdout": {"redirects": Std.OUT},
    "redirects by rank": {"redirects": {0: Std.OUT, 1: Std.ERR}},
    "tee": {"tee": Std.ALL},
    "tee one stream of one rank": {"tee": {1: Std.ERR}},
    "tee and redirects": {"tee": {0: Std.OUT}, "redirects": {0: Std.ERR, 1: Std.ALL}},
    "one rank of two, console": {"local_ranks_filter": {1}},
    "one rank of two, redirects": {"redirects": Std.OUT, "local_ranks_filter": {1}},
    "one rank of two, tee": {"tee": Std.ALL, "local_ranks_filter": {0}},
}


def said(
    subject: Subject,
    logs: DefaultLogsSpecs,
    capfd: pytest.CaptureFixture[str],
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Said:
    """What two workers left: files by their path below the run's folder, and both streams of the console, sorted."""
    capfd.readouterr()
    spec = {"local_world_size": 2, "entrypoint": sys.executable, "args": ("-c", TALK)} | fields
    agent = subject.local(ScriptedRendezvous(), logs, options, **spec)
    assert agent.run().state == "SUCCEEDED"
    out, err = capfd.readouterr()
    return files_below(Path(logs.root_log_dir)), sorted(out.splitlines()), sorted(err.splitlines())


def files_below(root: Path) -> dict[str, list[str]]:
    """Lines by path. Those of filtered files are sorted: several workers write to one."""
    if not root.is_dir():
        return {}
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            run_folder, *rest = path.relative_to(root).parts
            assert run_folder.startswith("parity-run_")
            lines = path.read_text().splitlines()
            found["/".join(rest)] = sorted(lines) if path.name.startswith("filtered") else lines
    return found


def by_both(
    both: tuple[Subject, Subject],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Said:
    """What both left, which must be the same."""
    theirs, ours = (
        said(
            subject,
            DefaultLogsSpecs(**({"log_dir": str(tmp_path / subject.name)} | settings)),
            capfd,
            options,
            **fields,
        )
        for subject in both
    )
    assert ours == theirs
    return ours


@pytest.mark.parametrize("name", list(SETTINGS))
def test_redirects_and_tee(
    both: tuple[Subject, Subject], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    files, out, err = by_both(both, tmp_path, capfd, SETTINGS[name])
    assert files or out
    assert out or err or name == "redirects"


def test_teed_lines_are_in_the_file_and_on_the_console_with_a_prefix(
    both: tuple[Subject, Subject], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files, out, err = by_both(both, tmp_path, capfd, {"tee": Std.ALL}, role="trainer")
    assert files["attempt_0/1/stdout.log"] == [*(f"out 1 {n} loss" for n in range(3)), "grüße 1"]
    assert out[0] == "[trainer0]:grüße 0"
    assert err == [f"[trainer{rank}]:err {rank} {n}" for rank in (0, 1) for n in range(3)]


@pytest.mark.parametrize(
    "template", ["[${role_name}:${rank}/${local_rank}] ", "$rank|", "no macro ", "${other}:"]
)
def test_the_prefix_template(
    both: tuple[Subject, Subject], tmp_path: Path, capfd: pytest.CaptureFixture[str], template: str
) -> None:
    options = {"log_line_prefix_template": template}
    files, out, _ = by_both(
        both, tmp_path, capfd, {"tee": Std.ALL}, options, duplicate_stdout_filters=["loss"]
    )
    assert len(files["attempt_0/filtered_stdout.log"]) == 6
    assert not out[0].startswith(("out", "gr"))


@pytest.mark.parametrize(
    "filters",
    [
        {"duplicate_stdout_filters": ["loss"]},
        {"duplicate_stdout_filters": [" 1 ", "grüße"], "duplicate_stderr_filters": ["err 0 2"]},
        {"duplicate_stderr_filters": ["no such word"]},
        {"duplicate_stdout_filters": []},
    ],
    ids=["one", "both streams", "no hit", "none"],
)
@pytest.mark.parametrize("tee", [Std.ALL, {0: Std.OUT}], ids=["tee all", "tee rank 0"])
def test_the_filtered_files(
    both: tuple[Subject, Subject],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    filters: dict[str, list[str]],
    tee: Any,
) -> None:
    by_both(both, tmp_path, capfd, {"tee": tee}, **filters)


def test_each_attempt_has_its_folder(
    both: tuple[Subject, Subject], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Local rank 0 only: where two fail, how far the second comes before it is stopped is not told.
    files, _, _ = by_both(both, tmp_path, capfd, {"redirects": Std.ALL}, max_restarts=2, local_world_size=1)
    assert sorted(files) == sorted(
        f"attempt_{n}/0/{stream}.log" for n in range(3) for stream in ("stdout", "stderr")
    )


@pytest.mark.parametrize(
    "settings", [{}, {"tee": Std.ALL}, {"redirects": Std.ALL}], ids=["", "tee", "redirects"]
)
def test_no_log_directory(
    both: tuple[Subject, Subject],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    files, out, err = by_both(both, tmp_path, capfd, {"log_dir": os.devnull} | settings)
    assert (files, len(out), len(err)) == ({}, 8, 6)


@pytest.mark.parametrize("name", ["console", "redirects", "tee and redirects"])
def test_functions(
    both: tuple[Subject, Subject], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    # Not fork: print() would go to pytest's stdout, which is another than the process's.
    options = {"start_method": "spawn"}
    files, _, _ = by_both(
        both,
        tmp_path,
        capfd,
        SETTINGS[name],
        options,
        entrypoint=worker_functions.talk,
        args=("${local_rank}",),
    )
    assert len(files) == {"console": 0, "redirects": 4, "tee and redirects": 4}[name]


def test_a_plug_in_that_adds_to_the_environment(subject: Subject, tmp_path: Path) -> None:
    class WithVariable(DefaultLogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> Any:
            for rank, env in envs.items():
                env["SITE_LOG"] = f"{rank} of {env['TORCHELASTIC_RUN_ID']}"
            return super().reify(envs)

    code = f"import os; open({str(tmp_path)!r} + '/' + os.environ['SITE_LOG'], 'w')"
    logs = WithVariable(log_dir=str(tmp_path / "logs"))
    agent = subject.local(
        ScriptedRendezvous(), logs, local_world_size=2, entrypoint=sys.executable, args=("-c", code)
    )
    assert agent.run().state == "SUCCEEDED"
    assert {"0 of parity-run", "1 of parity-run"} <= {path.name for path in tmp_path.iterdir()}
