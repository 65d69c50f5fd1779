"""A job watched from another machine: the events of all agents by way of one, and another if that is gone."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from toolkit.adapters.control.asking import LineStream
from toolkit.adapters.control.reading_stacks import answers_in
from toolkit.adapters.control.remote import Credentials, RemoteClient
from toolkit.adapters.control.url import Url, parse_url
from toolkit.core.actions import Action, Outcome
from toolkit.core.errors import ConfigurationError, ControlError, RallyError
from toolkit.core.events import AgentFinished, AnyEvent, decode
from toolkit.core.stacks import Answer, Target, Unread
from toolkit.core.timeline import Timeline

#: events that may wait to be taken
_WAITING_MAX = 200_000
#: how long a job's agents may take to tell what has been, before it is shown as far as it is known, in seconds
CATCH_UP_S = 5.0
_PAUSE_S = 1.0
#: where some have ended: for how long the others may not be reached before the job counts as over, in seconds
SILENT_END_S = 10.0
#: how long the stacks of one node may take, in seconds
_STACKS_S = 60.0


class _Note(msgspec.Struct):
    """A line of the stream that is no event."""

    type: str = ""
    node: str = ""
    url: str = ""
    reason: str = ""


class WatchedJob:
    """Implements `toolkit.views.session.Source`, Controller and Dumper.

    Args:
        url: of any agent of the job.
        credentials: for all of them.

    Raises:
        ControlError: the agent can't be asked, or refuses.
        ConfigurationError: the certificates can't be used.
    """

    def __init__(self, url: Url, credentials: Credentials) -> None:
        self._credentials = credentials
        self._client = RemoteClient(url, credentials)
        said = self._client.snapshot()
        self.run_id = str(said.get("run_id", ""))
        self._changed = threading.Condition()
        self._waiting: list[AnyEvent] = []
        #: number of the last event by node, those that wait included
        self._seen: dict[str, int] = {}
        #: where agents listen, by node, and those that have told all that had been
        self._urls: dict[str, str] = {}
        self._caught_up: set[str] = set()
        #: those that this connection has named so far
        self._named: set[str] = set()
        self._began_s = time.monotonic()
        self._knows = self._showing = False
        #: why there is no contact with an agent, by node, and with the job, and since when
        self._lost: dict[str, str] = {}
        self._lost_all = ""
        self._lost_at_s = 0.0
        self._ended: set[str] = set()
        self._closed = False
        self._lines = LineStream(self._client)
        threading.Thread(target=self._follow, name="rally-watch", daemon=True).start()

    @property
    def name(self) -> str:
        """What the job is called."""
        return self.run_id or str(self._client.url)

    # -- as a source ----------------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """With whom there is no contact, and since when; empty if with all."""
        with self._changed:
            lost, apart = self._lost_all, [f"{node} ({why})" for node, why in self._lost.items()]
            since_s = time.monotonic() - self._lost_at_s
            silent = sorted(self._urls.keys() - self._ended) if self._is_over() else []
        if silent:
            return f"{', '.join(silent)} can't be reached, and did not say how it ended"
        if lost:
            return f"no contact for {since_s:.0f} s: {lost}; tries again"
        return f"no contact with {'; '.join(apart)}; tries again" if apart else ""

    def read_new(self, events_max: int) -> list[AnyEvent]:
        """Events that were not taken before, in the order of the clocks. Never raises."""
        with self._changed:
            if not self._shows():
                return []
            self._waiting.sort(key=lambda event: event.wall_ns)
            taken, self._waiting = self._waiting[:events_max], self._waiting[events_max:]
            self._changed.notify_all()
        return taken

    def catch_up(self) -> None:
        """Wait until the agents have told what has been; not for long."""
        with self._changed:
            self._changed.wait_for(self._shows, CATCH_UP_S)

    def _shows(self) -> bool:
        """Whether enough is known to put the events of several agents in order."""
        late = time.monotonic() - self._began_s > CATCH_UP_S
        self._showing = (
            self._showing
            or late
            or self._lost_all != ""
            or (self._knows and self._urls.keys() <= self._caught_up)
        )
        return self._showing

    def is_live(self, timeline: Timeline) -> bool | None:
        """Whether agents run; None while that is not known."""
        with self._changed:
            if self._is_over():
                return False
            return None if self._lost_all else True

    # -- what can be done -----------------------------------------------------------------------------------

    def act(self, node: str, action: Action) -> Outcome:
        """Tell the agent of that node.

        Raises:
            ControlError: nobody listens, or it is not allowed.
        """
        return self._client.act(action, node)

    def dump(self, targets: Sequence[Target]) -> list[Answer]:
        """The stacks of each, read by their agents; or why they can't be. Never raises."""
        answers: dict[tuple[str, int], Answer] = {}
        for node in dict.fromkeys(target.node for target in targets):
            wanted = [target.local_rank for target in targets if target.node == node]
            try:
                client = RemoteClient(self._client.url, self._credentials, timeout_s=_STACKS_S)
                found = answers_in(client.stacks(",".join(map(str, wanted)), node))
            except RallyError as error:
                found = {rank: Unread(str(error)) for rank in wanted}
            answers |= {(node, rank): answer for rank, answer in found.items()}
        nothing = Unread("its agent said nothing of it")
        return [answers.get((target.node, target.local_rank), nothing) for target in targets]

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        self._lines.close()
        with self._changed:
            self._changed.notify_all()

    # -- in the thread --------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._closed:
            try:
                why = self._read_once()
            except (ControlError, OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            with self._changed:
                if self._urls and self._urls.keys() <= self._ended:
                    self._lost_all = ""
                    return  # all have said that they end
                if why and not self._lost_all:
                    self._lost_at_s = time.monotonic()
                self._lost_all = why
            time.sleep(_PAUSE_S)
            self._take_another()

    def _read_once(self) -> str:
        """Read one connection to its end. Returns why that is one."""
        self._named = set()
        after = ",".join(f"{node}:{seq}" for node, seq in self._seen.items())
        for line in self._lines.once(f"/events?all=1&after={quote(after)}"):
            if self._lost_all:
                with self._changed:
                    self._lost_all = ""
            if line.isspace():
                continue
            event = decode(line)
            if event is None:
                self._note(line)
            elif event.seq > self._seen.get(event.node, 0):
                self._take(event)
        return f"{self._client.name} has ended"

    def _take(self, event: AnyEvent) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _WAITING_MAX or self._closed)
            self._seen[event.node] = event.seq
            self._waiting.append(event)
            if isinstance(event, AgentFinished):
                self._ended.add(event.node)
                self._lost.pop(event.node, None)

    def _note(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=_Note)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        with self._changed:
            match said.type:
                case "agent_known":
                    self._named.add(said.node)
                    self._urls.setdefault(said.node, said.url)
                case "agent_roster":
                    self._knows = True
                    for node in self._urls.keys() - self._named - self._ended:
                        self._forget(node)  # the job goes on without it
                case "agent_left" if said.node not in self._ended:
                    self._forget(said.node)
                case "agent_joined":
                    self._named.add(said.node)
                    self._urls[said.node] = said.url
                    self._lost.pop(said.node, None)
                case "agent_lost" if said.node not in self._ended:
                    self._urls.setdefault(said.node, said.url)
                    self._caught_up.add(said.node)
                    self._lost[said.node] = said.reason
                case "agent_caught_up":
                    self._caught_up.add(said.node)
            self._changed.notify_all()

    def _forget(self, node: str) -> None:
        self._urls.pop(node, None)
        self._lost.pop(node, None)
        self._caught_up.discard(node)

    def _is_over(self) -> bool:
        """Whether all have said that they end, save some of which nobody hears any more."""
        if not self._urls or self._urls.keys() <= self._ended:
            return bool(self._urls)
        return bool(self._ended and self._lost_all and time.monotonic() - self._lost_at_s > SILENT_END_S)

    def _take_another(self) -> None:
        """Ask another agent of the job, if there is one: this one may be gone for good."""
        here = str(self._client.url)
        others = [
            url for node, url in self._urls.items() if node not in self._ended and url not in ("", here)
        ]
        if not others or self._closed:
            return
        try:
            self._client = RemoteClient(parse_url(others[0]), self._credentials)
        except ConfigurationError:
            return
        # To the end: next time it is another one's turn.
        mine = next((node for node, url in self._urls.items() if url == others[0]), "")
        self._urls[mine] = self._urls.pop(mine)
        self._lines = LineStream(self._client)
