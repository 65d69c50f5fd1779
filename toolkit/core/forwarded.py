"""Signals that agents handed on to their workers, folded: a part of `core/timeline.py`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from toolkit.core import events
from toolkit.core.history import Forwarded, Node
from toolkit.core.moment import Moment
from toolkit.core.node_changes import appended

#: of one node that are kept, the latest ones
_KEPT_MAX = 64


def signal_forwarded(draft: Any, node: Node, event: events.SignalForwarded, at: Moment) -> Node:
    """The node that said so."""
    went = Forwarded(event.signal, tuple(event.local_ranks), tuple(event.waiting), at)
    return replace(node, forwarded=appended(node.forwarded, went, _KEPT_MAX))
