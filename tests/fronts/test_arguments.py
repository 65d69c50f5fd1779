"""The arguments are torchrun's: held against the parser of the torch that is installed, option by option."""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.arguments import build_parser, parse_arguments
from toolkit.fronts.command_line.option import comma_separated
from toolkit.fronts.command_line.option_table import OPTIONS

OURS = {
    *("--forward-signals", "--forward_signals"),
    *("--run-dir", "--run_dir", "--quiet", "-q", "--exit-barrier-timeout", "--exit_barrier_timeout"),
    *("--spares", "--topology", "--readings-interval", "--readings_interval"),
    *("--control-addr", "--control_addr", "--control-token-file", "--control_token_file"),
    *("--control-tls-cert", "--control_tls_cert", "--control-tls-key", "--control_tls_key"),
    *("--control-tls-ca", "--control_tls_ca", "--log-max-size", "--log_max_size"),
    *("--on-hang", "--on_hang", "--hang-timeout", "--hang_timeout"),
    *("--restart-policy", "--restart_policy"),
}
#: defaults that are not torchrun's: dest -> ours, torchrun's
OWN_DEFAULTS = {"rdzv_backend": ("rally", "static")}

EXAMPLES = {
    "nnodes": "2:4",
    "nproc_per_node": "auto",
    "rdzv_backend": "c10d",
    "rdzv_endpoint": "node0:29400",
    "rdzv_id": "job 7",
    "rdzv_conf": "join_timeout=9,last_call_timeout=1",
    "max_restarts": "3",
    "monitor_interval": "0.5",
    "start_method": "fork",
    "event_log_handler": "console",
    "role": "trainer",
    "log_dir": "/logs",
    "redirects": "0:3,1:2",
    "tee": "3",
    "local_ranks_filter": "0,1",
    "duplicate_stdout_filters": "apple,a,,b",
    "duplicate_stderr_filters": "",
    "node_rank": "1",
    "master_addr": "10.0.0.1",
    "master_port": "29501",
    "local_addr": "10.0.0.2",
    "logs_specs": "mine",
    "numa_binding": "node",
    "signals_to_handle": "SIGTERM,SIGUSR1",
    "shutdown_timeout": "5",
}


@contextmanager
def torchs_parser(environ: Mapping[str, str] = {}) -> Iterator[argparse.ArgumentParser]:
    """torch's parser, whose defaults it takes from `os.environ` when it is made."""
    run = pytest.importorskip("torch.distributed.run")
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PET_")}
    os.environ.update(environ)
    try:
        yield run.get_args_parser()
    finally:
        for name in environ:
            del os.environ[name]
        os.environ.update(saved)


def by_dest(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser._actions}


def torchs(argv: list[str], environ: Mapping[str, str] = {}) -> dict[str, Any]:
    with torchs_parser(environ) as parser:
        return vars(parser.parse_args(argv))


def ours(argv: list[str], environ: Mapping[str, str] = {}) -> dict[str, Any]:
    arguments = parse_arguments(argv, environ)
    values = vars(arguments.values)
    for dest, (here, theirs) in OWN_DEFAULTS.items():
        if dest not in arguments.sources:
            assert values[dest] == here
            values[dest] = theirs
    own = {option.dest for option in OPTIONS if option.ours}
    return {dest: values[dest] for dest in values if dest not in own}


@pytest.mark.torch
def test_every_option_of_torchrun_is_there_with_its_names_choices_and_default() -> None:
    with torchs_parser() as theirs:
        expected, mine = by_dest(theirs), by_dest(build_parser())
    assert set(expected) <= set(mine), "options of torchrun that are missing"
    for dest, action in expected.items():
        same = mine[dest]
        assert set(same.option_strings) == set(action.option_strings), dest
        assert (same.default, action.default) == OWN_DEFAULTS.get(dest, (action.default,) * 2), dest
        assert same.nargs == action.nargs, dest
        assert list(same.choices or ()) == list(action.choices or ()), dest
    extra = {name for dest in set(mine) - set(expected) for name in mine[dest].option_strings}
    assert extra == OURS


@pytest.mark.torch
def test_the_examples_cover_every_option_that_takes_a_value() -> None:
    with torchs_parser() as theirs:
        valued = {
            dest for dest, action in by_dest(theirs).items() if action.option_strings and action.nargs != 0
        }
    assert set(EXAMPLES) == valued


@pytest.mark.torch
def test_values_from_the_command_line_are_read_as_torchrun_reads_them() -> None:
    for option in (option for option in OPTIONS if not option.ours):
        for name in option.names:
            words = [name] if option.flag else [name, EXAMPLES[option.dest]]
            argv = [*words, "train.py", "--lr", "1"]
            assert ours(argv) == torchs(argv), argv


@pytest.mark.torch
def test_values_from_the_environment_are_read_as_torchrun_reads_them() -> None:
    for option in (option for option in OPTIONS if not option.ours):
        for value in ("0", "1") if option.flag else (EXAMPLES[option.dest],):
            environ = {f"PET_{option.dest.upper()}": value}
            assert ours(["train.py"], environ) == torchs(["train.py"], environ), environ


