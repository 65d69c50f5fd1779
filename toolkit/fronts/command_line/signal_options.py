"""Which signals end the job and which go on to the workers: `--signals-to-handle`, `--forward-signals`."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line import option_values

_OF_AN_ERROR = "which tells of an error in the agent itself"
#: what would end a job that nobody wants to end, or an agent that can't go on to end it in order
_NOT_HANDLED = {
    signal.SIGCHLD: "by which the agent learns that its workers end",
    signal.SIGPIPE: "which tells the agent of a closed pipe of its own",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL), _OF_AN_ERROR),
}
#: what the agent needs for itself besides
_NOT_FORWARDED = {
    **_NOT_HANDLED,
    signal.SIGALRM: "by which the agent ends when its exit hangs",
    **dict.fromkeys((signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS), _OF_AN_ERROR),
}


def signals_to_handle(text: str, name: str) -> tuple[signal.Signals, ...]:
    """The signals that end the job.

    Args:
        text: as given.
        name: of the option, or where its value came from.

    Raises:
        ConfigurationError: one that is no signal, or that can't end a job in order.
    """
    found = option_values.signals(text, name)
    _refuse(found, _NOT_HANDLED, name)
    return found


def _refuse(found: Sequence[signal.Signals], those: Mapping[signal.Signals, str], name: str) -> None:
    for sig in found:
        if sig in those:
            raise ConfigurationError(f"{name} names {sig.name}, {those[sig]}; leave it out")


def forward_signals(
    text: str, death_signals: Sequence[signal.Signals], sources: Mapping[str, str]
) -> tuple[signal.Signals, ...]:
    """The signals of `--forward-signals`.

    Args:
        text: as given.
        death_signals: those that end the job.
        sources: dest -> where the value came from.

    Raises:
        ConfigurationError: one that is no signal, that can't be handed on, or that ends the job.
    """
    if not text.strip():
        return ()
    name = sources.get("forward_signals", "--forward-signals")
    found = option_values.signals(text, name)
    _refuse(found, _NOT_FORWARDED, name)
    both = [sig.name for sig in found if sig in death_signals]
    if both:
        raise ConfigurationError(
            f"{name} names {' and '.join(both)}, and so does "
            f"{sources.get('signals_to_handle', 'the default of --signals-to-handle')}: "
            "a signal can't both end the job and go on to workers that run on; "
            "leave it out of one of them. (The workers get the signal that ends the job in any case.)"
        )
    return found
