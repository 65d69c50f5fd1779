"""`%%rally`: the text of a cell as the script of a job."""

from __future__ import annotations

import keyword
import shlex
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import ConfigurationError, RallyError

if TYPE_CHECKING:
    from toolkit.fronts.notebook.job import Job

_USAGE = "%%rally [--as NAME] [--detach] [OPTIONS OF rally run] [-- ARGUMENTS OF THE SCRIPT]"


def register(shell: Any) -> None:
    """Give a running IPython the magic. Doing it again changes nothing."""
    shell.register_magic_function(lambda line, cell: rally(shell, line, cell), "cell", "rally")


def rally(shell: Any, line: str, cell: str) -> Job | None:
    """Run the cell as a script on several workers; the job is what the cell shows, and the variable `job`.

    Args:
        line: options as those of `rally run`, such as --nproc-per-node 4 --max-restarts 3; --as NAME names another
            variable, --detach lets the job outlive the kernel; behind `--` stand arguments of the script.
    """
    from toolkit.fronts.notebook.launching import launch_text

    try:
        words = shlex.split(line)
        if words[:1] in (["-h"], ["--help"]):
            _help()
            return None
        arguments: list[str] = []
        if "--" in words:
            place = words.index("--")
            words, arguments = words[:place], words[place + 1 :]
        name = _taken(words, "--as") or "job"
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigurationError(f"--as {name!r} is no name of a variable; usage: {_USAGE}")
        run_id = _taken(words, "--rdzv-id")
        run_dir = _taken(words, "--run-dir")
        detach = "--detach" in words
        words = [word for word in words if word != "--detach"]
        # The line of the magic stands for a line, so that a traceback counts as the cell does.
        job = launch_text(
            f"# %%rally\n{cell}", *arguments, words=words, run_id=run_id, run_dir=run_dir, detach=detach
        )
    except ValueError as error:
        if isinstance(error, RallyError):
            raise
        raise ConfigurationError(f"%%rally {line}: {error}; usage: {_USAGE}") from error
    shell.user_ns[name] = job
    return job


def _help() -> None:
    from toolkit.fronts.command_line.arguments import build_parser

    print(f"usage: {_USAGE}\n")
    options = build_parser().format_help()
    print(options[options.index("options:") :], end="")


def _taken(words: list[str], option: str) -> str | None:
    """The value of an option, which is taken out; None if it is not there."""
    spelled = (option, option.replace("-", "_").replace("__", "--", 1))
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in spelled:
            continue
        if not equals:
            if place + 1 >= len(words):
                raise ConfigurationError(f"{option} needs a value; usage: {_USAGE}")
            value = words.pop(place + 1)
        words.pop(place)
        return value
    return None
