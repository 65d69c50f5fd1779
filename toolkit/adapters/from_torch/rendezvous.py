"""torch's rendezvous handlers (c10d, static, etcd, out of tree). Whoever makes one pays for importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.adapters.from_torch.breakable import BreakableRendezvous
from toolkit.core.errors import ConfigurationError, RendezvousConnectionError

#: with this variable set to "1" torch's dynamic rendezvous gives the workers of each round a store of their own
FRESH_WORKER_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
#: those in whose wait Python runs no signal handler
_WAITS_IN_CPP = ("static",)


@dataclass(frozen=True, slots=True)
class RendezvousSettings:
    """What a rendezvous of several nodes needs.

    Args:
        backend: "c10d", "static", "etcd", "etcd-v2", or a registered name.
        endpoint: "host:port".
        run_id: the job.
        min_nodes: agents without which no round starts.
        max_nodes: agents that a round admits.
        local_addr: address of this node as others reach it, or None.
        config: what the backend takes besides.
    """

    backend: str
    endpoint: str
    run_id: str
    min_nodes: int
    max_nodes: int
    local_addr: str | None
    config: Mapping[str, Any]


def make_handler(settings: RendezvousSettings) -> Any:
    """torch's handler for these settings.

    Raises:
        ConfigurationError: torch is missing, or the backend is unknown or doesn't take these settings.
        RendezvousConnectionError: the endpoint doesn't answer.
    """
    try:
        from torch.distributed.elastic import rendezvous
        from torch.distributed.elastic.rendezvous import registry
    except ImportError as error:
        raise ConfigurationError(
            f"rendezvous backend {settings.backend!r} is torch's, and torch can't be imported ({error}); "
            "pip install torch, or use --standalone for one node"
        ) from error
    try:
        parameters = rendezvous.RendezvousParameters(
            backend=settings.backend,
            endpoint=settings.endpoint,
            run_id=settings.run_id,
            min_nodes=settings.min_nodes,
            max_nodes=settings.max_nodes,
            local_addr=settings.local_addr,
            **settings.config,
        )
        handler = registry.get_rendezvous_handler(parameters)
        return BreakableRendezvous(handler) if settings.backend in _WAITS_IN_CPP else handler
    except rendezvous.RendezvousConnectionError as error:
        raise RendezvousConnectionError(
            f"rendezvous endpoint {settings.endpoint} can't be used: {error.__cause__ or error}"
        ) from error
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigurationError(f"rendezvous backend {settings.backend!r}: {error}") from error
