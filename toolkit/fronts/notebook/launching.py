"""`launch` and `attach`: from a function, a script or the text of a cell to a job; and back to one that runs."""

from __future__ import annotations

import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from toolkit import surroundings, wiring
from toolkit.adapters.accelerators import count
from toolkit.adapters.agent_process import AgentProcess
from toolkit.adapters.packed_function import LAUNCH_FOLDER, RETURNED_FOLDER, pack
from toolkit.adapters.recording.catalog import find_run, is_live, list_runs
from toolkit.adapters.recording.directory import stamped_name
from toolkit.adapters.recording.layout import is_folder, is_recording, path_safe, unreadable
from toolkit.adapters.recording.reader import read_run
from toolkit.core.errors import ConfigurationError
from toolkit.core.timeline import Timeline
from toolkit.fronts import preflight
from toolkit.fronts.command_line import restart_options
from toolkit.fronts.command_line.arguments import check_keyword
from toolkit.fronts.command_line.options import RunOptions, parse
from toolkit.fronts.given_policy import as_options
from toolkit.fronts.notebook.job import AGENT_LOG, Job
from toolkit.fronts.notebook.shell import running_shell
from toolkit.fronts.watching import OFFERED_MAX, run_of_now

#: jobs that this process has launched, by run id, as long as somebody has them
_started: WeakValueDictionary[str, Job] = WeakValueDictionary()
#: what a kernel sets for itself, and workers had better not have
_OF_KERNELS = re.compile(r"JPY_.*|FORCE_COLOR|CLICOLOR(_FORCE)?|PYDEVD_.*|GIT_PAGER|PAGER")


def launch(
    entrypoint: str | Path | Callable[..., Any],
    *args: Any,
    nproc: int | str = 1,
    kwargs: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    run_dir: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    gpu: bool = False,
    detach: bool = False,
    **options: Any,
) -> Job:
    """Start a job and return at once.

    The agent is a process of its own, in a session of its own: an interrupt of this process does not reach it. It
    ends with this process, however that ends, unless `detach` says otherwise. CUDA is not touched here.

    Args:
        entrypoint: a function, which may be defined in a cell; or the path of a script.
        args: its arguments. Those of a script become words.
        nproc: workers, or "gpu", "cpu", "auto" as in `--nproc-per-node`.
        kwargs: named arguments of a function.
        run_id: a name for the job; None makes one.
        run_dir: where it is recorded; None is a fresh folder in the state directory.
        env: variables for the workers, besides those of this process.
        gpu: whether each worker must have a GPU of its own.
        detach: whether the job outlives this process; `attach(run_id)` finds it again.
        options: options of `rally run`, with underscores: max_restarts=3, shutdown_timeout=5, nnodes="1:2", ...
            `restart_policy` may also be a `RestartPolicy`, or an object of your own with its method `judge`.

    Returns:
        The job. It can be awaited, waited for, watched, and told what to do.

    Raises:
        ConfigurationError: what is asked for can't be. Nothing was started.
        LaunchError: the agent can't be started.
    """
    _check_options(options, entrypoint)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ConfigurationError(
            f"kwargs is {kwargs!r}; give a dict of named arguments, such as {{'epochs': 3}}"
        )
    order = _Order(nproc, run_id, run_dir, env, gpu, detach, options)
    if callable(entrypoint):
        _check_arguments(entrypoint, args, kwargs or {})
        call = pack(entrypoint, args, kwargs or {}, _cell_name)
        return order.carried_out(_name_of(entrypoint), call=call)
    if not isinstance(entrypoint, str | Path) or not str(entrypoint) or str(entrypoint).startswith("-"):
        raise ConfigurationError(
            f"the entrypoint is {entrypoint!r}; give a function, or the path of a script"
        )
    if kwargs:
        raise ConfigurationError(f"kwargs are for functions; give the words of {entrypoint} as arguments")
    return order.carried_out(str(entrypoint), words=[str(entrypoint), *map(str, args)])


