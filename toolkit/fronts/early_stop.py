"""A death signal before there is an agent: the recording says so all the same."""

from __future__ import annotations

from toolkit.agent.reporting import Reporter
from toolkit.core import events
from toolkit.core.errors import SignalException
from toolkit.fronts.command_line.options import RunOptions
from toolkit.ports import Ports


def tell_early_stop(
    options: RunOptions, run_id: str, nproc: int, error: SignalException, ports: Ports
) -> None:
    """Say what an agent would have said that got the signal before it had done anything.

    Args:
        options: of the run.
        run_id: the job.
        nproc: workers that this node would have had.
        error: the signal.
        ports: those of the agent.
    """
    reporter, name = Reporter(ports, lambda: run_id), error.sigval.name
    reporter.say(
        events.AgentStarted,
        pid=ports.host.pid(),
        hostname=ports.host.hostname(),
        role=options.role,
        local_world_size=nproc,
        restarts_max=options.max_restarts,
        backend=options.backend,
        entrypoint=options.script,
    )
    reporter.say(events.SignalReceived, signal=name, count=ports.interrupts.count())
    reporter.say(events.AgentFinished, result="SIGNAL", reason=f"the agent got {name}", duration_s=0.0)
