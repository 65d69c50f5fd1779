"""Which signals go on to the workers: `--forward-signals`."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line import option_values

#: what the agent needs for itself, or what tells of an error in its own process
_NOT_FORWARDED = {
    signal.SIGCHLD: "by which the agent learns that its workers end",
    signal.SIGALRM: "by which the agent ends when its exit hangs",
    signal.SIGPIPE: "which tells the agent of a closed pipe of its own",
    **dict.fromkeys(
        (
            signal.SIGSEGV,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGILL,
            signal.SIGABRT,
            signal.SIGTRAP,
            signal.SIGSYS,
        ),
        "which tells of an error in the agent itself",
    ),
}


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
    for sig in found:
        if sig in _NOT_FORWARDED:
            raise ConfigurationError(f"{name} names {sig.name}, {_NOT_FORWARDED[sig]}; leave it out")
    both = [sig.name for sig in found if sig in death_signals]
    if both:
        raise ConfigurationError(
            f"{name} names {' and '.join(both)}, and so does "
            f"{sources.get('signals_to_handle', 'the default of --signals-to-handle')}: "
            "a signal can't both end the job and go on to workers that run on; "
            "leave it out of one of them. (The workers get the signal that ends the job in any case.)"
        )
    return found
