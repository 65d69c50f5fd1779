"""Several agents seen by way of one: their events, what they are told, and what happens when one of them is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.control_world import Endpoint, endpoint, new_certificate, until
from toolkit.adapters.control import fan_in, watched
from toolkit.adapters.control.asking import LineStream
from toolkit.adapters.control.guard import token_in
from toolkit.adapters.control.remote import Credentials, RemoteClient
from toolkit.adapters.control.roster import Peer, Roster
from toolkit.adapters.control.server import TcpAddress
from toolkit.adapters.control.url import parse_url
from toolkit.adapters.control.watched import WatchedJob
from toolkit.adapters.memory_store import MemoryStore
from toolkit.core import events as ev
from toolkit.core.actions import Action
from toolkit.core.errors import ConfigurationError, ControlError
from toolkit.core.stacks import Target, Unread
from toolkit.core.timeline import Timeline

NAMES = ("gpu-a_7", "gpu-b_7", "gpu-c_7")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_in, "ROSTER_S", 0.05)
    monkeypatch.setattr(fan_in, "AGAIN_S", 0.1)
    monkeypatch.setattr(watched, "_PAUSE_S", 0.05)


class Job:
    """Agents of one round.

    Args:
        folder: for their recordings and the token.
    """

    def __init__(self, folder: Path, stack: ExitStack, *tls: Path) -> None:
        self.token = folder / "token"
        self.store = MemoryStore()
        self.agents: list[Endpoint] = []
        for name in NAMES:
            (folder / name).mkdir()
            agent = stack.enter_context(endpoint(folder / name, node=name))
            agent.server.listen_on(TcpAddress("127.0.0.1", 0, self.token, *tls), ())
            self.agents.append(agent)
        for rank, agent in enumerate(self.agents):
            agent.server.orders.met(self.store, rank, len(self.agents))
            agent.start()
        self.credentials = Credentials(token_in(self.token), tls[0] if tls else None, any_name=bool(tls))

    def client(self, rank: int = 0) -> RemoteClient:
        return RemoteClient(parse_url(self.agents[rank].server.url), self.credentials)

    def watch(self, rank: int = 0) -> WatchedJob:
        return WatchedJob(parse_url(self.agents[rank].server.url), self.credentials)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(tmp_path, stack)


class Seen:
    """What a watcher has taken."""

    def __init__(self, source: WatchedJob) -> None:
        self.source = source
        self.events: list[Any] = []

    def count(self) -> dict[str, int]:
        self.events += self.source.read_new(1000)
        return {node: sum(event.node == node for event in self.events) for node in NAMES}

    def numbers(self, node: str) -> list[int]:
        self.count()
        return [event.seq for event in self.events if event.node == node]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_events_of_all_come_by_way_of_any(job: Job, rank: int) -> None:
    seen = Seen(job.watch(rank))
    until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
    assert [event.wall_ns for event in seen.events] == sorted(event.wall_ns for event in seen.events)
    job.agents[2].say()
    until("one more", lambda: seen.count()[NAMES[2]] == 6)
    assert seen.source.problem == "" and seen.source.is_live(Timeline()) is True
    seen.source.close()


def test_a_watcher_goes_on_where_it_was(job: Job) -> None:
    path = f"/events?all=1&after={NAMES[0]}:3,{NAMES[1]}:5"
    stream = LineStream(job.client())
    numbers: dict[str, list[int]] = {name: [] for name in NAMES}
    caught_up = 0
    for line in stream.once(path):
        event = ev.decode(line)
        caught_up += b"agent_caught_up" in line
        if event is not None:
            numbers[event.node].append(event.seq)
        if caught_up == 3:
            break
    stream.close()
    assert list(numbers.values()) == [[4, 5], [], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("after", ["x", "gpu-a_7", "gpu-a_7:-1", ":5", "gpu-a_7:5,gpu-b_7:x"])
def test_what_is_no_place_is_refused(job: Job, after: str) -> None:
    with pytest.raises(ControlError, match="NODE:NUMBER"):
        list(LineStream(job.client()).once(f"/events?all=1&after={after}"))


def test_an_order_reaches_the_node_that_is_meant(job: Job) -> None:
    for agent in job.agents:
        agent.answer_orders()
    assert job.client(0).act(Action(action="drain", by="ada"), NAMES[1]).outcome == "done"
    assert job.client(2).act(Action(action="restart", by="ada"), NAMES[2]).outcome == "done"
    assert [[action.action for action in agent.done] for agent in job.agents] == [[], ["drain"], ["restart"]]
    with pytest.raises(ControlError, match="no agent 'gpu-z_1'"):
        job.client(0).act(Action(action="drain"), "gpu-z_1")


def test_an_agent_that_dies_is_missed_and_the_others_stay(job: Job) -> None:
    seen = Seen(job.watch())
    until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
    job.agents[1].server.close()
    until("it is missed", lambda: "gpu-b_7" in seen.source.problem)
    job.agents[2].say()
    until("the others go on", lambda: seen.count()[NAMES[2]] == 6)
    seen.source.close()


def test_without_the_agent_that_it_asked_it_asks_another_and_loses_nothing(job: Job) -> None:
    seen = Seen(job.watch())
    until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
    job.agents[0].server.close()
    for agent in job.agents[1:]:
        agent.say()
    until("all again", lambda: [seen.count()[name] for name in NAMES[1:]] == [6, 6])
    assert seen.numbers(NAMES[1]) == seen.numbers(NAMES[2]) == [1, 2, 3, 4, 5, 6]
    until("it says who is gone", lambda: "gpu-a_7" in seen.source.problem)
    seen.source.close()


def test_when_all_are_gone_it_says_since_when_and_when_all_have_ended_nothing(job: Job) -> None:
    seen, other = Seen(job.watch()), Seen(job.watch(1))
    until("all", lambda: seen.count() == other.count() == dict.fromkeys(NAMES, 5))
    for agent in job.agents:
        agent.finish()
    until("the end", lambda: seen.source.is_live(Timeline()) is False)
    for agent in job.agents:
        agent.server.close()
    assert seen.count() == dict.fromkeys(NAMES, 6)
    assert seen.source.problem == ""
    seen.source.close()
    other.source.close()


def test_an_agent_that_the_job_goes_on_without_is_forgotten_and_may_come_back(job: Job) -> None:
    seen = Seen(job.watch())
    until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
    job.agents[1].server.close()
    until("it is missed", lambda: "gpu-b_7" in seen.source.problem)
    store = MemoryStore()
    for rank, agent in enumerate((job.agents[0], job.agents[2])):
        agent.server.orders.met(store, rank, 2)
    until("it is forgotten", lambda: seen.source.problem == "")
    for agent in (job.agents[0], job.agents[2]):
        agent.finish()
    until("the end", lambda: seen.source.is_live(Timeline()) is False)
    assert seen.source.problem == ""
    seen.source.close()


def test_a_job_is_over_though_one_never_said_how_it_ended(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "SILENT_END_S", 0.3)
    seen = Seen(job.watch())
    until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
    for agent in job.agents[1:]:
        agent.finish()
    until("both ends", lambda: seen.count()[NAMES[1]] == seen.count()[NAMES[2]] == 6)
    for agent in job.agents:
        agent.server.close()
    until("the end", lambda: seen.source.is_live(Timeline()) is False)
    assert seen.source.problem == "gpu-a_7 can't be reached, and did not say how it ended"
    seen.source.close()


def test_watchers_that_come_and_go_leave_no_thread(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.adapters.control.handler.HEARTBEAT_S", 0.1)
    before = threading.active_count()
    for _ in range(10):
        seen = Seen(job.watch())
        until("all", lambda seen=seen: seen.count() == dict.fromkeys(NAMES, 5))  # type: ignore[misc]
        seen.source.close()
    until("the end of their threads", lambda: threading.active_count() <= before)


def test_no_contact_is_told_with_its_time(tmp_path: Path) -> None:
    with endpoint(tmp_path) as agent:
        agent.server.listen_on(TcpAddress("127.0.0.1", 0), ())
        agent.start()
        source = WatchedJob(parse_url(agent.server.url), Credentials())
        seen = Seen(source)
        until("its events", lambda: seen.count()["gpu-a_7"] == 5)
    until("it says so", lambda: source.problem.startswith("no contact for 0 s: the agent at http://"))
    assert source.is_live(Timeline()) is None
    source.close()


def test_workers_that_do_not_run_are_not_read(job: Job) -> None:
    source = job.watch()
    targets = [Target(0, "gpu-b", 1, 1, NAMES[1], 0), Target(1, "gpu-b", 1, 1, NAMES[1], 9)]
    answers = source.dump([*targets, Target(2, "gpu-z", 1, 1, "gpu-z_1", 0)])
    assert all(isinstance(answer, Unread) for answer in answers)
    assert "does not run" in str(answers[1]) and "no agent 'gpu-z_1'" in str(answers[2])
    source.close()


def test_a_wrong_token_is_said_at_once(job: Job) -> None:
    with pytest.raises(ControlError, match="token is missing or wrong"):
        WatchedJob(parse_url(job.agents[0].server.url), Credentials(b"x" * 20))


def test_a_roster_of_hostile_entries_is_read_without_them() -> None:
    store = MemoryStore()
    roster = Roster(Peer("gpu-a_7", "http://10.0.0.1:9"))
    roster.met(store, 0, 5)
    until("its own", lambda: store.check(["rally/control/0"]))
    store.set("rally/control/1", b"\xff not json")
    store.set("rally/control/2", b'{"node":"b","url":"file:///etc/passwd"}')
    store.set("rally/control/4", b'{"node":"d","url":"http://d:9"}')
    assert roster.peers() == [Peer("d", "http://d:9")]
    assert roster.find("gpu-a_7") == Peer("gpu-a_7", "http://10.0.0.1:9")


def test_one_that_has_just_come_into_the_round_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    one, two = Roster(Peer("a_1", "http://a:1")), Roster(Peer("b_1", "http://b:1"))
    one.met(store, 0, 2)
    timer = threading.Timer(0.3, two.met, (store, 1, 2))
    timer.start()
    assert one.find("b_1") == Peer("b_1", "http://b:1")
    timer.join()
    monkeypatch.setattr("toolkit.adapters.control.roster.FIND_S", 0.2)
    one.met(MemoryStore(), 0, 2)
    assert one.find("b_1") is None


def test_who_listens_for_nobody_says_nothing() -> None:
    store = MemoryStore()
    roster = Roster(None)
    roster.met(store, 0, 2)
    assert roster.peers() == [] and not store.check(["rally/control/0"])


@pytest.mark.parametrize(
    "text",
    ["http://", "gpu-a:9400", "http://gpu-a", "ftp://a:1", "http://a:99999", "http://a:1/x", "https://[::1"],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL of an agent"):
        parse_url(text)


def test_urls_are_read_and_written_alike() -> None:
    for text in ("http://gpu-a:9400", "https://10.0.0.1:1", "http://[::1]:9"):
        assert str(parse_url(text)) == text


def test_all_of_it_over_tls(tmp_path: Path) -> None:
    cert, key = new_certificate(tmp_path)
    with ExitStack() as stack:
        job = Job(tmp_path, stack, cert, key)
        assert job.agents[0].server.url.startswith("https://")
        seen = Seen(job.watch())
        until("all", lambda: seen.count() == dict.fromkeys(NAMES, 5))
        assert seen.source.problem == ""
        seen.source.close()
        with pytest.raises(ControlError, match="can't be trusted"):
            WatchedJob(parse_url(job.agents[0].server.url), Credentials(token_in(job.token)))
