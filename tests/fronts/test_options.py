"""What a run is to do, from its command line: torchrun's rules, and a clear word where they are broken."""

import signal

import pytest

from toolkit.adapters.processes.script_path import run_script_path
from toolkit.core.errors import ConfigurationError
from toolkit.core.launch_plan import Std
from toolkit.core.rounds import Settings
from toolkit.fronts.command_line.options import RunOptions, ScriptKind, parse

STATIC = "--nnodes 2 --rdzv-backend static"


def options(line: str, **environ: str) -> RunOptions:
    return parse(line.split(), environ)


def test_defaults_are_torchruns_save_for_the_backend() -> None:
    run = options("train.py --lr 1")
    assert (run.kind, run.script, run.script_args) == (ScriptKind.SCRIPT, "train.py", ("--lr", "1"))
    assert (run.min_nodes, run.max_nodes, run.nproc, run.node_rank) == (1, 1, 1, 0)
    assert (run.rdzv_backend, run.rdzv_endpoint, run.rdzv_id) == ("rally", "", "none")
    assert (run.max_restarts, run.monitor_interval_s, run.start_method, run.role) == (
        0,
        0.1,
        "spawn",
        "default",
    )
    assert (run.redirects, run.tee, run.local_ranks_filter) == (Std.NONE, Std.NONE, None)
    assert (run.shutdown_timeout_s, run.exit_barrier_timeout_s) == (30, 300.0)
    assert run.readings_interval_s == 1.0
    assert run.signals_to_handle == (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    assert (run.log_dir, run.run_dir, run.local_addr, run.logs_specs, run.numa_binding) == (None,) * 5
    assert run.solo
    assert run.notices == ()


@pytest.mark.parametrize(
    ("line", "solo", "run_id"),
    [
        ("t.py", True, None),
        ("--standalone t.py", True, None),
        ("--standalone --rdzv-backend etcd --rdzv-endpoint e:1 --rdzv-id job t.py", True, None),
        ("--rdzv-id job t.py", True, "job"),
        ("--rdzv-backend c10d t.py", True, None),
        ("--rdzv-backend static t.py", True, None),
        ("--rdzv-backend rally --rdzv-endpoint localhost:0 t.py", True, None),
        ("--spares 0 t.py", True, None),
        ("--spares 1 t.py", False, "none"),
        ("--rdzv-endpoint node0:29400 t.py", False, "none"),
        ("--standalone --spares 1 --topology r t.py", True, None),
        ("--rdzv-backend c10d --rdzv-endpoint localhost:0 t.py", True, None),
        ("--master-port 29501 --master-addr 10.0.0.1 t.py", True, None),
        ("--rdzv-backend c10d --rdzv-endpoint node0:29400 t.py", False, "none"),
        ("--rdzv-backend etcd t.py", False, "none"),
        ("--rdzv-backend plugin t.py", False, "none"),
        ("--nnodes 2 t.py", False, "none"),
        ("--nnodes 1:2 --rdzv-backend c10d --rdzv-endpoint a:1 --rdzv-id job t.py", False, "job"),
    ],
)
def test_one_node_without_an_endpoint_is_solo(line: str, solo: bool, run_id: str | None) -> None:
    assert (options(line).solo, options(line).run_id) == (solo, run_id)


def test_static_nodes_meet_at_the_masters_address() -> None:
    assert options(f"{STATIC} t.py").rdzv_endpoint == "127.0.0.1:29500"
    run = options(f"{STATIC} --node-rank 1 --master-addr node0 --master-port 1234 t.py")
    assert run.rdzv_endpoint == "node0:1234"
    assert run.endpoint_address == ("node0", 1234)
    assert run.rdzv_conf == {"timeout": 900, "rank": 1}
    assert run.hosted_endpoint is False
    assert run.endpoint_timeout_s == 900
    assert options(f"{STATIC} --master-addr fd00::1 t.py").endpoint_address == ("fd00::1", 29500)
    assert run.rally is None


def test_the_workers_master_is_the_static_endpoint() -> None:
    assert options(f"{STATIC} t.py").master == ("127.0.0.1", 29500)
    assert options(f"{STATIC} --rdzv-endpoint node0:7 --master-addr node1 t.py").master == ("node0", 7)
    assert options("--master-port 7 t.py").master is None
    assert options("--nnodes 2 t.py").master is None
    assert options("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 t.py").master is None


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("--master-port 29501 t.py", 29501),
        ("--master-port 0 t.py", None),
        ("t.py", None),
        (f"{STATIC} t.py", 29500),
        (f"{STATIC} --node-rank 1 t.py", None),
        ("--nnodes 2 t.py", None),
        ("--nnodes 2 --node-rank 0 t.py", 29500),
        ("--nnodes 2 --node-rank 1 t.py", None),
        ("--nnodes 2 --node-rank 0 --rdzv-endpoint a:1 t.py", None),
        ("--nnodes 2 --rdzv-endpoint a:1 --rdzv-conf is_host=1 t.py", 1),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 t.py", None),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --rdzv-conf is_host=1 t.py", 1),
    ],
)
def test_the_port_that_must_be_free(line: str, port: int | None) -> None:
    assert options(line).fixed_port == port


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("--rdzv-backend c10d --rdzv-endpoint node0 t.py", ("node0", 29400)),
        ("--rdzv-endpoint node0 t.py", ("node0", 29400)),
        ("--rdzv-endpoint [::1] t.py", ("::1", 29400)),
        ("--master-addr node0 t.py", ("node0", 29500)),
        ("--rdzv-backend etcd --rdzv-endpoint node0 t.py", ("node0", 2379)),
        ("--rdzv-backend etcd-v2 t.py", ("localhost", 2379)),
        ("--rdzv-backend c10d --rdzv-endpoint [::1]:8 t.py", ("::1", 8)),
        ("--rdzv-backend c10d --rdzv-endpoint [::1] t.py", ("::1", 29400)),
        ("--rdzv-backend c10d --rdzv-conf store_type=file --rdzv-endpoint /tmp/x t.py", None),
        ("--rdzv-backend plugin --rdzv-endpoint what://ever t.py", None),
    ],
)
def test_endpoints_as_torch_reads_them(line: str, address: tuple[str, int] | None) -> None:
    assert options(f"--nnodes 2 {line}").endpoint_address == address


