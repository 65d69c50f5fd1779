"""What stops an agent that no part of the toolkit foresees, in words that say what can be done."""

from __future__ import annotations

from toolkit.core.errors import RallyError


def no_thread_left(error: Exception) -> bool:
    """Whether the kernel has refused a thread. Python has no class of errors for that; root never meets it."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def in_words(error: Exception) -> str:
    """An error of the agent: what it says, with its class unless it is one of ours."""
    if no_thread_left(error):
        return "no more threads may be started; raise the limit (ulimit -u, or that of the container)"
    return str(error) if isinstance(error, RallyError) else f"{type(error).__name__}: {error}"
