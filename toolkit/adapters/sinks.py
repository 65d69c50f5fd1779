"""Event sinks that only pass on: to several others, to nobody, to Python's logging."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from toolkit.core import events
from toolkit.ports import EventSink

logger = logging.getLogger("toolkit")


class FanOut:
    """Implements `toolkit.ports.EventSink`: every event goes to all sinks, in their order."""

    def __init__(self, sinks: Sequence[EventSink]) -> None:
        self._sinks = tuple(sinks)

    def emit(self, event: events.Event) -> None:
        """Pass it on."""
        for sink in self._sinks:
            sink.emit(event)


class LoggingSink:
    """Implements `toolkit.ports.EventSink` for programs that use the agent as a library: logger "toolkit"."""

    def emit(self, event: events.Event) -> None:
        """Log failures and signals as warnings, the rest at level INFO."""
        level = logging.INFO
        if isinstance(event, events.FailureRecorded | events.RendezvousFailed | events.SignalReceived):
            level = logging.WARNING
        if logger.isEnabledFor(level):
            logger.log(level, "%s", _line(event))


def _line(event: events.Event) -> str:
    try:
        return events.encode(event).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        # A path that is no UTF-8, a value that is no JSON: emit never raises, and the log is for people.
        return ascii(event)