def launch_text(
    text: str,
    *args: Any,
    name: str = "cell",
    words: Sequence[str] = (),
    nproc: int | str = 1,
    run_id: str | None = None,
    run_dir: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    gpu: bool = False,
    detach: bool = False,
    **options: Any,
) -> Job:
    """Start a job whose script is this text; see `launch` for the rest.

    Args:
        name: of the script.
        words: more options, as they stand on a command line.
    """
    order = _Order(nproc, run_id, run_dir, env, gpu, detach, options, words)
    return order.carried_out(name, words=list(map(str, args)), text=text)


class _Order:
    """A job that can be started."""

    def __init__(
        self,
        nproc: int | str,
        run_id: str | None,
        run_dir: str | Path | None,
        env: Mapping[str, str] | None,
        gpu: bool,
        detach: bool,
        options: Mapping[str, Any],
        more: Sequence[str] = (),
    ) -> None:
        if isinstance(nproc, bool) or not isinstance(nproc, int | str):
            raise ConfigurationError(f"nproc is {nproc!r}; give a number of workers, or gpu, cpu or auto")
        self._nproc, self._gpu, self._detach = nproc, gpu, detach
        self._options, self._more = options, tuple(more)
        self._asked_policy = options.get("restart_policy")
        self._environ = _environment(env)
        _check_place(self._environ)
        if run_id is not None:
            _check_unused(run_id)
        self._run_id = run_id or wiring.fresh_run_id()
        self._path = _run_directory(self._run_id, run_dir)

    def carried_out(
        self, name: str, *, words: Sequence[str] = (), text: str | None = None, call: bytes | None = None
    ) -> Job:
        """Make all checks, then start it.

        Args:
            name: of a script that is written here.
            words: the script, if none is written, and its arguments.
            text: of the script.
            call: a packed function, which the script calls.
        """
        folder = self._path / LAUNCH_FOLDER
        self._options, files = as_options(self._options, folder)
        packed = folder / "call.pickle"
        if call is not None:
            text = (
                # This folder is no place of modules: a function called random would hide that one.
                "import os\nimport sys\n\n"
                f"sys.path[:] = [place for place in sys.path if place != {str(folder)!r}]\n"
                "from toolkit.adapters.packed_function import call\n\n"
                f"call({str(packed)!r}, {str(folder / RETURNED_FOLDER)!r}, os.environ)\n"
            )
        if text is None:
            self._check(self._argv(words))
        else:
            # What we write is a script that can be read; only the rest can be wrong.
            self._check(self._argv(["-m", "toolkit"]))
            if call is None:
                # As in the notebook, the text may import what lies in this folder.
                places = [str(Path.cwd()), *filter(None, [self._environ.get("PYTHONPATH")])]
                self._environ["PYTHONPATH"] = os.pathsep.join(places)
            words = [str(folder / f"{name}.py"), *words]
        _make(folder, self._path)
        if text is not None:
            Path(words[0]).write_text(text, encoding="utf-8")
        if call is not None:
            packed.write_bytes(call)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        process = AgentProcess(
            sys.executable,
            ["run", *self._argv(words)],
            environ=self._environ,
            cwd=Path.cwd(),
            output=folder / AGENT_LOG,
            tied=not self._detach,
        )
        job = Job(self._path, self._run_id, process, returns=call is not None)
        _started[self._run_id] = job
        return job

    def _argv(self, words: Sequence[str]) -> list[str]:
        given = {
            "nproc_per_node": self._nproc,
            "run_dir": self._path,
            "rdzv_id": self._run_id,
            "redirects": "3",
        }
        argv: list[str] = []
        for name, value in {**given, **self._options}.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                argv.append(option)
            elif value is not None and value is not False:
                argv.append(f"{option}={_word(value)}")  # one word, as the value may begin with a dash
        return [*argv, *self._more, *words]

    def _check(self, argv: Sequence[str]) -> None:
        try:
            self._check_options(argv)
        except ConfigurationError as error:
            raise ConfigurationError(self._as_called_here(str(error))) from None

    def _as_called_here(self, words: str) -> str:
        """What is said of an option, said of the argument by which it was given."""
        for name in ("nproc_per_node", "run_dir", "rdzv_id", *self._options):
            option = f"--{name.replace('_', '-')}"
            if words.startswith(f"{option} ") and not any(word.startswith(option) for word in self._more):
                return _CALLED_OTHERWISE.get(name, name) + words[len(option) :]
        return words

    def _check_options(self, argv: Sequence[str]) -> None:
        options: RunOptions = parse(argv, self._environ)
        if options.solo:
            preflight.check(options, self._environ, Path.cwd(), sys.executable, lambda waited_s, why: None)
        if isinstance(self._asked_policy, str):
            restart_options.judge_of(options.restart_policy, Path.cwd(), "restart_policy")
        if self._gpu and isinstance(self._nproc, str) and self._nproc != "gpu":
            raise ConfigurationError(
                f"nproc={self._nproc!r} says nothing of GPUs; with gpu=True give a number, or 'gpu' for all of them"
            )
        if self._gpu and isinstance(self._nproc, int):
            there = count("gpu", self._environ, sys.executable)
            if self._nproc > there:
                fewer = f"give nproc={there} or less, or " if there else ""
                raise ConfigurationError(
                    f"nproc={self._nproc} workers with a GPU each need {self._nproc} GPUs, and this machine has "
                    f"{there}; {fewer}leave gpu=True out"
                )


