"""`rally show`: what it says of a run, on recordings in real directories."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import scenarios, simulate
from toolkit.adapters.recording.directory import RunDirectory, fresh_run_directory
from toolkit.core import events as ev
from toolkit.core.job_report import FailureRecord
from toolkit.core.words import SHORT_MAX
from toolkit.fronts import summary as summaries
from toolkit.fronts.show import render_text, show_command
from toolkit.fronts.summary import IsAlive, RunSummary
from toolkit.views.wording import ago, duration_in_words, visible

ROOT = Path(__file__).parents[2]
STARTED_NS = 1_790_000_000 * 10**9
MS = 1_000_000


class Recorder:
    """Writes one node's events into a run directory; times are milliseconds after the start."""

    def __init__(self, directory: RunDirectory, host: str = "gpu-a", pid: int = 7, clock_ms: int = 0) -> None:
        self._directory, self._host, self._pid = directory, host, pid
        self._clock_ms = clock_ms
        self._seq = self.round = self._restarts = 0
        self.node = f"{host}_{pid}"
        self.path = directory.events_path(self.node)

    def say(self, at_ms: int, kind: type[ev.Event], **fields: Any) -> None:
        self._seq += 1
        event = kind(
            run_id=self._directory.run_id,
            node=self.node,
            seq=self._seq,
            mono_ns=(self._clock_ms + at_ms) * MS,
            wall_ns=STARTED_NS + at_ms * MS,
            round=self.round,
            restart_count=self._restarts,
            **fields,
        )
        with self.path.open("ab") as file:
            file.write(ev.encode(event) + b"\n")

    def start(self, at_ms: int = 0, *, workers: int = 2, restarts_max: int = 3) -> None:
        self.say(
            at_ms,
            ev.AgentStarted,
            pid=self._pid,
            hostname=self._host,
            role="trainer",
            local_world_size=workers,
            restarts_max=restarts_max,
            backend="solo",
            entrypoint="train.py",
        )

    def bring_up(self, at_ms: int, *, incarnation: int = 0, workers: int = 2, nodes: int = 1) -> None:
        """Rendezvous for 200 ms, then a start of 40 ms."""
        self.say(at_ms, ev.RendezvousStarted, backend="solo")
        self.round += 1
        self.say(
            at_ms + 200,
            ev.RendezvousCompleted,
            group_rank=0,
            group_world_size=nodes,
            world_size=workers * nodes,
            role_world_size=workers * nodes,
            master_addr="127.0.0.1",
            master_port=29500,
            global_ranks=list(range(workers)),
        )
        self.say(at_ms + 200, ev.WorkersStarting, incarnation=incarnation, count=workers)
        for rank in range(workers):
            self.say(
                at_ms + 240,
                ev.WorkerStarted,
                incarnation=incarnation,
                local_rank=rank,
                global_rank=rank,
                role_rank=rank,
                world_size=workers,
                worker_id="w",
                pid=100 + rank,
                stderr=f"/logs/{incarnation}/{rank}/stderr.log",
            )
        self.say(at_ms + 240, ev.WorkersStarted, incarnation=incarnation)

    def fail(self, at_ms: int, rank: int, *, first: bool = True, incarnation: int = 0, **fields: Any) -> None:
        how = {"exit_code": None, "signal": "SIGKILL"} | {
            name: fields.pop(name) for name in ("exit_code", "signal") if name in fields
        }
        who = {"incarnation": incarnation, "local_rank": rank, "global_rank": rank, "pid": 100 + rank}
        self.say(at_ms, ev.WorkerExited, **who, **how)
        told = {"message": "", "hostname": self._host, "first": first} | fields
        self.say(at_ms, ev.FailureRecorded, **who, **how, **told)

    def restart(self, at_ms: int, reason: str, *, spends_budget: bool = True) -> None:
        """Decided now, all workers stopped 100 ms later."""
        self._restarts += spends_budget
        self.say(at_ms, ev.DecisionMade, action="restart", reason=reason, spends_budget=spends_budget)
        self.say(at_ms + 100, ev.WorkersStopped)

    def finish(self, at_ms: int, result: str, reason: str) -> None:
        self.say(at_ms, ev.AgentFinished, result=result, reason=reason, duration_s=at_ms / 1e3)


def a_directory(state_dir: Path, run_id: str = "job") -> RunDirectory:
    return fresh_run_directory(state_dir, run_id, {}, started_wall_ns=STARTED_NS)


