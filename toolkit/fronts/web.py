"""`rally web`: `rally top` in a browser on this machine, behind a token, read-only unless asked."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from toolkit.adapters.control.guard import is_loopback
from toolkit.adapters.recording.catalog import find_run
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.adapters.web.gate import address_of
from toolkit.core.errors import ConfigurationError
from toolkit.fronts.watching import run_of_now
from toolkit.views.wording import visible

#: the port unless another one is asked for
PORT = 8470

_DESCRIPTION = """\
Watch a run in a browser on this machine. Prints the address, which has a token in it; Ctrl-C ends it.
Without RUN it opens the one that runs now, or the latest.
"""
_EPILOG = f"""\
from another machine:  ssh -L {PORT}:127.0.0.1:{PORT} THIS_HOST rally web, and open the address there
"""


def parser() -> argparse.ArgumentParser:
    """Of the words behind `rally web`."""
    made = argparse.ArgumentParser(
        prog="rally web",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("run", nargs="?", metavar="RUN", help="a run id, or a run directory; default: what runs now")
    add("--host", default="127.0.0.1", help="a loopback address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=PORT, metavar="N", help=f"0 takes a free one (default: {PORT})")
    add("--allow-actions", action="store_true", help="who opens the page may stop, restart and kill")
    return made


def web_command(
    argv: Sequence[str], *, state_dir: Path, executable: str, stdout: TextIO, stderr: TextIO
) -> int:
    """Serve the view of a run until Ctrl-C.

    Args:
        argv: the words behind `rally web`.
        state_dir: where runs are recorded.
        executable: this Python, which runs `rally top` for each tab.

    Returns:
        The exit code: 0.

    Raises:
        RallyError: it can't be served; nothing was started.
    """
    args = parser().parse_args(argv)
    _check_address(args.host, args.port)
    _need_textual_serve()
    from toolkit.adapters.web.server import listen, serve

    path = (find_run(state_dir, args.run) if args.run is not None else run_of_now(state_dir)).resolve()
    run = FollowedRun(path)

    def tell(sentence: str) -> None:
        print(visible(f"rally web: {sentence}", stderr), file=stderr, flush=True)

    with listen(address_of(args.host), args.port) as sock:
        if args.allow_actions:
            tell("who has the address may stop the job and kill its workers")
        words = top_words(executable, path, allow_actions=args.allow_actions)
        serve(
            sock,
            words,
            f"rally top {run.run_id or run.name}",
            announce=lambda url: print(url, file=stdout, flush=True),
            tell=tell,
        )
    return 0


def top_words(executable: str, path: Path, *, allow_actions: bool) -> list[str]:
    """The command line behind each tab."""
    words = [executable, "-m", "toolkit.fronts.cli", "top", str(path)]
    return words if allow_actions else [*words, "--read-only"]


def _check_address(host: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port {port} is no port; give 1 to 65535, or 0 for a free one")
    if not is_loopback(host):
        forwarded = port or PORT
        raise ConfigurationError(
            f"--host {host} is not a loopback address, and the page is for this machine only. From another one: "
            f"ssh -L {forwarded}:127.0.0.1:{forwarded} {platform.node()} rally web --port {forwarded}, "
            "and open the printed address there"
        )


def _need_textual_serve() -> None:
    try:
        import textual  # noqa: F401
        import textual_serve.server  # noqa: F401 - whether they are there
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the page needs textual-serve, and {error.name} is not installed: pip install 'rallypoint[web]'"
        ) from error
