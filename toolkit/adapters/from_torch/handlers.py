"""The names under which torch's event handlers are registered."""

from __future__ import annotations

from toolkit.core.errors import ConfigurationError

#: the handler that drops everything; torch need not be asked about it
NO_HANDLER = "null"


def event_handlers() -> list[str]:
    """Names that `torch.distributed.elastic.events` has a handler for.

    Raises:
        ConfigurationError: torch is not installed.
    """
    try:
        from torch.distributed.elastic.events import handlers
    except ImportError as error:
        raise ConfigurationError(
            f"event handlers are torch's, and torch can't be imported ({error}); leave --event-log-handler out"
        ) from error
    # The table is where torch looks a name up, and where programs register theirs.
    return sorted(getattr(handlers, "_log_handlers", {NO_HANDLER: None}))
