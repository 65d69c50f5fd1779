"""What the options say to our own rendezvous: the settings of the job, what this node brings, where they meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.core import rally_conf
from toolkit.core.errors import ConfigurationError
from toolkit.core.rounds import Settings
from toolkit.core.words import plural
from toolkit.fronts.command_line.arguments import Arguments

#: the variable with the label of a machine, which is the same for every job there
TOPOLOGY_VARIABLE = "RALLY_TOPOLOGY"
#: torch's port for `--master-addr`, if none is given
MASTER_PORT = 29500
_LABEL_MAX = 200


@dataclass(frozen=True, slots=True)
class RallyOptions:
    """What our own rendezvous is to do.

    Args:
        settings: what all nodes of the job have in common.
        node_rank: group rank that was asked for; None leaves it open.
        topology: label of this node; nodes with one label get ranks beside each other.
        spare: whether this node would rather wait.
        may_host: whether this node hosts the store; None where that depends on whose address the endpoint is.
    """

    settings: Settings
    node_rank: int | None
    topology: str
    spare: bool
    may_host: bool | None

    @property
    def several(self) -> bool:
        """Whether there can be more than one node."""
        return self.settings.max_nodes > 1 or bool(self.settings.spares)


def rally_options(
    arguments: Arguments, min_nodes: int, max_nodes: int, conf: Mapping[str, str], environ: Mapping[str, str]
) -> RallyOptions:
    """Read them.

    Args:
        conf: of `--rdzv-conf`.
        environ: where the label of this machine is looked up.

    Raises:
        ConfigurationError: a value that can't be.
    """
    values = arguments.values
    if values.spares is not None and values.spares < 0:
        raise ConfigurationError(
            f"{arguments.name('spares')} is {values.spares}; give 0 or more nodes that wait beside the "
            f"{max_nodes} of --nnodes, or leave it out for any number"
        )
    settings = rally_conf.job_settings(
        conf,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        max_restarts=values.max_restarts,
        spares=values.spares,
        name=arguments.name("rdzv_conf"),
    )
    node_rank = values.node_rank if "node_rank" in arguments.sources else None
    may_host = rally_conf.may_host(conf)
    if may_host is None and node_rank is not None and not values.rdzv_endpoint:
        # As with the backend static: who is told to be node 0 hosts, whatever --master-addr leads to.
        may_host = node_rank == 0
    return RallyOptions(
        settings, node_rank, _topology(arguments, environ), rally_conf.wants_to_wait(conf), may_host
    )


def _topology(arguments: Arguments, environ: Mapping[str, str]) -> str:
    given = arguments.values.topology
    label = (environ.get(TOPOLOGY_VARIABLE, "") if given is None else given).strip()
    if len(label) > _LABEL_MAX or not label.isprintable():
        source = TOPOLOGY_VARIABLE if given is None else "--topology"
        raise ConfigurationError(
            f"{source} is {label[:60]!r}; give a label of at most {_LABEL_MAX} characters on one line, such as the "
            "name of the rack"
        )
    return label


def notices(arguments: Arguments, min_nodes: int, max_nodes: int, endpoint: str) -> list[str]:
    """Options that have no effect with our own rendezvous, or may be meant otherwise.

    Args:
        endpoint: where the nodes meet.
    """
    values, given = arguments.values, arguments.sources
    spares = values.spares or 0
    if max_nodes == 1 and not spares and not values.rdzv_endpoint:
        return [
            f"{given[dest]} has no effect on a single node"
            for dest in ("topology", "exit_barrier_timeout")
            if dest in given
        ]
    found = []
    if values.rdzv_endpoint:
        unused = [dest for dest in ("master_addr", "master_port") if dest in given]
        found += [
            f"{given[dest]} has no effect: the nodes meet at {arguments.name('rdzv_endpoint')}"
            for dest in unused
        ]
    elif "master_addr" not in given:
        found.append(
            f"no --rdzv-endpoint: the nodes meet at {endpoint}, which only agents on this machine reach"
        )
    if "exit_barrier_timeout" in given:
        found.append(
            f"{given['exit_barrier_timeout']} has no effect: a node that is done waits as long as the others live"
        )
    if spares and min_nodes == max_nodes:
        train = f"{plural(max_nodes, 'node')} {'trains' if max_nodes == 1 else 'train'}"
        wait = f"{spares} {'waits' if spares == 1 else 'wait'}"
        agents = max_nodes + spares
        found.append(
            f"--nnodes {values.nnodes} {given['spares']} {spares}: {train} and {wait}, start {agents} agents"
        )
    return found
