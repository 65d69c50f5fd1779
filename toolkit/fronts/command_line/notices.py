"""Options that have no effect where they stand, or may be meant otherwise: `rally run` says so and goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.core.launch_plan import Std, parse_std
from toolkit.fronts.command_line import rally_options, restart_options
from toolkit.fronts.command_line.arguments import Arguments
from toolkit.fronts.command_line.option_table import OPTIONS
from toolkit.fronts.command_line.rendezvous_settings import DEFAULT_PORTS, RALLY, STATIC, unread_keys

#: options that a script hardly has itself; behind the script they are likely misplaced
_OFTEN_MISPLACED = ("nproc-per-node", "nnodes", "standalone", "rdzv-backend", "rdzv-endpoint", "max-restarts")

#: options of a rendezvous, which one node alone does without
_OF_NODES = (
    *("rdzv_backend", "rdzv_endpoint", "rdzv_id", "node_rank", "spares", "topology"),
    "exit_barrier_timeout",
)

#: options by which what workers write is kept
_KEEPS_LOGS = {"redirects", "tee", "duplicate_stdout_filters", "duplicate_stderr_filters", "logs_specs"}


def notices(
    arguments: Arguments, min_nodes: int, max_nodes: int, conf: Mapping[str, str], endpoint: str
) -> list[str]:
    """Sentences on options that have no effect here, or may be meant otherwise."""
    values, given = arguments.values, arguments.sources
    backend, several = values.rdzv_backend, max_nodes > 1 and not values.standalone
    found = []
    if values.standalone:
        found += [f"{given[dest]} has no effect with --standalone" for dest in _OF_NODES if dest in given]
    elif backend == RALLY:
        several = several or bool(endpoint)
        found += rally_options.notices(arguments, min_nodes, max_nodes, endpoint)
    elif backend != STATIC or values.rdzv_endpoint:
        unused = [d for d in ("master_addr", "master_port") if d in given and several]
        found += [f"{given[dest]} has no effect here: it is for the backend static" for dest in unused]
        if backend != STATIC and values.node_rank != 0:
            found.append(f"{given['node_rank']} has no effect: the backend {backend} gives out the ranks")
    if backend != RALLY and not values.standalone:
        unused = [d for d in ("spares", "topology") if d in given]
        found += [f"{given[dest]} has no effect: it is for the backend rally" for dest in unused]
    if several and backend in DEFAULT_PORTS and not endpoint:
        here = f"localhost:{DEFAULT_PORTS[backend]}"
        found.append(f"no --rdzv-endpoint: the nodes meet at {here}, which only agents on this machine reach")
    if backend == STATIC and several and min_nodes < max_nodes:
        found.append(f"the backend static waits for all {max_nodes} nodes; rally can start with {min_nodes}")
    if several:
        unread = unread_keys(conf, backend)
        found += [f"{given['rdzv_conf']}: the backend {backend} does not read {key}" for key in unread]
    found += restart_options.notices(values, given)
    if "logs_specs" not in given:
        found += _filters_without_lines(arguments)
    if "log_max_size" in given and not _KEEPS_LOGS & given.keys():
        found.append(
            f"{given['log_max_size']} has no effect: no output goes to files; see --redirects and --tee"
        )
    return found + _misplaced(values.training_script_args)


def _filters_without_lines(arguments: Arguments) -> list[str]:
    """Filters take lines of what is teed, as torch's do."""
    return [
        f"{arguments.sources[dest]} has no effect: it is for lines of {stream} that are teed; see --tee"
        for dest, stream, bit in (
            ("duplicate_stdout_filters", "stdout", Std.OUT),
            ("duplicate_stderr_filters", "stderr", Std.ERR),
        )
        if dest in arguments.sources and not _may_be_teed(arguments, bit)
    ]


def _may_be_teed(arguments: Arguments, bit: Std) -> bool:
    """Whether that stream of some worker is."""
    tee = parse_std(arguments.values.tee, arguments.name("tee"))
    return any(bit & each for each in ([tee] if isinstance(tee, Std) else tee.values()))


def _misplaced(script_args: Sequence[str]) -> list[str]:
    spellings = {
        name: option.long for option in OPTIONS if option.name in _OFTEN_MISPLACED for name in option.names
    }
    heads = dict.fromkeys(word.partition("=")[0] for word in script_args)
    return [
        f"{word} stands behind the script and goes to the script; for rally it must stand before it"
        for word in heads
        if word in spellings
    ]