def test_a_command_line_for_torchruns_static_works_with_ours() -> None:
    head = options("--nnodes 2 --node-rank 0 --master-addr head --master-port 29501 t.py")
    other = options("--nnodes 2 --node-rank 1 --master-addr head --master-port 29501 t.py")
    assert head.endpoint_address == other.endpoint_address == ("head", 29501)
    assert head.rally is not None
    assert other.rally is not None
    assert (head.rally.node_rank, other.rally.node_rank) == (0, 1)
    assert (head.hosted_endpoint, other.hosted_endpoint) == (True, False)
    assert (head.solo, head.notices, other.notices) == (False, (), ())
    by_variable = options("--nnodes 2 --master-addr head t.py", PET_NODE_RANK="1").rally
    assert by_variable is not None
    assert by_variable.node_rank == 1


def test_a_rank_that_nobody_gave_is_open_and_the_machine_of_the_endpoint_hosts() -> None:
    rally = options("--nnodes 1:4 --rdzv-endpoint head t.py").rally
    assert rally is not None
    assert (rally.node_rank, rally.may_host, rally.spare, rally.topology) == (None, None, False, "")
    assert (rally.settings.min_nodes, rally.settings.max_nodes, rally.settings.spares) == (1, 4, None)
    # With c10d, whose command lines look like this, a rank says nothing of who hosts.
    ranked = options("--nnodes 1:4 --rdzv-endpoint head --node-rank 0 t.py")
    assert ranked.rally is not None
    assert (ranked.rally.node_rank, ranked.hosted_endpoint) == (0, None)


