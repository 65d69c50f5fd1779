"""Bad input on this machine is found before anything starts, and said in one line."""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.ports import free_port
from toolkit.core.errors import ConfigurationError
from toolkit.fronts import preflight
from toolkit.fronts.command_line.options import RunOptions, parse


def options(line: str, **environ: str) -> RunOptions:
    return parse(line.split(), environ)


def silent(_elapsed_s: float, _why: str) -> None:
    pass


def check(line: str, cwd: Path, **environ: str) -> preflight.Checked:
    (cwd / "train.py").touch()
    environ = {"PATH": "/usr/bin:/bin", **environ}
    return preflight.check(parse(line.split(), environ), environ, cwd, sys.executable, silent)


def refusal(line: str, cwd: Path, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(line, cwd, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


def test_a_good_run_passes(tmp_path: Path) -> None:
    line = "--nproc 2 --log-dir logs/deep --run-dir run --redirects 0:3,1:1 --local-ranks-filter 1 train.py"
    assert check(line, tmp_path) == preflight.Checked(nproc=2)
    assert not (tmp_path / "logs").exists()


def test_a_missing_script(tmp_path: Path) -> None:
    assert "there is no script" in refusal("trial.py", tmp_path)


@pytest.mark.parametrize("option", ["--log-dir", "--run-dir"])
def test_folders_that_cant_be(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert refusal(f"{option} file train.py", tmp_path) == (
        f"{option} is file, which is a file; give the path of a folder"
    )
    assert refusal(f"{option} file/x train.py", tmp_path) == (
        f"{option} is file/x, and {tmp_path}/file is a file; give the path of a folder"
    )
    assert "which is a link to nothing" in refusal(f"{option} link train.py", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    message = refusal("--run-dir shut/run train.py", tmp_path)
    assert f"nothing can be written to {tmp_path}/shut; give another folder" in message


def counting(**devices: int) -> preflight.Count:
    def count(kind: str, environ: Mapping[str, str], python: str) -> int:
        if kind not in devices:
            raise ConfigurationError(f"{kind!r} is no kind of device")
        return devices[kind]

    return count


def test_nproc_words_become_numbers() -> None:
    count = counting(gpu=4, cpu=16, auto=4, npu=8)
    for word, number in {"gpu": 4, "cpu": 16, "auto": 4, "npu": 8}.items():
        assert preflight.resolve_nproc(word, {}, "python", count) == number
    assert preflight.resolve_nproc(3, {}, "python", count) == 3


@pytest.mark.parametrize(
    ("word", "environ", "message"),
    [
        (
            "gpu",
            {},
            "--nproc-per-node is gpu, and there is no GPU that torch can use; give a number, cpu or auto",
        ),
        ("gpu", {"CUDA_VISIBLE_DEVICES": ""}, "no GPU that torch can use with CUDA_VISIBLE_DEVICES=''; give"),
        ("xpu", {}, "--nproc-per-node is xpu, and there is no XPU that torch can use; give a number"),
        ("four", {}, "--nproc-per-node is 'four': 'four' is no kind of device"),
    ],
)
def test_nproc_words_without_a_device(word: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        preflight.resolve_nproc(word, environ, "python", counting(gpu=0, xpu=0))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--redirects 0:3,1:3 t.py", "--redirects names local rank 1, and the only local rank is 0"),
        ("--nproc 2 --tee 2:3 t.py", "--tee names local rank 2, and the local ranks are 0 to 1"),
        ("--nproc 2 --local-ranks-filter 0,7 t.py", "--local-ranks-filter names local rank 7"),
    ],
)
def test_local_ranks_that_are_not_there(line: str, message: str) -> None:
    run = options(line)
    assert isinstance(run.nproc, int)
    with pytest.raises(ConfigurationError) as caught:
        preflight.check_local_ranks(run, run.nproc)
    assert message in str(caught.value)


def test_virtual_local_ranks_need_a_gpu_each(tmp_path: Path) -> None:
    line = "--virtual-local-rank --nproc 2 train.py"
    message = refusal(line, tmp_path, CUDA_VISIBLE_DEVICES="3")
    assert "gives each of 2 workers a GPU of its own, and CUDA_VISIBLE_DEVICES=3 shows 1" in message
    assert "shows 0" in refusal(line, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert check(line, tmp_path, CUDA_VISIBLE_DEVICES="3,4").nproc == 2
    assert check(line, tmp_path).nproc == 2


def test_a_port_in_use_names_who_has_it(tmp_path: Path, taken_port: int, free_port: int) -> None:
    message = refusal(f"--master-port {taken_port} train.py", tmp_path)
    assert message.startswith(f"port {taken_port} of --master-port is in use by ")
    assert f"(pid {os.getpid()})" in message
    assert message.endswith("; give another port, or leave --master-port out for a free one")
    assert check(f"--master-port {free_port} train.py", tmp_path) == preflight.Checked(1)


@pytest.mark.torch
def test_node_0_needs_its_port(tmp_path: Path, taken_port: int, free_port: int) -> None:
    pytest.importorskip("torch")
    for backend in ("static", "rally"):
        line = f"--nnodes 2 --rdzv-backend {backend} --node-rank 0 --master-port"
        message = refusal(f"{line} {taken_port} train.py", tmp_path)
        assert message.startswith(f"port {taken_port} of the rendezvous endpoint is in use by ")
        found = check(f"{line} {free_port} train.py", tmp_path)
        assert found == preflight.Checked(1, hosts_endpoint=True, local_addr="127.0.0.1")


@pytest.mark.torch
def test_a_shared_endpoint_may_be_served_by_another_agent_here(
    tmp_path: Path, taken_port: int, free_port: int
) -> None:
    pytest.importorskip("torch")
    for port in (taken_port, free_port):
        line = f"--nnodes 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} train.py"
        assert check(line, tmp_path) == preflight.Checked(1, True, "127.0.0.1")


@pytest.mark.torch
@pytest.mark.parametrize("ranks", ["", "--node-rank 1"])
def test_several_agents_on_one_machine_meet(
    tmp_path: Path, taken_port: int, free_port: int, ranks: str
) -> None:
    """Whoever comes first serves; who comes next finds the port taken, and that is right."""
    pytest.importorskip("torch")
    assert check(f"--nnodes 2 {ranks} --master-port {taken_port} train.py", tmp_path) == preflight.Checked(
        1, True, "127.0.0.1"
    )
    if not ranks:
        line = f"--nnodes 2 --master-port {free_port} train.py"
        assert check(line, tmp_path) == preflight.Checked(1, True, "127.0.0.1")


@pytest.mark.torch
def test_an_endpoint_where_something_else_answers(tmp_path: Path, free_port: int) -> None:
    pytest.importorskip("torch")

    def greet() -> None:
        with suppress(OSError):
            while True:
                with closing(server.accept()[0]) as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")

    with closing(socket.create_server(("127.0.0.1", free_port))) as server:
        threading.Thread(target=greet, daemon=True).start()
        message = refusal(f"--nnodes 2 --rdzv-endpoint 127.0.0.1:{free_port} train.py", tmp_path)
        server.shutdown(socket.SHUT_RDWR)
    assert message == (
        f"rendezvous endpoint: at 127.0.0.1:{free_port} answers something that is no TCPStore; it says "
        "'SSH-2.0-OpenSSH_9.7'; give another port, the same on every node"
    )


@pytest.mark.torch
@pytest.mark.parametrize(
    "meeting",
    ["--rdzv-backend c10d --rdzv-conf read_timeout=1", "--rdzv-conf store_timeout=1,lease=0.5,beat=0.2"],
)
def test_an_endpoint_that_cant_be_resolved_or_reached(tmp_path: Path, meeting: str) -> None:
    pytest.importorskip("torch")
    line = f"--nnodes 2 {meeting} --rdzv-endpoint {{}} train.py"
    message = refusal(line.format("nowhere.invalid:29400"), tmp_path)
    assert message.startswith(
        "rendezvous endpoint: the host name 'nowhere.invalid' can't be resolved, tried for 1."
    )
    message = refusal(line.format("192.0.2.77:29400"), tmp_path)  # TEST-NET-1: nobody has it
    assert message.startswith("rendezvous endpoint: 192.0.2.77:29400 can't be reached, tried for ")
    assert "(192.0.2.77: " in message


@pytest.mark.torch
def test_plugins_that_are_not_installed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    message = refusal("--rdzv-backend c10 --rdzv-endpoint a:1 --nnodes 2 train.py", tmp_path)
    assert message == "--rdzv-backend is 'c10', and no installed package has that; did you mean c10d?"
    message = refusal("--rdzv-backend xyzzy --rdzv-endpoint a:1 --nnodes 2 train.py", tmp_path)
    assert message.count("rally") == 1, "a backend that is built in and installed is told once"
    assert "--logs-specs is 'mine', and no installed" in refusal("--logs-specs mine train.py", tmp_path)
