"""What keeps the processes of one agent's workers from outliving it, together: mark, supervisor, orphans."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from toolkit.adapters.leftovers import marking
from toolkit.adapters.leftovers.bonds import Bonds
from toolkit.adapters.leftovers.orphans import Orphans
from toolkit.adapters.leftovers.process_tree import limit_mark
from toolkit.adapters.leftovers.supervisor import Supervisor
from toolkit.adapters.loop_bell import LoopBell
from toolkit.core.errors import LaunchError
from toolkit.ports import Bell


class Guard:
    """For all incarnations of one launcher's workers. Used by one thread.

    Args:
        environment: of the agent.
        orphans: takes in what workers leave; None leaves this process as it is.
    """

    def __init__(self, environment: Mapping[str, str], orphans: Orphans | None) -> None:
        self.token = marking.fresh_token()
        self.orphans = Orphans() if orphans is None else orphans
        self.supervisor = Supervisor(self.token, environment)
        self._takes_in = orphans is not None
        self._environment = environment
        self._told = False
        self._starts = 0
        self._watched: dict[LoopBell, int] = {}

    def fresh_start(self) -> str:
        """The token of one more incarnation."""
        self._starts += 1
        return f"{self.token}.{self._starts}"

    def mark(self, start: str) -> str:
        """What the environment of the workers of that incarnation says."""
        return marking.value(self.token, start, self._environment)

    def begin(self) -> str:
        """To be called before workers are started. Returns what is wrong, in a sentence, the first time; or ""."""
        if not self._watched:
            self.supervisor.check()
        try:
            self.supervisor.start()
        except LaunchError as error:
            if self._told:
                return ""
            self._told = True
            return f"no supervisor ({error}): {WITHOUT}"
        finally:
            if self._takes_in:  # after the supervisor was started: it is to be nobody's child
                self.orphans.begin()
        return ""

    def bonds(self, start: str) -> Bonds:
        """What else ties those workers to this agent."""
        return Bonds(self.supervisor.cgroup_procs, limit_mark(start))

    def watch(self, bell: Bell, tell: Callable[[str], None]) -> None:
        """Have the end of the supervisor ring the bell; then another one is started, and `tell` hears of it."""
        self.unwatch(bell)
        fd = self.supervisor.fd
        if fd is not None and isinstance(bell, LoopBell):
            self._watched[bell] = fd
            bell.watch(fd, lambda: self._heed(bell, tell))

    def unwatch(self, bell: Bell) -> None:
        """Leave that bell alone."""
        if isinstance(bell, LoopBell) and (fd := self._watched.pop(bell, None)) is not None:
            bell.unwatch(fd)

    def _heed(self, bell: Bell, tell: Callable[[str], None]) -> None:
        pid = self.supervisor.pid
        self.unwatch(bell)  # before its descriptor is closed
        if not self.supervisor.check():
            tell(f"the supervisor (pid {pid}) has ended; {self._replace()}")
        self.watch(bell, tell)

    def _replace(self) -> str:
        """Start another supervisor. Returns what became of it, in half a sentence."""
        try:
            self.supervisor.start()
        except LaunchError as error:
            self._told = True
            return f"no other one could be started ({error}): {WITHOUT}"
        return "another one was started"

    def strangers(self) -> tuple[int, ...]:
        """Pids that belong to no worker, though they may look so."""
        return (self.supervisor.pid,) if self.supervisor.pid else ()


#: what it means that there is no supervisor
WITHOUT = "daemons that workers have started will outlive this agent if it is killed"