def test_settings_of_our_rendezvous() -> None:
    line = (
        "--nnodes 2 --rdzv-endpoint head --spares 3 --max-restarts 7 --rdzv-conf join_timeout=90,"
        "last_call_timeout=0,lease=1.5,beat=0.25,store_timeout=20.5,join_window=0.5,spare=yes,is_host=no t.py"
    )
    run = options(line)
    assert run.rally is not None
    assert run.rally.settings == Settings(
        min_nodes=2,
        max_nodes=2,
        max_restarts=7,
        spares=3,
        beat_s=0.25,
        lease_s=1.5,
        last_call_s=0,
        join_timeout_s=90,
        join_window_s=0.5,
        store_timeout_s=20.5,
    )
    assert (run.rally.spare, run.hosted_endpoint, run.endpoint_timeout_s) == (True, False, 20.5)
    assert options("--nnodes 2 --rdzv-conf read_timeout=9 t.py").endpoint_timeout_s == 9
    assert options("--nnodes 2 --rdzv-conf store_timeout=9,read_timeout=9.0 t.py").endpoint_timeout_s == 9
    assert options("--nnodes 2 t.py").endpoint_timeout_s == 60


def test_the_topology_comes_from_the_option_then_from_the_machine() -> None:
    def topology(line: str, **environ: str) -> str:
        rally = options(line, **environ).rally
        assert rally is not None
        return rally.topology

    assert topology("--nnodes 2 t.py") == ""
    assert topology("--nnodes 2 t.py", RALLY_TOPOLOGY=" rack 7 ") == "rack 7"
    assert topology("--nnodes 2 --topology rack8 t.py", RALLY_TOPOLOGY="rack 7") == "rack8"
    with pytest.raises(ConfigurationError, match=r"^RALLY_TOPOLOGY is 'xxx.*'; give a label of at most 200"):
        options("--nnodes 2 t.py", RALLY_TOPOLOGY="x" * 201)
    with pytest.raises(ConfigurationError, match="--topology is"):
        parse(["--nnodes", "2", "--topology", "a\nb", "t.py"], {})


def test_commands() -> None:
    assert options("t.py a").command("/py") == ("/py", ("-u", "t.py", "a"))
    assert options("t.py a", PYTHON_EXEC="/other").command("/py") == ("/other", ("-u", "t.py", "a"))
    assert options("-m pkg.mod a").command("/py") == ("/py", ("-u", "-m", "pkg.mod", "a"))
    assert options("--no-python run.sh a").command("/py") == ("run.sh", ("a",))
    assert options("--run-path --no-python /t.py a").command("/py") == (run_script_path, ("/t.py", "a"))


def test_omp_num_threads_is_1_for_several_workers_unless_it_is_set() -> None:
    assert options("t.py").omp_num_threads(1) is None
    assert options("t.py").omp_num_threads(2) == 1
    assert options("t.py", OMP_NUM_THREADS="8").omp_num_threads(2) is None


def test_values_are_typed() -> None:
    run = options(
        "--nproc-per-node gpu --redirects 0:3,12:1 --tee 3 --local-ranks-filter 0,12 --signals-to-handle "
        "SIGUSR1,SIGTERM,SIGUSR1 --duplicate-stdout-filters a,b --shutdown-timeout 0 --log-dir logs "
        "--run-dir here --exit-barrier-timeout 1.5 -q --virtual-local-rank --rdzv-conf join_timeout=5 t.py",
        TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE="${rank}|",
    )
    assert run.nproc == "gpu"
    assert (run.redirects, run.tee) == ({0: Std.ALL, 12: Std.OUT}, Std.ALL)
    assert run.local_ranks_filter == {0, 12}
    assert run.signals_to_handle == (signal.SIGUSR1, signal.SIGTERM)
    assert (run.stdout_filters, run.stderr_filters) == (("a", "b"), ())
    assert (run.shutdown_timeout_s, run.exit_barrier_timeout_s) == (0, 1.5)
    assert options("--readings-interval 0 t.py").readings_interval_s == 0
    assert (run.log_dir, run.run_dir, run.quiet, run.virtual_local_rank) == ("logs", "here", True, True)
    assert run.log_line_prefix_template == "${rank}|"
    assert run.rdzv_conf["join_timeout"] == "5"