def a_restarted_run(state_dir: Path) -> Recorder:
    node = Recorder(a_directory(state_dir))
    node.start()
    node.bring_up(0)
    node.fail(4_000, 1, message="Signal 9 (SIGKILL) received by PID 101")
    node.restart(4_010, "worker group FAILED; 3 of 3 restarts left")
    node.bring_up(4_110, incarnation=1)
    node.say(12_000, ev.DecisionMade, action="finish", reason="all local workers succeeded")
    node.finish(12_400, "SUCCEEDED", "all workers succeeded")
    return node


def shown(state_dir: Path, run: str | None = None, *, is_alive: IsAlive = lambda *_: None) -> str:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = show_command(
        run, as_json=False, state_dir=state_dir, stdout=stdout, stderr=stderr, is_alive=is_alive
    )
    assert (code, stderr.getvalue()) == (0, "")
    return stdout.getvalue()


def as_json(state_dir: Path, run: str | None = None, *, is_alive: IsAlive = lambda *_: None) -> RunSummary:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = show_command(
        run, as_json=True, state_dir=state_dir, stdout=stdout, stderr=stderr, is_alive=is_alive
    )
    assert (code, stderr.getvalue()) == (0, "")
    return msgspec.json.decode(stdout.getvalue(), type=RunSummary)


def test_a_restarted_run_in_words(tmp_path: Path) -> None:
    a_restarted_run(tmp_path)
    lines = shown(tmp_path).splitlines()
    assert lines[0] == "✓ job succeeded in 12.4 s, after 1 restart"
    assert lines[1].startswith("  train.py · 2 workers on 1 node (gpu-a) · started 2026-09-2")
    assert lines[1].endswith(" · 2 rounds")
    assert lines[2:8] == [
        "",
        "  ✗ after 4.0 s: rank 1 (local rank 1 on node gpu-a, pid 101) was killed by SIGKILL",
        "    its stderr: /logs/0/1/stderr.log",
        "    → restarted: worker group FAILED; 3 of 3 restarts left",
        "      back in 350 ms: detect 10 ms + stop 100 ms + rendezvous 200 ms + start 40 ms",
        "",
    ]
    assert lines[8] == "  restarts   1 of 3 used; 350 ms lost in them"
    assert lines[9].startswith(f"  recording  {tmp_path}/2026")


def test_a_restarted_run_as_json(tmp_path: Path) -> None:
    a_restarted_run(tmp_path)
    said = as_json(tmp_path)
    assert (said.schema_version, said.run_id, said.state, said.result) == (1, "job", "succeeded", "SUCCEEDED")
    assert (said.started, said.ended) == ("2026-09-21T14:13:20.000Z", "2026-09-21T14:13:32.400Z")
    assert (said.restarts.used, said.restarts.max, said.restarts.left) == (1, 3, 2)
    assert (said.restarts.total, said.restarts.membership) == (1, 0)
    assert said.restarts.time_lost_s == pytest.approx(0.35)
    (restart,) = said.restarts.each
    assert (restart.kind, restart.reason) == ("failure", "worker group FAILED; 3 of 3 restarts left")
    phases = (restart.detect_s, restart.stop_s, restart.rendezvous_s, restart.start_s, restart.total_s)
    assert phases == pytest.approx((0.01, 0.1, 0.2, 0.04, 0.35))
    (failure,) = said.failures
    assert (failure.global_rank, failure.signal, failure.first, failure.pid) == (1, "SIGKILL", True, 101)
    assert [(rank.global_rank, rank.incarnation) for rank in said.ranks] == [(0, 1), (1, 1)]
    assert [round_.took_s for round_ in said.each_round] == pytest.approx([0.2, 0.2])
    assert said.last_decisions[0].action == "finish"