@pytest.mark.torch
def test_every_abbreviation_that_torchrun_takes_means_the_same_here() -> None:
    with torchs_parser() as theirs:
        names = sorted(name for name in theirs._option_string_actions if name.startswith("--"))
        actions = theirs._option_string_actions
    for name in names:
        for end in range(3, len(name) + 1):
            prefix = name[:end]
            meant = {actions[known].dest for known in names if known.startswith(prefix)}
            if prefix in actions:
                meant = {actions[prefix].dest}
            if len(meant) != 1 or meant == {"help"}:
                continue
            (dest,) = meant
            words = [prefix] if actions[name].nargs == 0 else [f"{prefix}={EXAMPLES[dest]}"]
            assert list(parse_arguments([*words, "train.py"], {}).sources) == [dest], prefix


@pytest.mark.torch
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_torchrun_accepts_is_read_alike(data: st.DataObject) -> None:
    options = [option for option in OPTIONS if not option.ours]
    argv: list[str] = []
    for option in data.draw(st.lists(st.sampled_from(options), max_size=5)):
        name = data.draw(st.sampled_from(option.names))
        if option.flag:
            argv.append(name)
        elif data.draw(st.booleans()):
            argv += [name, EXAMPLES[option.dest]]
        else:
            argv.append(f"{name}={EXAMPLES[option.dest]}")
    argv += data.draw(st.sampled_from([[], ["--"]]))
    argv.append(data.draw(st.sampled_from(["train.py", "-1", "a b"])))
    argv += data.draw(
        st.lists(st.sampled_from(["--", "--lr", "-x", "1", "--tee", "-1", "--nnodes=2"]), max_size=4)
    )
    assert ours(argv) == torchs(argv)


def test_what_follows_the_script_is_the_scripts_own() -> None:
    values = parse_arguments(["--nproc", "2", "train.py", "--m", "1", "-h", "--nnodes", "x"], {}).values
    assert values.training_script == "train.py"
    assert values.training_script_args == ["--m", "1", "-h", "--nnodes", "x"]
    assert values.nproc_per_node == "2"


def test_short_options_can_share_a_word() -> None:
    values = parse_arguments(["-mqr3", "-t=1", "package.train"], {}).values
    assert (values.module, values.quiet, values.redirects, values.tee) == (True, True, "3", "1")


def test_ours_can_be_abbreviated_where_torchruns_leave_room() -> None:
    values = parse_arguments(["--run-d", "here", "--quie", "--ex", "9", "--sp", "2", "train.py"], {}).values
    assert (values.run_dir, values.quiet, values.exit_barrier_timeout, values.spares) == (
        "here",
        True,
        9.0,
        2,
    )
    assert parse_arguments(["--run", "/train.py"], {}).values.run_path is True


def test_the_command_line_beats_the_environment_and_both_are_named_as_sources() -> None:
    environ = {"PET_NNODES": "3", "PET_ROLE": "other", "PET_QUIET": "1", "PET_LOGS_SPECS": "no variable"}
    arguments = parse_arguments(["--nnodes", "2", "train.py"], environ)
    assert (arguments.values.nnodes, arguments.values.role, arguments.values.quiet) == ("2", "other", True)
    assert arguments.values.logs_specs is None
    assert [arguments.name(dest) for dest in ("nnodes", "role", "tee")] == ["--nnodes", "PET_ROLE", "--tee"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "there is no script to run; the form is: rally run [options] SCRIPT [arguments of the script]"),
        ("--nproc 2", "there is no script to run"),
        ("--nprocs 2 t.py", "--nprocs is not an option; did you mean --nproc-per-node?"),
        ("--max_restart_count 2 t.py", "did you mean --max-restarts?"),
        ("--gpus 2 t.py", "--gpus is not an option; `rally run --help` lists the options"),
        ("-x t.py", "-x is not an option"),
        ("-nnodes 2 t.py", "-nnodes is not an option; write it with two dashes: --nnodes"),
        ("--ma 2 t.py", "--ma could be --max-restarts, --master-addr or --master-port; write it in full"),
        ("--rdzv-id --standalone t.py", "--rdzv-id needs a value (NAME)"),
        ("--rdzv-id", "--rdzv-id needs a value (NAME)"),
        ("--standalone=yes t.py", "--standalone takes no value, and '--standalone=yes' gives one"),
        ("--max-restarts many t.py", "--max-restarts is 'many'; give a whole number"),
        ("--spares some t.py", "--spares is 'some'; give a whole number"),
        ("--monitor_interval soon t.py", "--monitor-interval is 'soon'; give a number"),
        ("--start-method thread t.py", "--start-method is 'thread'; give spawn, fork or forkserver"),
        (
            "--numa-binding core t.py",
            "--numa-binding is 'core'; give node, socket, exclusive or core-complex",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(argv: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_arguments(argv.split(), {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PET_STANDALONE", "true", "PET_STANDALONE is 'true'; give 1 or 0"),
        ("PET_MAX_RESTARTS", "", "PET_MAX_RESTARTS is ''; give a whole number"),
        ("PET_START_METHOD", "thread", "PET_START_METHOD is 'thread'; give spawn, fork or forkserver"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        parse_arguments(["train.py"], {variable: value})


def test_help_lists_each_option_once_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--nnodes", "2", "-h"], {"PET_MAX_RESTARTS": "broken"})
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in OPTIONS:
        assert f"{option.long} " in shown or f"{option.long}\n" in shown
    assert "--nproc_per_node" not in shown


@given(items=st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1))
def test_doubled_commas_carry_any_words(items: list[str]) -> None:
    if any(item.startswith(",") or item.endswith(",") for item in items):
        return  # which comma of three separates can't be told
    assert comma_separated(",".join(item.replace(",", ",,") for item in items)) == items
