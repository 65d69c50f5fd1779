"""Scripts, modules and programs are told apart before a worker would trip over them."""

import os
import stat
import sys
from pathlib import Path

import pytest

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.options import parse
from toolkit.fronts.script_checks import check_script


def check(words: list[str], cwd: Path, **environ: str) -> None:
    check_script(parse(words, environ), {"PATH": "/usr/bin:/bin", **environ}, cwd, sys.executable)


def refusal(words: list[str], cwd: Path, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(words, cwd, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, text: str | bytes, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_missing_script_and_the_file_that_is_like_it(tmp_path: Path) -> None:
    assert refusal(["train.py"], tmp_path) == f"there is no script {tmp_path}/train.py; check the path"
    write(tmp_path / "trian.py", "")
    assert refusal(["train.py"], tmp_path).endswith("did you mean trian.py?")
    missing = refusal(["src/train.py"], tmp_path)
    assert missing.endswith(f"there is no folder {tmp_path}/src either; check the path")


def test_python_before_the_script(tmp_path: Path) -> None:
    assert "leave 'python' out" in refusal(["python", "train.py"], tmp_path)
    assert refusal(["python", "train.py"], tmp_path).endswith("rally run train.py")


def test_a_program_or_a_module_where_a_script_is_due(tmp_path: Path) -> None:
    assert refusal(["ls"], tmp_path).endswith("use --no-python to run the program 'ls'")
    write(tmp_path / "pkg/train.py", "")
    assert refusal(["pkg.train"], tmp_path).endswith("use -m to run the module 'pkg.train'")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("run.sh", "echo hi", "a .sh script"),
        ("run.sh", "#!/bin/bash\n", "a script for /bin/bash"),
        ("run", "#!/usr/bin/env node\n", "a script for /usr/bin/env node"),
        ("a.out", b"\x7fELF\x02\x01", "a program"),
    ],
)
def test_a_script_that_is_not_python(tmp_path: Path, name: str, content: str, what: str) -> None:
    write(tmp_path / name, content)
    message = f"{name} is {what}, not a Python script; use --no-python to run it as it is"
    assert refusal([name], tmp_path) == message
    assert refusal(["--run-path", f"{tmp_path}/{name}"], tmp_path).endswith(
        "use --no-python to run it as it is"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.py", ""),
        ("train.py", "#!/bin/sh\n''''exec python3 \"$0\" # '''\n"),
        ("train", "#!/usr/bin/env python3\n"),
        ("train", "#!/usr/bin/env -S uv run --script\n"),
        ("train", "#!"),
        ("train", "print(1)"),
        ("dir/__main__.py", ""),
    ],
)
def test_what_python_can_run_passes(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path / name, content)
    check([name.removesuffix("/__main__.py")], tmp_path)


def test_a_folder_without_a_main_and_an_interpreter_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "dir/train.py", "")
    assert "dir is a folder without a __main__.py" in refusal(["dir"], tmp_path)
    message = refusal(["dir/train.py"], tmp_path, PYTHON_EXEC="/no/python")
    assert message == "PYTHON_EXEC is '/no/python', which is no program; name a Python interpreter"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_script_that_cant_be_read(tmp_path: Path) -> None:
    write(tmp_path / "train.py", "", mode=0)
    assert "train.py can't be read: Permission denied" in refusal(["train.py"], tmp_path)


def test_programs(tmp_path: Path) -> None:
    script = write(tmp_path / "run.sh", "#!/bin/sh\n")
    message = refusal(["--no-python", "run.sh"], tmp_path)
    assert message == f"there is no program 'run.sh' on the PATH; write ./run.sh for the file in {tmp_path}"
    assert "check its name, or give its path" in refusal(["--no-python", "no-such"], tmp_path)
    assert refusal(["--no-python", "./run.sh"], tmp_path).endswith("make it so with `chmod +x ./run.sh`")
    assert refusal(["--no-python", "./rum.sh"], tmp_path).endswith("did you mean run.sh?")
    assert "is a folder; --no-python needs a program" in refusal(["--no-python", "../"], tmp_path)
    script.chmod(stat.S_IRWXU)
    check(["--no-python", "./run.sh"], tmp_path)
    check(["--no-python", str(script)], tmp_path)
    check(["--no-python", "run.sh"], tmp_path, PATH=str(tmp_path))
    check(["--no-python", "ls"], tmp_path)


def test_modules_are_found_without_importing_their_packages(tmp_path: Path) -> None:
    write(tmp_path / "loud/__init__.py", "raise SystemExit('imported')")
    write(tmp_path / "loud/train.py", "")
    write(tmp_path / "spread/inner/train.py", "")
    for module in ("loud.train", "spread.inner.train", "http.server", "json.tool"):
        check(["-m", module], tmp_path)
    write(tmp_path / "lib/other/__main__.py", "")
    check(["-m", "other"], tmp_path, PYTHONPATH="lib")


def test_modules_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "pkg/__init__.py", "")
    assert "there is no module 'nosuch'" in refusal(["-m", "nosuch"], tmp_path)
    assert "there is no module 'pkg.nosuch'" in refusal(["-m", "pkg.nosuch"], tmp_path)
    assert "there is no module 'json.tool.x'" in refusal(["-m", "json.tool.x"], tmp_path)
    assert "'pkg' is a package without a __main__" in refusal(["-m", "pkg"], tmp_path)
    assert "-m needs a module, and 'src/train.py' is a path; write -m src.train" in refusal(
        ["-m", "src/train.py"], tmp_path
    )


def test_a_package_that_makes_its_modules_by_code_is_believed(tmp_path: Path) -> None:
    write(tmp_path / "lazy/__init__.py", "__path__.append('elsewhere')")
    check(["-m", "lazy.train"], tmp_path)


def test_modules_of_another_interpreter_are_not_judged(tmp_path: Path) -> None:
    check(["-m", "nosuch"], tmp_path, PYTHON_EXEC="/bin/sh")
