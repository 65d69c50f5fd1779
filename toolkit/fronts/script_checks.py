"""Whether SCRIPT is there and is what the options say it is. Reads first lines and folders; imports no module."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from toolkit.core.errors import ConfigurationError
from toolkit.fronts.command_line.options import RunOptions, ScriptKind

_PYTHON_SUFFIXES = (".py", ".pyw", ".pyc", ".pyz")
_OTHER_SUFFIXES = (".sh", ".bash", ".zsh", ".csh", ".fish", ".pl", ".rb")
#: programs that a first line names and that run Python
_RUN_PYTHON = ("python", "pypy", "uv", "pipx", "pixi", "hatch", "pdm", "conda", "micromamba", "sage")
#: how an ELF and two kinds of Mach-O files begin
_EXECUTABLE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def check_script(options: RunOptions, environ: Mapping[str, str], cwd: Path, executable: str) -> None:
    """That there is something to run, and that it is what the options say it is.

    Args:
        environ: what the workers inherit; PATH and PYTHONPATH are looked up in it.
        cwd: where relative paths start.
        executable: the interpreter if PYTHON_EXEC names none.

    Raises:
        ConfigurationError: no such script, module or program, or one of another kind.
    """
    path = environ.get("PATH", os.defpath)
    if options.python is not None and shutil.which(_seen_from(cwd, options.python), path=path) is None:
        raise ConfigurationError(
            f"PYTHON_EXEC is {options.python!r}, which is no program; name a Python interpreter"
        )
    match options.kind:
        case ScriptKind.PROGRAM:
            _check_program(options.script, path, cwd)
        case ScriptKind.MODULE:
            # Another interpreter has other modules, and this one can't tell which.
            if options.python is None or Path(options.python) == Path(executable):
                _check_module(options.script, environ, cwd)
        case ScriptKind.SCRIPT | ScriptKind.RUN_PATH:
            _check_python_script(options, path, cwd)


def mode_of(path: Path, *, follow_symlinks: bool = True) -> int:
    """File type and permissions of what is there; 0 if nothing is, or nothing that we may see."""
    try:
        return path.stat(follow_symlinks=follow_symlinks).st_mode
    except OSError:
        return 0


def _seen_from(cwd: Path, program: str) -> str:
    """A path as seen from `cwd`; a bare name is left for the PATH."""
    return str(cwd / program) if "/" in program else program


def _check_program(name: str, path: str, cwd: Path) -> None:
    if shutil.which(_seen_from(cwd, name), path=path) is not None:
        return
    file = cwd / name
    mode = mode_of(file)
    if "/" not in name:
        here = f"write ./{name} for the file in {cwd}"
        remedy = here if S_ISREG(mode) else "check its name, or give its path"
        raise ConfigurationError(f"there is no program {name!r} on the PATH; {remedy}")
    if S_ISDIR(mode):
        raise ConfigurationError(f"{name} is a folder; --no-python needs a program")
    if mode:
        raise ConfigurationError(f"{name} is not executable; make it so with `chmod +x {name}`")
    raise ConfigurationError(f"there is no program {file}; {_nearest_file(file)}")


def _check_python_script(options: RunOptions, path: str, cwd: Path) -> None:
    name, file = options.script, cwd / options.script
    mode = mode_of(file)
    if not mode:
        raise ConfigurationError(f"there is no script {file}; {_instead_of_missing(options, path, file)}")
    if S_ISDIR(mode):
        if not mode_of(file / "__main__.py"):
            raise ConfigurationError(f"{name} is a folder without a __main__.py; give the path of a script")
        return
    if not S_ISREG(mode):
        return  # a pipe: reading here would take from it what is the worker's
    try:
        with file.open("rb") as opened:
            head = opened.read(256)
    except OSError as error:
        raise ConfigurationError(f"the script {file} can't be read: {error.strerror}") from error
    if what := _not_python(file, head):
        raise ConfigurationError(f"{name} is {what}, not a Python script; use --no-python to run it as it is")


def _instead_of_missing(options: RunOptions, path: str, file: Path) -> str:
    name = options.script
    if "/" in name:
        return _nearest_file(file)
    if name.startswith("python") and options.script_args:
        script = options.script_args[0]
        return f"leave {name!r} out, the workers are started with Python anyway: rally run {script}"
    if shutil.which(name, path=path) is not None:
        return f"use --no-python to run the program {name!r}"
    if "." in name and not name.endswith(".py") and _find_module(name, [file.parent]) is not None:
        return f"use -m to run the module {name!r}"
    return _nearest_file(file)


def _nearest_file(file: Path) -> str:
    try:
        names = sorted(entry.name for entry in file.parent.iterdir())
    except PermissionError:
        return f"the folder {file.parent} can't be read"
    except OSError:
        return f"there is no folder {file.parent} either; check the path"
    near = get_close_matches(file.name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "check the path"


def _not_python(file: Path, head: bytes) -> str | None:
    """What the file is if it can't be a Python script; a `.py` is believed, whatever its first line says."""
    if head.startswith(_EXECUTABLE_MAGIC):
        return "a program"
    if file.suffix in _PYTHON_SUFFIXES:
        return None
    if head.startswith(b"#!"):
        first_line = head[2:].split(b"\n", 1)[0].decode(errors="replace").strip()
        programs = [Path(word).name for word in first_line.split()]
        runs_python = not programs or any(program.startswith(_RUN_PYTHON) for program in programs)
        return None if runs_python else f"a script for {first_line}"
    return f"a {file.suffix} script" if file.suffix in _OTHER_SUFFIXES else None


def _check_module(name: str, environ: Mapping[str, str], cwd: Path) -> None:
    on_path = (entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry)
    first = [cwd, *(cwd / entry for entry in on_path)]
    spec = _find_module(name, first)
    if spec is None and (name.endswith(".py") or "/" in name):
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(
            f"-m needs a module, and {name!r} is a path; write -m {module}, or leave -m out"
        )
    if spec is None:
        raise ConfigurationError(
            f"there is no module {name!r} in {cwd} or among the installed ones; check its name and the folder "
            "you are in, or install it"
        )
    if spec.submodule_search_locations is not None and _find_module(f"{name}.__main__", first) is None:
        raise ConfigurationError(
            f"{name!r} is a package without a __main__; name the module in it that is to run"
        )


def _find_module(name: str, first: list[Path]) -> ModuleSpec | None:
    """Where a module is. Unlike `importlib.util.find_spec` this imports no parent package.

    A package that changes its own `__path__` or puts its modules into place by code is given the benefit of
    the doubt.

    Args:
        first: folders to look in before the installed ones.
    """
    top, *below = name.split(".")
    spec = PathFinder.find_spec(top, [str(folder) for folder in first]) or _installed(top)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # By its last name alone: for a dotted one of a namespace package importlib looks for an imported parent.
        inner = PathFinder.find_spec(part, list(spec.submodule_search_locations))
        if inner is None and _makes_its_modules(spec):
            return ModuleSpec(name, None)
        spec = inner
    return spec


def _installed(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # an empty name, or a module that is loaded without a spec
        return None


def _makes_its_modules(package: ModuleSpec) -> bool:
    try:
        source = Path(package.origin or "").read_text(errors="replace")
    except OSError:
        return False
    return "__path__" in source or "sys.modules" in source