def attach(run: str | Path | None = None) -> Job:
    """A job that was started elsewhere on this machine, or that is over: after a kernel's restart, or from a recording.

    Args:
        run: a run id, a run directory, or the beginning of either; None is the newest that runs, or the latest.

    Raises:
        ConfigurationError: there is none, or it runs on another machine.
    """
    state = surroundings.state_directory()
    path = run_of_now(state) if run is None else find_run(state, str(run))
    recording = read_run(path)
    host = str(recording.run.get("host", ""))
    if host and host != platform.node() and _runs_elsewhere(recording.timeline()):
        raise ConfigurationError(
            f"{recording.run_id} runs on {host}, and this is {platform.node()}; attach there, "
            "or watch it from here with `rally top http://HOST:PORT --token-file FILE`"
        )
    return Job(path.absolute(), recording.run_id or path.name)


def _runs_elsewhere(timeline: Timeline) -> bool:
    return not timeline.result and is_live(timeline) is None


# -- before anything starts -----------------------------------------------------------------------------------


#: options of `rally run` that are arguments of ours, and what they are called here
_CALLED_OTHERWISE = {"nproc_per_node": "nproc", "rdzv_id": "run_id"}
#: what `launch` takes besides
_OWN_ARGUMENTS = ("nproc", "kwargs", "run_id", "run_dir", "env", "gpu", "detach")


def _check_options(options: Mapping[str, Any], entrypoint: Any) -> None:
    for name, value in options.items():
        if name in _CALLED_OTHERWISE:
            raise ConfigurationError(
                f"{name} is called {_CALLED_OTHERWISE[name]} here; give {_CALLED_OTHERWISE[name]}={value!r}"
            )
        if name in ("h", "help"):
            raise ConfigurationError(
                "`rally run --help` in a terminal lists the options; help(launch) tells of the rest"
            )
        near = get_close_matches(name, _OWN_ARGUMENTS, n=1, cutoff=0.75)
        try:
            check_keyword(name)
        except ConfigurationError as error:
            if near:
                raise ConfigurationError(f"{name} is not an option; did you mean {near[0]}?") from None
            if callable(entrypoint) and "did you mean" not in str(error):
                raise ConfigurationError(
                    f"{name} is no option of launch; an argument of {_name_of(entrypoint)} goes into "
                    f"kwargs={{{name!r}: {value!r}}}"
                ) from None
            raise


