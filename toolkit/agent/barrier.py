"""The exit barrier over a store: nobody leaves before all have finished, because one of them hosts the store.

The keys are torch's, so that agents of both kinds can meet at one barrier.
"""

from __future__ import annotations

from typing import Any

from toolkit.ports import Stores

TERMINAL_STATE_SYNC_ID = "torchelastic/agent/terminal_state"


def wait_for_all(stores: Stores, store: Any, members: int, timeout_s: float) -> None:
    """Check in and wait until `members` agents have.

    Raises:
        StoreTimeoutError: not all came within `timeout_s` seconds.
        StoreError: the store failed.
        SignalException: a death signal came.
    """
    last_member = f"{TERMINAL_STATE_SYNC_ID}/last_member"
    if store.add(f"{TERMINAL_STATE_SYNC_ID}/num_members", 1) == members:
        store.set(last_member, "all are here")
    stores.wait(store, [last_member], timeout_s)
