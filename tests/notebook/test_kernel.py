"""Jobs in real kernels: shown, frozen, interrupted, left behind by a kernel that restarts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebook.kernels import executed, kernel
from tests.notebook.waiting import alive, attached, pids, until_running

WIDGET = "application/vnd.jupyter.widget-view+json"

TRAIN = """
from toolkit import launch

def train(steps):
    import os, time
    for step in range(steps):
        print("step", step, flush=True)
        time.sleep(0.05)
    return os.environ["RANK"]
"""


def test_a_job_is_frozen_where_it_was_shown() -> None:
    _, shown, result = executed(TRAIN, "job = launch(train, 20, nproc=2)\njob", "await job")
    (output,) = shown
    assert output.output_type == "display_data"
    assert WIDGET not in output.data, "a live widget is lost with its kernel"
    page = output.data["text/html"]
    assert (
        "succeeded" in page
        and "<svg" in page
        and "<script" not in page
        and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    )
    assert output.data["text/plain"].startswith("Job ")
    assert "SUCCEEDED" in result[0].data["text/plain"] and "rally-table" in result[0].data["text/html"]


def test_it_is_live_while_it_runs() -> None:
    # The last cell does not wait: what is saved then is the live view, with a picture of that moment beside it.
    _, shown, _ = executed(TRAIN, "job = launch(train, 2000, nproc=2)\njob", "job.state")
    assert set(shown[0].data) == {"text/plain", "text/html", WIDGET}


def test_an_exception_shows_the_line_of_the_cell() -> None:
    bad = "def bad():\n    values = {}\n    return values['loss']\n\n"
    cell = f"{bad}job = launch(bad, nproc=2)\njob.wait()\njob.check()"
    outputs = executed("from toolkit import launch", cell, allow_errors=True)
    (error,) = outputs[1]
    assert error.ename == "JobFailedError"
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert "Cell In[2], line 3, in bad" in text and "return values['loss']" in text
    assert "toolkit" not in text, "none of our frames"


def test_lines_of_cells_behind_decorators_partials_and_classes() -> None:
    outputs = executed(
        "import functools\nfrom toolkit import launch",
        "class Trainer:\n    def __call__(self):\n        return {}['of a class']",
        "def deco(function):\n    @functools.wraps(function)\n    def inner(*args):\n"
        "        return function(*args)\n    return inner",
        "@deco\ndef wrapped(step):\n    return {}['behind a decorator']",
        "for each in (Trainer(), functools.partial(wrapped, 1)):\n"
        "    job = launch(each)\n    job.wait()\n    print(job.failures)",
    )
    text = "".join(output.text for output in outputs[4])
    assert "Cell In[2], line 3, in __call__\n        return {}['of a class']" in text
    assert "Cell In[4], line 3, in wrapped\n        return {}['behind a decorator']" in text


def test_a_mistake_is_told_in_one_line() -> None:
    (_, [error]) = executed("from toolkit import launch", "launch('nowhere.py')", allow_errors=True)
    assert len(error.traceback) == 1
    assert error.traceback[0].startswith("ConfigurationError: there is no script")


def test_a_cell_as_the_script() -> None:
    outputs = executed(
        "import toolkit",
        "%%rally --nproc-per-node 2 --as mine -- 5\nimport os, sys\nprint(os.environ['RANK'], 'of', sys.argv[1])",
        "mine.wait()\nprint(mine.logs())",
        "%%rally --nproc-per-node 2\nimport os\n\nif os.environ['RANK'] == '1':\n    raise RuntimeError('no luck')",
        "job.wait()\nprint(job.logs(1))",
        "%%rally --no-such-option 3\npass",
        allow_errors=True,
    )
    assert sorted(outputs[2][0].text.split("\n")[:2]) == ["[0] 0 of 5", "[1] 1 of 5"]
    assert "line 5, in <module>" in outputs[4][0].text, "as the cell counts its lines"
    assert "--no-such-option" in outputs[5][0].traceback[0]


def test_a_cell_as_the_script_imports_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("VALUE = 'lies beside the notebook'")
    outputs = executed(
        "import toolkit",
        "%%rally --rdzv-id named --run-dir=here\nfrom __future__ import annotations\nimport beside\n"
        "print(beside.VALUE)",
        "job.wait()\nprint(job.name, job.path.name, job.state, job.logs(0))",
        "%%rally --as class\npass",
        allow_errors=True,
    )
    assert outputs[2][0].text == "named here succeeded lies beside the notebook\n"
    assert "--as 'class' is no name" in outputs[3][0].traceback[0]


def test_what_values_show() -> None:
    outputs = executed(
        "import toolkit\nfrom simulator import scenarios, simulate",
        "scenarios.moved_rank_0",
        "report = simulate(scenarios.moved_rank_0, 'torch', 1)\nreport",
        "report.timeline",
        "from toolkit import WorkerGroup, WorkerSpec, SoloRendezvous\n"
        "WorkerGroup(WorkerSpec('trainer', 2, SoloRendezvous('x'), entrypoint='t.py', max_restarts=3))",
    )
    pages = [output[0].data["text/html"] for output in outputs[1:]]
    words = ["moved-rank-0", "broken", "rally-timeline", "2 workers"]
    for page, word in zip(pages, words, strict=True):
        assert word in page and "<script" not in page
    assert all("text/plain" in output[0].data for output in outputs[1:])


def test_a_large_value_is_not_shown_whole() -> None:
    _, shown = executed(
        "from toolkit import launch\ndef weights():\n    return list(range(100_000))", "await launch(weights)"
    )
    assert len(shown[0].data["text/plain"]) < 30_000 and "characters)" in shown[0].data["text/html"]
    assert len(shown[0].data["text/html"]) < 30_000


@pytest.mark.torch
def test_an_experiment_in_both_worlds() -> None:
    pytest.importorskip("torch")
    _, sim, both = executed(
        "from toolkit import Experiment\nfrom simulator import scenarios",
        "sim = Experiment('short-worker-crash', world='sim').run()\nsim",
        "local = Experiment('short-worker-crash', world='local').run()\nlocal.compare(sim)",
    )
    assert "<svg" in sim[0].data["text/html"]
    assert "agree" in both[0].data["text/plain"], both[0].data["text/plain"]


def test_with_nest_asyncio_and_without_a_loop() -> None:
    outputs = executed(
        "import asyncio, threading\nfrom toolkit import launch\ndef one():\n    return 1",
        # A loop in another thread, as nest_asyncio's users have it; and a thread that has none.
        "async def main():\n    return (await launch(one)).return_values\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: found.append(asyncio.run(main())))\n"
        "thread.start()\nthread.join()\nprint(found)",
        "print(launch(one).wait().return_values)",
    )
    assert outputs[1][0].text == "[{0: 1}]\n" and outputs[2][0].text == "{0: 1}\n"


def test_nest_asyncio() -> None:
    pytest.importorskip("nest_asyncio")
    outputs = executed(
        "import asyncio, nest_asyncio\nnest_asyncio.apply()\nfrom toolkit import launch\ndef one():\n    return 1",
        "async def main():\n    return (await launch(one)).return_values\n"
        "print(asyncio.get_event_loop().run_until_complete(main()))",
    )
    assert outputs[1][0].text == "{0: 1}\n"


def test_interrupting_a_cell_leaves_the_workers_alive(state: Path) -> None:
    with kernel() as one:
        assert one.run(TRAIN + "\njob = launch(train, 100000, nproc=2, run_id='kept')")["status"] == "ok"
        job = attached("kept")
        until_running(job, 2)
        waiting = one.begin("print('waits', flush=True); job.wait()")
        one.manager.interrupt_kernel()
        answer = one.answer(waiting)
        assert answer["status"] == "error" and answer["ename"] == "KeyboardInterrupt"
        assert all(map(alive, pids(job))) and not job.over
        assert one.value("job.state") == "'running'"
        waiting = one.begin("print('awaits', flush=True); await job")
        one.manager.interrupt_kernel()
        answer = one.answer(waiting)
        assert answer["ename"] == "CancelledError" and answer["evalue"].startswith(
            "kept is not watched any more"
        )
        assert all(map(alive, pids(job))) and not job.over
        one.run("job.stop(); job.wait()")
        assert job.wait(30) is not None


def test_a_kernel_restarts_and_attaches(state: Path) -> None:
    with kernel() as one:
        one.run(TRAIN + "\nmine = launch(train, 100000, nproc=1, run_id='mine')")
        one.run("kept = launch(train, 100000, nproc=2, run_id='kept', detach=True, shutdown_timeout=2)")
        mine, kept = attached("mine"), attached("kept")
        until_running(mine, 1)
        until_running(kept, 2)
        one.manager.restart_kernel(now=True)
        one.client.wait_for_ready(timeout=60)
        assert mine.wait(40) is not None, "it ended with its kernel"
        assert one.run("from toolkit import attach\njob = attach('kept')")["status"] == "ok"
        assert one.value("job.wait(0.5), len(job.ranks())") == "(None, 2)"
        assert one.run("job.stop(); job.wait(30)")["status"] == "ok"
        assert kept.wait(30) is not None
        assert not any(map(alive, pids(kept)))
