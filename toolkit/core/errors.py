"""The error tree: every error that Rallypoint raises itself.

RallyError
├── ConfigurationError (ValueError)      what the user asked for can't be; nothing was started
│   └── SpecError (AssertionError)       a WorkerSpec that can't be; torch raises AssertionError there
├── LaunchError                          the workers could not be started; those that were are stopped
├── RendezvousError                      the group could not form; the names and their meaning are torch's
│   ├── RendezvousClosedError
│   ├── RendezvousTimeoutError
│   ├── RendezvousConnectionError
│   ├── RendezvousStateError
│   ├── RendezvousRefusedError           this node may not take part; says why and what to do
│   └── RendezvousGracefulExitError      this node is not needed; not a failure
├── StoreError
│   ├── StoreTimeoutError (TimeoutError) a key did not come in time; names the keys and the wait
│   └── StoreLostError                   the store of the job is gone; names its address
├── RecordingError                       a run directory that can't be read or written
├── ControlError                         a running agent that can't be asked or told something
│   └── AgentGoneError                   nobody listens there any more: the run has ended, or the agent died
├── JobFailedError                       a job that somebody waited for has failed; says who failed first, and where
├── UnknownGroupState                    the worker group is in a state from which no decision follows
└── SignalException                      the agent was told to end; carries `sigval`

A message says what was wrong, the value, and what to do about it.
"""

from __future__ import annotations

import signal


class RallyError(Exception):
    """Base of every error raised by Rallypoint."""

    def _render_traceback_(self) -> list[str]:
        # A notebook shows what to do, not where in our code that was found out.
        return [f"{type(self).__name__}: {self}"]


class ConfigurationError(RallyError, ValueError):
    """What was asked for can't be done. Raised before anything is started."""


class SpecError(ConfigurationError, AssertionError):
    """A `WorkerSpec` that can't be. Also an `AssertionError`, as torch raises for the same input."""


class LaunchError(RallyError):
    """The workers could not be started. Whatever was started has been stopped again."""


class RendezvousError(RallyError):
    """The group could not form."""


class RendezvousClosedError(RendezvousError):
    """The rendezvous is closed: the job has ended."""


class RendezvousTimeoutError(RendezvousError):
    """The rendezvous did not complete in time."""


class RendezvousConnectionError(RendezvousError):
    """The rendezvous endpoint can't be reached."""


class RendezvousStateError(RendezvousError):
    """The rendezvous state is corrupt."""


class RendezvousRefusedError(RendezvousError):
    """The job does not take this node: it differs from the others in something they must share."""


class RendezvousGracefulExitError(RendezvousError):
    """This node was not included in the round and leaves; not a failure."""


class StoreError(RallyError):
    """A store operation failed."""


class StoreTimeoutError(StoreError, TimeoutError):
    """A key did not come into being in time."""


class StoreLostError(StoreError):
    """The store where the nodes of a job meet can't be reached any more. Names its address."""


class RecordingError(RallyError):
    """A run directory can't be read or written."""


class ControlError(RallyError):
    """A running agent can't be asked or told something."""


class AgentGoneError(ControlError):
    """Nobody listens where the agent should: the run has ended, or the agent has died."""


class JobFailedError(RallyError):
    """A job that somebody waited for has failed. Names the rank that failed first, with its traceback."""


class UnknownGroupState(RallyError):
    """The worker group is in a state from which no decision follows."""


class SignalException(RallyError):
    """The agent received a death signal. Same shape as torch's class of that name.

    Args:
        msg: what happened, in words.
        sigval: the signal.
    """

    def __init__(self, msg: str, sigval: signal.Signals) -> None:
        super().__init__(msg)
        self.sigval = sigval

    @classmethod
    def of(cls, pid: int, signum: int) -> SignalException:
        """For a signal that the process got."""
        sigval = signal.Signals(signum)
        return cls(f"process {pid} got {sigval.name}", sigval)


def death_signal(error: BaseException) -> signal.Signals | None:
    """The signal that `error` stands for, or None.

    An error with a `sigval` is a death signal, whoever defined its class: a subclass of the agent that
    starts its processes with torch's `start_processes` gets torch's `SignalException`.
    """
    sigval = getattr(error, "sigval", None)
    return sigval if isinstance(sigval, signal.Signals) else None


def is_graceful_exit(error: BaseException) -> bool:
    """Whether `error` says that this node is not needed: our class, or torch's of the same name."""
    return any(cls.__name__ == RendezvousGracefulExitError.__name__ for cls in type(error).__mro__)
