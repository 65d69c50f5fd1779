"""The options of `rally run` as one table: those of torchrun, name by name, and ours.

Names, defaults, choices and meaning are those of `torch/distributed/run.py` (torch 2.13), which is not
imported; one default is ours, that of `--rdzv-backend`.
"""

from __future__ import annotations

from functools import partial

from toolkit.fronts.command_line import control_options, hang_options, log_options, restart_options
from toolkit.fronts.command_line.option import Option, comma_separated

_SIZE, _SCRIPT, _RESTART = "size of the job", "what the workers run", "supervision"
_RENDEZVOUS, _LOGS, _OURS = "how nodes find each other", "logs", "only in rally"

#: an option that torchrun does not have
_ours = partial(Option, ours=True, group=_OURS)

OPTIONS: tuple[Option, ...] = (
    Option(
        "nnodes",
        "Nodes of the job: a number, or MIN:MAX for a job that may shrink and grow. Default: 1.",
        "N|MIN:MAX",
        default="1:1",
        group=_SIZE,
    ),
    Option(
        "nproc-per-node",
        "Workers on this node: a number; gpu, xpu or cpu for one per device; auto for one per GPU of any "
        "make, or per CPU core where there is none. Default: 1.",
        "N|WORD",
        default="1",
        group=_SIZE,
    ),
    Option(
        "rdzv-backend",
        "How the nodes meet: rally, or torch's static, c10d, etcd, etcd-v2, or the name of a plug-in. Default: rally.",
        "NAME",
        default="rally",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-endpoint",
        "Where they meet, usually HOST:PORT; the same on every node. Default for rally and static: --master-addr.",
        "HOST:PORT",
        default="",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-id",
        "Name of the job; the same on every node, different for each job.",
        "NAME",
        default="none",
        group=_RENDEZVOUS,
    ),
    Option(
        "rdzv-conf",
        "Settings of the backend, KEY=VALUE separated by commas; rally has join_timeout, last_call_timeout, "
        "lease, beat, store_timeout, join_window, spare, is_host.",
        "KEY=VALUE,...",
        default="",
        group=_RENDEZVOUS,
    ),
    Option(
        "standalone",
        "One node that asks nobody else; the --rdzv options are ignored.",
        flag=True,
        default=False,
        group=_RENDEZVOUS,
    ),
    Option(
        "max-restarts",
        "How often the workers are started again after a failure. Default: 0.",
        "N",
        kind=int,
        default=0,
        group=_RESTART,
    ),
    restart_options.OPTION,
    Option(
        "monitor-interval",
        "Longest time between two looks at the workers; an exit is seen at once in any case. Default: 0.1.",
        "SECONDS",
        kind=float,
        default=0.1,
        group=_RESTART,
    ),
    Option(
        "start-method",
        "How Python starts workers that are functions (--run-path). Default: spawn.",
        "METHOD",
        default="spawn",
        choices=("spawn", "fork", "forkserver"),
        group=_SCRIPT,
    ),
    Option(
        "event-log-handler",
        "Handler of torch.distributed.elastic.events that also gets the events. Default: null.",
        "NAME",
        default="null",
        group=_LOGS,
    ),
    Option("role", "Role of these workers. Default: default.", "NAME", default="default", group=_SIZE),
    Option(
        "module", "SCRIPT is a module, as for python -m.", short="-m", flag=True, default=False, group=_SCRIPT
    ),
    Option(
        "no-python",
        "SCRIPT is a program of any kind; run it without Python.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    Option(
        "run-path",
        "Run SCRIPT, an absolute path, inside the worker's interpreter; stronger than --no-python.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    Option("log-dir", "Folder for the workers' logs.", "DIR", group=_LOGS),
    Option(
        "redirects",
        "Streams that go to a file only: 0 none, 1 stdout, 2 stderr, 3 both, or a map by local rank such as "
        "0:3,1:2. Default: 0.",
        "STREAMS",
        short="-r",
        default="0",
        group=_LOGS,
    ),
    Option(
        "tee",
        "Streams that go to a file and to the console; written as for --redirects. Default: 0.",
        "STREAMS",
        short="-t",
        default="0",
        group=_LOGS,
    ),
    Option(
        "local-ranks-filter",
        "Local ranks that show on the console, such as 0,1. Files get all. Default: all.",
        "RANK,...",
        default="",
        group=_LOGS,
    ),
    Option(
        "duplicate-stdout-filters",
        "Words; teed lines of stdout with one of them also go to one file for all ranks. Two commas make one.",
        "WORD,...",
        kind=comma_separated,
        default=[],
        group=_LOGS,
    ),
    Option(
        "duplicate-stderr-filters",
        "The same for stderr.",
        "WORD,...",
        kind=comma_separated,
        default=[],
        group=_LOGS,
    ),
    Option(
        "node-rank",
        "Rank of this node, from 0; for static and rally. Default: 0, with rally open.",
        "RANK",
        kind=int,
        default=0,
        group=_RENDEZVOUS,
    ),
    Option(
        "master-addr",
        "Address of node 0; for static and rally. Default: 127.0.0.1.",
        "HOST",
        default="127.0.0.1",
        group=_RENDEZVOUS,
    ),
    Option(
        "master-port",
        "Port on node 0; for static and rally. Default: 29500, and a free one on a single node.",
        "PORT",
        kind=int,
        group=_RENDEZVOUS,
    ),
    Option(
        "local-addr", "Address of this node, if the one that is found is wrong.", "HOST", group=_RENDEZVOUS
    ),
    Option(
        "logs-specs",
        "Plug-in of the group torchrun.logs_specs that decides where logs go.",
        "NAME",
        in_environment=False,
        group=_LOGS,
    ),
    Option(
        "numa-binding",
        "Bind each worker to CPUs near its GPU: node, socket, exclusive or core-complex.",
        "MODE",
        choices=("node", "socket", "exclusive", "core-complex"),
        in_environment=False,
        group=_SCRIPT,
    ),
    Option(
        "signals-to-handle",
        "Signals that end the job in order. Default: SIGTERM,SIGINT,SIGHUP,SIGQUIT.",
        "SIGNAL,...",
        default="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        group=_RESTART,
    ),
    Option(
        "shutdown-timeout",
        "Time that workers have to end before SIGKILL. Default: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, or 30.",
        "SECONDS",
        kind=int,
        group=_RESTART,
    ),
    Option(
        "virtual-local-rank",
        "Each worker sees one GPU, its own, as device 0, and LOCAL_RANK=0.",
        flag=True,
        default=False,
        group=_SCRIPT,
    ),
    _ours(
        "run-dir",
        "Folder for the recording of this run. Default: a new one under the user's state folder.",
        "DIR",
    ),
    _ours("quiet", "No status line, no notices.", short="-q", flag=True, default=False),
    _ours(
        "spares",
        "How many nodes may wait beside a full round, on top of --nnodes. Default: any number.",
        "N",
        kind=int,
    ),
    _ours(
        "topology",
        "Label of this node, such as its rack; like labels get ranks side by side. Default: RALLY_TOPOLOGY.",
        "LABEL",
        in_environment=False,
    ),
    _ours(
        "readings-interval",
        "Time between two readings of what the workers and GPUs use; 0 for none. Default: 1.",
        "SECONDS",
        kind=float,
        default=1.0,
    ),
    _ours(
        "exit-barrier-timeout",
        "How long a node that is done waits for the others; not with rally. Default: 300.",
        "SECONDS",
        kind=float,
        default=300.0,
    ),
    *hang_options.OPTIONS,
    _ours(
        "forward-signals",
        "Signals to the agent that go on to each worker's first process, such as Slurm's SIGUSR1 before the time "
        "limit. Who has no handler for one yet gets it once it has. Default: none.",
        "SIGNAL,...",
        default="",
    ),
    *log_options.OPTIONS,
    *control_options.OPTIONS,
)
