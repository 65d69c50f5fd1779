"""A job of several nodes watched from elsewhere, by way of one of its agents, over TCP."""

import re
import subprocess
from pathlib import Path

import pytest

from toolkit.adapters.control.guard import token_in
from toolkit.adapters.control.remote import Credentials
from toolkit.adapters.control.url import parse_url
from toolkit.adapters.control.watched import WatchedJob
from toolkit.core.actions import Action
from toolkit.core.stacks import Stacks, Target
from toolkit.core.timeline import Timeline, fold_all

from .conftest import Meet, Script
from .jobs import LONG_S, RALLY, Job, Up, until

NODE = f"""
    {Up.SCRIPT.strip()}
    wait_for(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "go"))
"""


def url_of(job: Job) -> str:
    found = until("its URL", lambda: re.search(r"watch and control at (http\S+)", job.stderr))
    return found[1]


class Watcher:
    """Takes all that a watched job tells."""

    def __init__(self, url: str, token: Path) -> None:
        self.job = WatchedJob(parse_url(url), Credentials(token_in(token)))
        self._timeline = Timeline()

    def timeline(self) -> Timeline:
        self._timeline = fold_all(self.job.read_new(10_000), self._timeline)
        return self._timeline

    def pids(self) -> dict[int, int]:
        """Of the workers that run, by global rank."""
        ranks = [rank.now for node in self.timeline().nodes.values() for rank in node.ranks.values()]
        return {now.global_rank: now.pid for now in ranks if now.state == "running"}


@pytest.mark.torch
def test_three_nodes_by_way_of_one(meet: Meet, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    token = tmp_path / "a token"
    control = ("--control-addr", "127.0.0.1:0", "--control-token-file", str(token), "--max-restarts", "3")
    worker = script(NODE)
    nodes = meet("2:3", *control, last_call_timeout=1)
    first = nodes.start(worker)
    until("the token", token.exists)
    others = nodes.start_several(2, worker)
    nodes.world(3, [first, *others])
    watcher = Watcher(url_of(others[0]), token)
    until("all ranks", lambda: len(watcher.pids()) == 3)
    before = watcher.pids()

    [far] = [node for node in watcher.timeline().nodes.values() if node.pid == others[1].pid]
    now = far.ranks[0].now
    assert now.started is not None
    target = Target(now.global_rank, far.host, now.pid, now.started.wall_ns, far.name, 0)
    [answer] = watcher.job.dump([target])
    assert isinstance(answer, Stacks) and any("wait_for" in frame.function for frame in answer.main), answer

    kill = Action(action="signal", local_ranks=(0,), signal="SIGKILL", incarnation=0, by="ada")
    assert watcher.job.act(far.name, kill).outcome == "done"
    until(
        "all came back",
        lambda: len(watcher.pids()) == 3 and not set(watcher.pids().values()) & set(before.values()),
    )

    plain = [*RALLY, "top", url_of(first), "--token-file", str(token), "--plain", "--at", "100%"]
    done = subprocess.run(plain, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# LIVE job\n")
    assert done.stdout.count("agent starts") == 3, done.stdout
    assert "ada did SIGKILL to local rank 0" in done.stdout, done.stdout

    others[0].kill()
    until("another agent is asked", lambda: "no contact" in watcher.job.problem)
    until("the others go on without it", lambda: len(watcher.timeline().job.lost) == 1)
    until("two ranks", lambda: len([r for r in watcher.timeline().nodes.values() if r.round >= 3]) == 2)
    assert watcher.job.act(far.name, Action(action="stop", by="ada")).outcome == "done"
    until("the end", lambda: watcher.timeline().result == "FAILED")
    watcher.job.close()


def test_a_url_that_nobody_answers_is_an_error_in_words(tmp_path: Path, port: int) -> None:
    for words, said in (
        ((f"http://127.0.0.1:{port}",), "can't be reached"),
        (("http://127.0.0.1",), "no URL of an agent"),
        ((f"http://127.0.0.1:{port}", "--token-file", str(tmp_path / "none")), "token file"),
        ((f"https://127.0.0.1:{port}", "--tls-ca", str(tmp_path / "none")), "can't be used"),
        (("--token-file", str(tmp_path / "none")), "is for the URL of an agent"),
    ):
        done = subprocess.run(
            [*RALLY, "top", *words, "--plain"], capture_output=True, text=True, timeout=LONG_S, check=False
        )
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
