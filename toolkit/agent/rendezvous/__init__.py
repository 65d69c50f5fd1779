"""Our rendezvous: counted seats, one coordinator with epochs, leases, one story of who failed first.

`handler.py` is what an agent's loop sees; `keeper.py` is the task that talks to the store; `coordinator.py` is what one
keeper of the job does besides. What is decided and why is in `toolkit.core.rounds`.
"""

from toolkit.agent.rendezvous.handler import Offer, RallyRendezvous

__all__ = ["Offer", "RallyRendezvous"]