def test_a_failed_run_names_the_cause_and_why_it_was_not_started_again(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start(restarts_max=0)
    node.bring_up(0)
    stack = 'Traceback (most recent call last):\n  File "train.py", line 9, in main\nValueError: bad shape\n'
    node.fail(1_000, 0, exit_code=3, signal="", message="ValueError: bad shape", traceback=stack)
    node.fail(1_001, 1, exit_code=1, signal="", message="exited with code 1", first=False)
    node.say(1_002, ev.DecisionMade, action="fail", reason="worker group FAILED; no restarts are allowed")
    node.finish(1_100, "FAILED", "the workers failed")
    text = shown(tmp_path)
    assert "✗ job failed in 1.1 s\n" in text
    assert "rank 0 (local rank 0 on node gpu-a, pid 100) exited with code 3: ValueError: bad shape\n" in text
    assert '        File "train.py", line 9, in main\n      ValueError: bad shape\n' in text
    assert "    then rank 1 (local rank 1 on node gpu-a, pid 101) exited with code 1\n" in text
    assert "    → not restarted: worker group FAILED; no restarts are allowed\n" in text


def test_a_failed_run_is_reported_in_the_words_of_the_agent(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start(restarts_max=0)
    node.bring_up(0, workers=6)
    closed = "gloo: connection closed by peer"
    about = {"exit_code": 1, "signal": ""}
    for rank in (0, 1, 4):
        node.fail(
            1_000, rank, message="RuntimeError: x", first=rank == 0, what=closed, hand="second", **about
        )
    oom = "killed by the kernel's OOM killer: its cgroup's limit is 8.0 GiB"
    node.fail(
        1_200, 2, message="Signal 9", what=oom, hand="first", error_class="memory", remedy="a smaller batch"
    )
    node.say(1_201, ev.DecisionMade, action="fail", reason="no restarts are allowed")
    for rank, said in ((3, closed), (5, "")):
        who = {"incarnation": 0, "local_rank": rank, "global_rank": rank, "pid": 100 + rank}
        how = {"exit_code": None, "signal": "SIGTERM", "stopped_by_agent": True, "consequence": said}
        node.say(1_250, ev.WorkerExited, **who, **how)
    node.finish(1_300, "FAILED", "the workers failed")
    lines = [line.strip() for line in shown(tmp_path).splitlines()]
    report = lines[lines.index(next(line for line in lines if line.startswith("✗ after"))) :]
    assert report[0].endswith("rank 2 (local rank 2 on node gpu-a, pid 102) was killed by SIGKILL: Signal 9")
    assert report[1:3] == [f"that is: {oom}", "what helps: a smaller batch"]
    assert f"because of it: ranks 0-1, 4 exited with code 1: {closed}" in report
    assert f"because of it: rank 3 said {closed}, and was stopped by the agent" in report
    assert "stopped by the agent: rank 5" in report
    [first] = [failure for failure in as_json(tmp_path).failures if failure.first]
    assert (first.global_rank, first.what, first.error_class, first.hand) == (2, oom, "memory", "first")
    assert first.remedy == "a smaller batch"


def test_nodes_that_restart_together_are_told_once(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    culprit, other = Recorder(directory), Recorder(directory, "gpu-b", 8, clock_ms=10**7)
    for node in (culprit, other):
        node.start()
        node.bring_up(0, nodes=2)
    culprit.fail(4_000, 1)
    culprit.restart(4_010, "worker group FAILED")
    other.say(4_050, ev.MembershipChanged, nodes_waiting=1)
    other.restart(4_060, "1 node waits to join", spends_budget=False)
    culprit.bring_up(4_110, incarnation=1, nodes=2)
    other.bring_up(4_360, incarnation=1, nodes=2)
    for node in (culprit, other):
        node.finish(9_000, "SUCCEEDED", "all workers succeeded")
    text = shown(tmp_path)
    assert "job succeeded in 9.0 s, after 1 restart\n" in text
    assert text.count("restarted:") == 1
    assert "(2 nodes; gpu-b_8 was back last, in 540 ms)" in text
    assert "  ✓ gpu-a_7  succeeded  group rank 0, 2 workers\n" in text
    assert [restart.kind for restart in as_json(tmp_path).restarts.each] == ["failure", "membership"]


def test_an_agent_that_vanished_is_told(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.bring_up(0)
    text = shown(tmp_path, is_alive=lambda *_: False)
    assert text.startswith("✗ job has no end: the agent vanished\n")
    assert "no agent of it runs any more; last event 2026-09-2" in text
    assert "when 2 workers ran" in text
    assert as_json(tmp_path, is_alive=lambda *_: False).state == "vanished"


def test_an_agent_of_this_machine_is_asked_whether_it_lives(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as agent:
        node = Recorder(a_directory(tmp_path), os.uname().nodename, agent.pid)
        node.start(at_ms=(time.time_ns() - STARTED_NS) // MS)
        stdout = io.StringIO()
        show_command(None, as_json=True, state_dir=tmp_path, stdout=stdout, stderr=io.StringIO())
        assert json.loads(stdout.getvalue())["nodes"][0]["alive"] is True
        agent.communicate(b"\n", timeout=30)
    stdout = io.StringIO()
    show_command(None, as_json=True, state_dir=tmp_path, stdout=stdout, stderr=io.StringIO())
    assert json.loads(stdout.getvalue())["state"] == "vanished"


def test_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.bring_up(0)
    assert shown(tmp_path, is_alive=lambda *_: True).startswith("● job is running, ")
    assert "whether it still runs can't be told from here" in shown(tmp_path)


def test_the_result_of_those_that_ended_stands_when_the_others_vanished(tmp_path: Path) -> None:
    directory = a_directory(tmp_path)
    done, gone = Recorder(directory), Recorder(directory, "gpu-b", 8)
    done.start()
    gone.start()
    done.finish(9_000, "SUCCEEDED", "all workers succeeded")
    assert as_json(tmp_path, is_alive=lambda *_: True).state == "ending"
    said = as_json(tmp_path, is_alive=lambda *_: False)
    assert (said.state, said.result) == ("succeeded", "SUCCEEDED")
    assert "✗ gpu-b_8  vanished" in shown(tmp_path, is_alive=lambda *_: False)


def test_a_signal_is_told(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.say(900, ev.SignalReceived, signal="SIGTERM", count=1)
    node.finish(1_000, "SIGNAL", "the agent got SIGTERM")
    text = shown(tmp_path)
    assert text.startswith("■ job was stopped by a signal in 1.0 s\n")
    assert "  ■ the agent got SIGTERM at 2026-09-2" in text


def test_an_error_of_the_agent_is_told(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.finish(1_000, "ERROR", "RendezvousTimeoutError: only 1 of 2 nodes came")
    text = shown(tmp_path)
    assert "job ended with an error in 1.0 s\n" in text
    assert "  RendezvousTimeoutError: only 1 of 2 nodes came\n" in text


def test_what_could_not_be_read_is_said(tmp_path: Path) -> None:
    node = a_restarted_run(tmp_path)
    with node.path.open("ab") as file:
        file.write(b'{"type":"later"}\n{"type":"workers_st')
    assert "  ! 2 lines could not be read: 1 torn, 1 of an unknown type\n" in shown(tmp_path)
    said = as_json(tmp_path).recording
    assert (said.torn, said.unknown, said.dropped) == (1, 1, 0)


def test_nothing_in_a_recording_commands_the_terminal(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path, "job\x1b[2J"))
    node.start()
    node.fail(5, 0, message="\x1b]0;title\x07 \u202egnp [bold]m\u009b", traceback="a\x1b[31m\nb\r")
    text = shown(tmp_path)
    assert not set(text) & set("\x1b\x07\r\u202e\u009b")
    assert "\\x1b]0;title\\x07 \\u202egnp [bold]m\\x9b" in text


def recorded_in_the_simulator(state_dir: Path, name: str, *only: str) -> str:
    """The run directory of a simulated job with our rendezvous, of all nodes or of some of them."""
    directory = a_directory(state_dir, "sim")
    for event in simulate(scenarios.named(name), "rally").events:
        if not only or any(event.node.startswith(host) for host in only):
            with directory.events_path(event.node).open("ab") as file:
                file.write(ev.encode(event) + b"\n")
    return str(directory.path)


def report_in(text: str) -> str:
    """The part that is the same whichever nodes are recorded."""
    incidents = text.split("\n\n", 1)[1]
    return "\n".join(
        line for line in incidents.splitlines() if line.startswith(("  ✗ failed", "    ", "  →"))
    )


@pytest.mark.parametrize("host", ["node-a", "node-b"])
def test_the_report_of_a_job_is_the_same_whichever_node_is_recorded(tmp_path: Path, host: str) -> None:
    whole = shown(tmp_path, recorded_in_the_simulator(tmp_path / "all", "barrier-after-failure"))
    one = shown(tmp_path, recorded_in_the_simulator(tmp_path / "one", "barrier-after-failure", host))
    assert report_in(one) == report_in(whole)
    first, why = report_in(one).splitlines()
    assert first.startswith("  ✗ failed first: rank 1 (local rank 0 on node-b, pid ")
    assert first.endswith(") exited with code 1")
    assert why == "    → not restarted: a worker failed; no restarts are allowed (max_restarts is 0)"
    assert "2 workers on 2 nodes, 1 of them recorded here" in one
    assert "node-a_1000  failed     group rank 0, 1 worker; its own workers succeeded" in whole


def test_what_the_nodes_decided_is_in_the_json_of_each(tmp_path: Path) -> None:
    said = [
        as_json(tmp_path, recorded_in_the_simulator(tmp_path / host, "bystander-closes", host)).job
        for host in ("node-a", "node-b", "node-c")
    ]
    assert said[0] is not None
    assert [(end.number, end.by, end.restarts) for end in said[0].round_ends] == [
        (1, "node-c_1002", 1),
        (2, "node-c_1002", 2),
    ]
    for job in said:
        assert job is not None
        assert (job.outcome, job.why, job.failures) == (said[0].outcome, said[0].why, said[0].failures)
        assert [end.reason for end in job.round_ends] == [end.reason for end in said[0].round_ends]


def test_a_lost_node_is_told_and_spends_nothing(tmp_path: Path) -> None:
    run = recorded_in_the_simulator(tmp_path, "silent-node-loss")
    text = shown(tmp_path, run)
    assert "  → round 1 restarted for a change of membership: node node-c_1001 is lost: it gave no" in text
    assert "  ✗ node-c_1001  lost       group rank 2, 1 worker\n" in text
    assert "  restarts   0 of 3 used, 1 for membership; " in text
    said = as_json(tmp_path, run)
    assert (said.state, said.group_world_size) == ("succeeded", 2)
    assert said.job is not None
    assert [lost.node for lost in said.job.lost] == ["node-c_1001"]


def test_hosts_that_come_and_go_take_a_row_each(tmp_path: Path) -> None:
    text = shown(tmp_path, recorded_in_the_simulator(tmp_path, "flapping-joiner"))
    assert "  ✗ node-a (5 agents)  lost       no group rank, 1 worker\n" in text
    assert "  held back  node-a_1010, node-a_1011, node-a_1012 and 2 more: host node-a was lost 2 t" in text


def test_who_came_late_says_what_it_can_not_know(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.say(
        50,
        ev.RendezvousCompleted,
        group_rank=1,
        group_world_size=2,
        world_size=4,
        role_world_size=4,
        master_addr="m",
        master_port=1,
        global_ranks=[2, 3],
        seat=4,
        coordinator="gpu-b_1_0123ab",
        epoch=1,
    )
    text = shown(tmp_path)
    assert "why " not in text
    node.round = 3
    node.say(60, ev.JobEnded, epoch=1, outcome="succeeded")
    node.say(70, ev.AgentFinished, epoch=1, result="SUCCEEDED", reason="all did", duration_s=0.07)
    text = shown(tmp_path)
    assert "  why rounds 1 to 2 ended is not in this recording\n" in text
    assert text.startswith("✓ job succeeded in 70 ms, after 2 restarts\n")


def on_a_terminal(said: RunSummary, **environment: str) -> str:
    """What `render_text` writes to a terminal of 80 columns."""
    code = (
        "import sys, msgspec\n"
        "from toolkit.fronts.show import RunSummary, render_text\n"
        "render_text(msgspec.json.decode(sys.stdin.buffer.read(), type=RunSummary), sys.stdout)\n"
    )
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=slave,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )
    os.close(slave)
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(said))
    child.stdin.close()
    data = b""
    try:
        while chunk := os.read(master, 65536):
            data += chunk
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(master)
    assert child.wait(30) == 0
    return data.decode()


def test_a_terminal_gets_colour_and_lines_that_fit(tmp_path: Path) -> None:
    a_restarted_run(tmp_path)
    said = as_json(tmp_path)
    assert "\x1b[" in on_a_terminal(said)
    plain = on_a_terminal(said, NO_COLOR="1")
    assert "\x1b[3" not in plain
    assert "✓" in plain
    assert all(len(line) <= 80 for line in on_a_terminal(said, TERM="dumb").splitlines())


def test_a_pipe_gets_each_line_whole_and_plain(tmp_path: Path) -> None:
    node = Recorder(a_directory(tmp_path))
    node.start()
    node.fail(5, 0, exit_code=1, signal="", message="x" * SHORT_MAX)
    text = shown(tmp_path)
    assert "\x1b" not in text
    assert any(line.endswith("x" * SHORT_MAX) for line in text.splitlines())


@pytest.mark.parametrize("as_data", [True, False])
def test_a_stream_without_unicode_gets_ascii(tmp_path: Path, as_data: bool) -> None:
    node = Recorder(a_directory(tmp_path, "jöb"))
    node.start()
    node.finish(5, "SUCCEEDED", "done")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    assert show_command(None, as_json=as_data, state_dir=tmp_path, stdout=stdout, stderr=io.StringIO()) == 0
    text = stdout.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert (json.loads(text)["run_id"] == "jöb") if as_data else text.startswith("+ j\\xf6b succeeded")


def test_a_run_that_is_not_there_is_an_error_on_stderr(tmp_path: Path) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    assert show_command("x", as_json=True, state_dir=tmp_path, stdout=stdout, stderr=stderr) == 2
    assert stdout.getvalue() == ""
    assert stderr.getvalue().startswith("rally show: no run 'x' is recorded under ")


def test_json_is_fast_and_imports_no_front_end(tmp_path: Path) -> None:
    a_restarted_run(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom toolkit.fronts.show import show_command\n"
        "show_command(None, as_json=True, state_dir=Path(sys.argv[1]), stdout=sys.stdout, stderr=sys.stderr)\n"
        "heavy = {'rich', 'textual', 'torch', 'numpy', 'asyncio', 'subprocess'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    times_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=60,
        )
        times_s.append(time.perf_counter() - began_s)
        assert child.returncode == 0, child.stderr
    # The goal is 0.15 s on a quiet machine; the best of five with room for a busy one.
    assert min(times_s) < 0.4


def test_the_schema_that_is_written_down_is_that_of_the_code() -> None:
    path = ROOT / "toolkit" / "fronts" / "show.schema.json"
    remedy = "write `toolkit.fronts.summary.json_schema()` to it"
    assert path.read_bytes() == summaries.json_schema(), f"{path} is out of date; {remedy}"


_ODD = st.integers() | st.sampled_from([0, -1, 2**63, 10**400])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wall_ns=_ODD, mono_ns=_ODD, number=_ODD, duration_s=st.floats(allow_nan=False), text=st.text(max_size=20)
)
def test_whatever_a_recording_says_can_be_shown(
    tmp_path: Path, wall_ns: int, mono_ns: int, number: int, duration_s: float, text: str
) -> None:
    header = {"run_id": "job", "node": text, "wall_ns": wall_ns, "round": number, "restart_count": number}
    path = tmp_path / "run" / "events-x.jsonl"
    path.parent.mkdir(exist_ok=True)
    who = {"incarnation": number, "local_rank": number, "global_rank": number, "pid": number}
    events: list[ev.Event] = [
        ev.WorkerExited(**header, mono_ns=mono_ns, **who, exit_code=number, signal=text),
        ev.DecisionMade(**header, action="restart", reason=text, spends_budget=True, restarts_left=number),
        ev.WorkersStarted(**header, mono_ns=number, incarnation=number),
        ev.SignalReceived(**header, signal=text, count=number),
        ev.RoundFormed(**header, formed=number, members=[text]),
        ev.RoundEnded(
            **header, ended=number, action=text, reason=text, by=text, spends_budget=True, restarts=number
        ),
        ev.JoinHeld(**header, joiner=text, reason=text, for_s=duration_s),
        ev.StoreSilent(**header, where=text, silent_s=duration_s, limit_s=duration_s),
        ev.CoordinatorChanged(**header, began=number, coordinator=text, before=text),
        ev.JobEnded(**header, outcome="failed", why=text, failures=[FailureRecord(message=text)]),
        ev.AgentFinished(**header, result=text, reason=text, duration_s=duration_s),
    ]
    path.write_bytes(b"".join(ev.encode(event) + b"\n" for event in events))
    said = as_json(tmp_path, str(path.parent))
    render_text(said, io.StringIO(), now_ns=STARTED_NS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (4 * 86400 + 6 * 3600, "4 d 06 h"),
        (float("nan"), "-"),
    ],
)
def test_durations_in_words(seconds: float | None, words: str) -> None:
    assert duration_in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (-60, "in the future"), (8, "8 s ago"), (200, "3 min ago"), (86400, "1 day ago")],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_text_from_outside_is_made_visible() -> None:
    assert visible("a\tb\x00\x7f\u2066", io.StringIO()) == "a    b\\x00\\x7f\\u2066"
