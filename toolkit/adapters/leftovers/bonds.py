"""What ties a worker to its agent besides its environment, which a process may drop."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.adapters.leftovers import cgroup, process_tree


@dataclass(frozen=True, slots=True)
class Bonds:
    """Of one incarnation's workers. Whatever such a process starts has them, too.

    Args:
        cgroup_procs: the file by which a process gets into the workers' cgroup, or "" where there is none.
        limit: what its limit is set to, as `process_tree.limit_mark` has it.
    """

    cgroup_procs: str
    limit: int

    def take(self) -> None:
        """To be called in the process that becomes a worker, before it starts anything. Fails at nothing."""
        process_tree.set_limit_mark(self.limit)
        cgroup.join(self.cgroup_procs)

    def put_on(self, pid: int) -> None:
        """For a worker that can't take them by itself. The supervisor moves it into the cgroup."""
        process_tree.set_limit_mark(self.limit, pid)
