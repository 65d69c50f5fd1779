"""What is called how in the store. All names begin with the run's; see `toolkit/README.md` for who writes what."""

from __future__ import annotations


class Keys:
    """Names of the keys of one job.

    Args:
        run_id: the job.
    """

    def __init__(self, run_id: str) -> None:
        self._job = f"rally/{run_id}"
        #: a token by which one store is told from another at the same address
        self.born = f"{self._job}/born"
        #: what all agree on; changed by compare-and-set only
        self.head = f"{self._job}/head"
        #: the coordinator's sign of life, with its epoch
        self.pulse = f"{self._job}/pulse"
        #: how many cards were taken
        self.joins = f"{self._job}/joins"
        self.report = f"{self._job}/report"

    def mark(self, token: str) -> str:
        """Is there in the store that has this token, and in no other."""
        return f"{self._job}/born/{token}"

    def beat(self, node: str) -> str:
        """A node's sign of life: a number that grows, or "left"."""
        return f"{self._job}/beat/{node}"

    def card(self, seat: int) -> str:
        """What the node that took this number says of itself."""
        return f"{self._job}/card/{seat}"

    def seat(self, node: str) -> str:
        """What a node is told; empty until it is."""
        return f"{self._job}/seat/{node}"

    def bell(self, version: int) -> str:
        """Comes into being when the head has this version, and holds it. Whoever waits for news waits for the next."""
        return f"{self._job}/bell/{version}"

    def plan(self, number: int, epoch: int) -> str:
        """A round as the coordinator of an epoch decided it."""
        return f"{self._job}/round/{number}/plan/{epoch}"

    def failures(self, number: int) -> str:
        """Who failed in a round, a line each, in the order of the writing."""
        return f"{self._job}/round/{number}/failures"

    def finished(self, number: int) -> str:
        """How many nodes of a round have succeeded."""
        return f"{self._job}/round/{number}/finished"

    def done(self, number: int, group_rank: int) -> str:
        """That one of them has."""
        return f"{self._job}/round/{number}/done/{group_rank}"

    def exchange(self, number: int) -> str:
        """Prefix for what agents of a round tell each other themselves, as torch's do."""
        return f"{self._job}/round/{number}/agents"
