"""torch's event and metric handlers. torch is not imported for them: who configured a handler has imported it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_EVENTS = "torch.distributed.elastic.events"
_METRICS = "torch.distributed.elastic.metrics"


class TorchTelemetry:
    """Implements `toolkit.ports.Telemetry` over torch's handlers, and drops what nobody listens to."""

    def put_metric(self, name: str, value: int, group: str) -> None:
        """Hand a metric to the handler configured for `group`, if torch's metrics are in use."""
        metrics = sys.modules.get(_METRICS)
        if metrics is not None:
            metrics.put_metric(name, value, group)

    def wanted(self, destination: str) -> bool:
        """Whether events for `destination` reach anybody."""
        return destination != "null" or _EVENTS in sys.modules

    def record(self, event: Any, destination: str) -> None:
        """Hand a status event to torch's handler of that name.

        Raises:
            ModuleNotFoundError: a handler other than "null" was named and torch is not installed.
        """
        importlib.import_module(_EVENTS).record(event, destination)