def _check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """That a function takes what it is given, where it says what it takes: each worker would fail otherwise."""
    try:
        # A wrapper may take something else than what it wraps.
        takes = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        takes.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(
            f"{_name_of(function)} can't be called with what is given: {error}; it takes {takes}"
        ) from None


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    environ = {
        name: value for name, value in surroundings.environment().items() if not _OF_KERNELS.fullmatch(name)
    }
    if "inline" in environ.get("MPLBACKEND", ""):
        del environ["MPLBACKEND"]
    if env is not None and not isinstance(env, Mapping):
        raise ConfigurationError(
            f"env is {env!r}; give a dict of variables, such as {{'NCCL_DEBUG': 'INFO'}}"
        )
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not name or "=" in name:
            raise ConfigurationError(
                f"env has {name!r}, which is no name of a variable; give {{'NAME': 'value'}}, the value may have a '='"
            )
        if not isinstance(value, str):
            raise ConfigurationError(f"env has {name}={value!r}; variables are text, so give {str(value)!r}")
        if "\0" in name + value:
            raise ConfigurationError(f"env has {name}={value!r}; no variable can have a null character")
        environ[name] = value
    return environ


def _check_place(environ: Mapping[str, str]) -> None:
    if "TORCHELASTIC_RUN_ID" in environ and "RANK" in environ:
        raise ConfigurationError(
            f"launch was called inside of worker {environ['RANK']} of job {environ['TORCHELASTIC_RUN_ID']!r}; "
            "call it in the process that starts the job, behind `if __name__ == '__main__':` in a script"
        )


def _check_unused(run_id: str) -> None:
    """That no job of that name runs here."""
    if not isinstance(run_id, str) or not run_id:
        raise ConfigurationError(f"run_id is {run_id!r}; give a name, such as 'first-try', or leave it out")
    mine = _started.get(run_id)
    if mine is not None and not mine.over:
        # One that was launched just now has recorded nothing yet.
        raise ConfigurationError(_runs_already(run_id, mine.path))
    for entry in list_runs(surroundings.state_directory(), OFFERED_MAX):
        if entry.run_id == run_id and is_live(entry.timeline):
            raise ConfigurationError(_runs_already(run_id, entry.path))


def _runs_already(run_id: str, path: Path) -> str:
    return f"a job {run_id!r} runs already, recorded in {path}; give another run_id, or attach({run_id!r})"


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _name_of(function: Callable[..., Any]) -> str:
    return path_safe(getattr(inspect.unwrap(function), "__name__", type(function).__name__).strip("<>"))


def _cell_name(file: str) -> str:
    """What the notebook calls the cell whose text is said to be in this file."""
    name = getattr(getattr(running_shell(), "compile", None), "format_code_name", lambda name: None)(file)
    return " ".join(name) if name else file


def _run_directory(run_id: str, run_dir: str | Path | None) -> Path:
    if run_dir is not None:
        if not isinstance(run_dir, str | Path) or not str(run_dir):
            raise ConfigurationError(f"run_dir is {run_dir!r}; give the path of a folder, or leave it out")
        path = Path(run_dir).absolute()
        if why := unreadable(path):
            raise ConfigurationError(
                f"run_dir is {run_dir}, which can't be read ({why}); give a folder of yours"
            )
        if is_folder(path) and any(path.iterdir()):
            what = "holds another recording" if is_recording(path) else "has other files in it"
            raise ConfigurationError(
                f"run_dir is {run_dir}, which {what}; give a new folder, or an empty one"
            )
        return path
    return surroundings.state_directory().absolute() / stamped_name(run_id, wiring.wall_ns())


def _make(folder: Path, run_dir: Path) -> None:
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever could write there could have us run anything.
        run_dir.chmod(0o700)
        # Two who launch into one folder at one time: the second one would change what workers of the first run.
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{run_dir} was taken by another job just now; give another run_dir"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{folder} can't be written: {error.strerror}; give another run_dir"
        ) from error