def test_the_shutdown_timeout_comes_from_the_option_then_from_torchs_variable() -> None:
    assert options("t.py", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="7").shutdown_timeout_s == 7
    assert options("--shutdown-timeout 3 t.py", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="7").shutdown_timeout_s == 3


@pytest.mark.parametrize(
    ("line", "notice"),
    [
        ("--standalone --rdzv-id job t.py", "--rdzv-id has no effect with --standalone"),
        (
            "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --master-addr b t.py",
            "--master-addr has no effect",
        ),
        (
            "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --node-rank 1 t.py",
            "--node-rank has no effect",
        ),
        (
            "--nnodes 2 --rdzv-backend c10d t.py",
            "the nodes meet at localhost:29400, which only agents on this",
        ),
        ("--nnodes 1:2 --rdzv-backend static t.py", "static waits for all 2 nodes; rally can start with 1"),
        (f"{STATIC} --rdzv-conf join_timeout=5 t.py", "static does not read join_timeout"),
        (f"{STATIC} --rdzv-conf lease=5 t.py", "static does not read lease"),
        (f"{STATIC} --spares 1 t.py", "--spares has no effect: it is for the backend rally"),
        (f"{STATIC} --topology r t.py", "--topology has no effect: it is for the backend rally"),
        ("--standalone --spares 1 t.py", "--spares has no effect with --standalone"),
        ("--topology r t.py", "--topology has no effect on a single node"),
        (
            "--nnodes 2 t.py",
            "the nodes meet at 127.0.0.1:29500, which only agents on this machine reach",
        ),
        (
            "--nnodes 2 --rdzv-endpoint a:1 --master-port 7 t.py",
            "--master-port has no effect: the nodes meet at --rdzv-endpoint",
        ),
        (
            "--nnodes 2 --rdzv-endpoint a:1 --exit-barrier-timeout 7 t.py",
            "--exit-barrier-timeout has no effect: a node that is done waits as long as the others live",
        ),
        (
            "--nnodes 2 --rdzv-endpoint a:1 --rdzv-conf close_timeout=5 t.py",
            "the backend rally does not read close_timeout",
        ),
        (
            "--rdzv-endpoint a:1 --rdzv-conf keep_alive_interval=5 t.py",
            "the backend rally does not read keep_alive_interval",
        ),
        (
            "--nnodes 4 --rdzv-endpoint a:1 --spares 1 t.py",
            "--nnodes 4 --spares 1: 4 nodes train and 1 waits, start 5 agents",
        ),
        (
            "--nnodes 1 --rdzv-endpoint a:1 --spares 2 t.py",
            "--nnodes 1 --spares 2: 1 node trains and 2 wait, start 3 agents",
        ),
        ("t.py --nproc_per_node=2", "--nproc_per_node stands behind the script"),
        ("--log-max-size 2GB t.py", "--log-max-size has no effect: no output goes to files"),
        (
            "--duplicate-stdout-filters loss --redirects 3 --tee 0:2 t.py",
            "--duplicate-stdout-filters has no effect: it is for lines of stdout that are teed; see --tee",
        ),
        ("--duplicate-stderr-filters loss --tee 1 t.py", "lines of stderr that are teed"),
        (
            "--standalone --exit-barrier-timeout 7 t.py",
            "--exit-barrier-timeout has no effect with --standalone",
        ),
        ("--exit-barrier-timeout 7 t.py", "--exit-barrier-timeout has no effect on a single node"),
        (
            "--max-restarts 2 --restart-policy backoff,crash-loop=4 t.py",
            "crash-loop=4 of --restart-policy has no effect with --max-restarts 2, which is used up first",
        ),
    ],
)
def test_options_without_effect_are_noticed(line: str, notice: str) -> None:
    (found,) = options(line).notices
    assert notice in found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nnodes 3:1 t.py", "--nnodes is '3:1', more at least than at most; write 1:3"),
        ("--nnodes 0 t.py", "--nnodes is '0'; a job has at least 1 node"),
        ("--nnodes 0:2 t.py", "--nnodes is '0:2'; a job has at least 1 node"),
        ("--nnodes=-1 t.py", "--nnodes is '-1'; a job has at least 1 node"),
        ("--nnodes a:b t.py", "--nnodes is 'a:b'; give a number of nodes such as 2, or MIN:MAX such as 1:4"),
        ("--nnodes 1:2:3 t.py", "--nnodes is '1:2:3'; give a number"),
        ("--nproc 0 t.py", "--nproc-per-node is 0; a node has at least 1 worker"),
        ("--nproc -2 t.py", "--nproc-per-node is -2; a node has at least 1 worker"),
        ("--nproc 2.5 t.py", "--nproc-per-node is '2.5'; give a number or cpu, gpu, xpu or auto"),
        ("--max-restarts -1 t.py", "--max-restarts is -1; give 0 or more restarts"),
        ("--monitor-interval 0 t.py", "--monitor-interval is 0.0; give a number of seconds above 0"),
        ("--monitor-interval nan t.py", "--monitor-interval is nan; give a number of seconds above 0"),
        ("--exit-barrier-timeout inf t.py", "--exit-barrier-timeout is inf"),
        ("--readings-interval 0.1 t.py", "--readings-interval is 0.1; give at least 0.25 seconds, or 0"),
        ("--readings-interval -1 t.py", "--readings-interval is -1.0; give at least 0.25 seconds, or 0"),
        ("--readings-interval inf t.py", "--readings-interval is inf; give at least 0.25 seconds, or 0"),
        ("--shutdown-timeout -1 t.py", "--shutdown-timeout is -1; give 0 or more seconds"),
        ("--nnodes 2 --node-rank 2 t.py", "--node-rank is 2, and with --nnodes 2 the last rank is 1"),
        ("--nnodes 2 --node-rank -1 t.py", "--node-rank is -1"),
        ("--master-port 70000 t.py", "--master-port is 70000; give a port from 1 to 65535"),
        ("--nnodes 2 --master-port 0 t.py", "the endpoint 127.0.0.1:0 has port 0"),
        ("--spares 1 --rdzv-endpoint localhost:0 t.py", "the endpoint localhost:0 has port 0"),
        (f"{STATIC} --node-rank 2 t.py", "--node-rank is 2, and with --nnodes 2 the last rank is 1"),
        ("--nnodes 2 --spares -1 t.py", "--spares is -1; give 0 or more nodes that wait beside the 2 of"),
        ("--nnodes 2 --rdzv-conf lease=0 t.py", "--rdzv-conf has lease=0; lease must be a number of seconds"),
        ("--nnodes 2 --rdzv-conf beat=nan t.py", "beat must be a number of seconds above 0"),
        ("--nnodes 2 --rdzv-conf join_window=-1 t.py", "join_window must be a number of seconds, 0 or more"),
        ("--nnodes 2 --rdzv-conf spare=maybe t.py", "spare must be true or false"),
        (
            "--nnodes 2 --rdzv-conf lease=1 t.py",
            "--rdzv-conf: a lease of 1 s is too short for a beat each 1 s; give a lease of at least 2 s",
        ),
        (
            "--nnodes 2 --rdzv-conf store_timeout=4 t.py",
            "--rdzv-conf: a store timeout of 4 s is not longer than the lease of 4 s",
        ),
        (
            "--nnodes 2 --rdzv-conf store_timeout=40,read_timeout=50 t.py",
            "has store_timeout=40 and read_timeout=50, two names for one thing; leave one of them out",
        ),
        ("--standalone --nnodes 2 t.py", "--standalone runs one node, and --nnodes asks for 2"),
        ("-m --no-python t", "--module and --no-python exclude each other"),
        ("--run-path t.py", "--run-path needs an absolute path, and the script is 't.py'"),
        ("--redirects 4 t.py", "--redirects is '4'"),
        ("-t 0:9 t.py", "--tee is '0:9'"),
        ("--local-ranks-filter 0,x t.py", "--local-ranks-filter is '0,x'; give local ranks with commas"),
        ("--signals-to-handle TERM t.py", "names 'TERM', which is not a signal here; did you mean SIGTERM?"),
        (
            "--signals-to-handle , t.py",
            "names '', which is not a signal here; give names such as SIGTERM,SIGUSR1",
        ),
        (
            "--signals-to-handle SIGTERM,SIGKILL t.py",
            "names SIGKILL, which no process can handle; leave it out",
        ),
        ("--signals-to-handle SIGSTOP t.py", "names SIGSTOP, which no process can handle"),
        (
            "--signals-to-handle SIGTERM,SIGCHLD t.py",
            "--signals-to-handle names SIGCHLD, by which the agent learns that its workers end; leave it out",
        ),
        ("--signals-to-handle SIGSEGV t.py", "names SIGSEGV, which tells of an error in the agent itself"),
        ("--signals-to-handle SIGPIPE t.py", "names SIGPIPE, which tells the agent of a closed pipe"),
        (
            "--nnodes 2 --rdzv-endpoint a:99999 t.py",
            "--rdzv-endpoint is 'a:99999'; the port must be a number",
        ),
        (f"{STATIC} --rdzv-endpoint a t.py", "--rdzv-endpoint is 'a' and names no port; write a:29500"),
        ("--nnodes 2 --rdzv-endpoint http://a:1 t.py", "an IPv6 address in brackets: [::1]:29400"),
        (
            "--nnodes 2 --rdzv-endpoint a/b:1 t.py",
            "write HOST:PORT with the name or the address of a machine",
        ),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint ::1 t.py", "in brackets: [::1]:29400"),
        ("--rdzv-conf join_timout=5 t.py", "did you mean join_timeout, timeout, store_timeout?"),
        (
            "--rdzv-backend static --rdzv-conf xyz=5 t.py",
            "the backend static does not know; its keys are timeout, rank",
        ),
        (
            "--rdzv-conf xyz=5 t.py",
            "the backend rally does not know; its keys are join_timeout, last_call_timeout, lease, beat",
        ),
        ("--rdzv-conf join_timeout t.py", "--rdzv-conf has 'join_timeout'; write key=value"),
        ("--rdzv-conf join_timeout=x t.py", "join_timeout must be a number of seconds above 0"),
        (
            "--rdzv-backend c10d --rdzv-conf join_timeout=1.5 t.py",
            "join_timeout must be a whole number of seconds, at least 1",
        ),
        ("--rdzv-backend c10d --rdzv-conf is_host=maybe t.py", "is_host must be true or false"),
    ],
)
def test_what_cant_be_is_one_line_with_its_remedy(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_variable_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"^PET_NNODES is '3:1'"):
        options("t.py", PET_NNODES="3:1")
    with pytest.raises(ConfigurationError, match=r"^PET_RDZV_CONF: a lease of 1 s is too short"):
        options("t.py", PET_RDZV_CONF="lease=1")
    with pytest.raises(ConfigurationError, match=r"^TORCH_ELASTIC_SHUTDOWN_TIMEOUT is 'x'"):
        options("t.py", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="x")


def test_the_documented_name_of_the_heartbeat_timeout_works() -> None:
    line = "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint a:1 --rdzv-conf heartbeat=9 t.py"
    assert options(line).rdzv_conf["heartbeat_timeout"] == "9"


def test_a_backend_that_is_not_torchs_takes_any_key() -> None:
    assert options("--rdzv-backend mine --rdzv-conf colour=red t.py").rdzv_conf["colour"] == "red"


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_torchs_handlers_take_the_settings(backend: str) -> None:
    api = pytest.importorskip("torch.distributed.elastic.rendezvous.api")
    run = options(f"--nnodes 2 --rdzv-backend {backend} --rdzv-endpoint 127.0.0.1:1 t.py")
    params = api.RendezvousParameters(
        run.rdzv_backend, run.rdzv_endpoint, str(run.run_id), run.min_nodes, run.max_nodes, **run.rdzv_conf
    )
    assert params.get_as_int("timeout") == 900
