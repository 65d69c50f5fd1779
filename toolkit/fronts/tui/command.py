"""`rally top`: find the run, open the screen; or print a line for each change, or draw one picture and end."""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from toolkit.adapters.clock import SystemClock
from toolkit.adapters.control.place import is_socket_name
from toolkit.adapters.control.url import is_url
from toolkit.adapters.recording.catalog import (
    RunSummaryEntry,
    find_run,
    latest_run,
    list_runs,
    wall_clock_ns,
)
from toolkit.adapters.recording.follow import FollowedRun
from toolkit.core.errors import ConfigurationError, ControlError, RallyError
from toolkit.fronts.watching import OFFERED_MAX, RunController, read_all, running, simulated
from toolkit.views.lanes import since
from toolkit.views.session import Session
from toolkit.views.telling import told
from toolkit.views.wording import ago, visible

if TYPE_CHECKING:
    from toolkit.adapters.control.watched import WatchedJob
    from toolkit.fronts.tui.acting import Controller
    from toolkit.fronts.tui.app import TopApp
    from toolkit.fronts.tui.screens import RunRow
    from toolkit.fronts.tui.stacks import Dumper

BAD_INPUT = 2
#: how long `--plain` waits between two looks, in seconds
_LOOK_S = 0.2

_DESCRIPTION = """\
Watch a run: live, recorded or simulated. Without RUN it opens the one that runs now, or offers the latest.
"""
_EPILOG = """\
keys: 1-6 views, / filter, space play or pause, [ ] scrub, x next failure, enter detail, l log, d stack,
      A stacks of all, ? all keys, q quit
"""


def parser() -> argparse.ArgumentParser:
    """Of the words behind `rally top`."""
    made = argparse.ArgumentParser(
        prog="rally top",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run id, a run directory, or the URL of any agent of a job on other machines, as `rally run "
        "--control-addr` tells it; default: what runs now",
    )
    add("--token-file", type=Path, metavar="FILE", help="the token for a URL: the job's --control-token-file")
    add("--tls-ca", type=Path, metavar="FILE", help="certificates, PEM, to check an https URL by")
    add("--read-only", action="store_true", help="no key, no command and no click changes the job")
    add("--plain", action="store_true", help="a line for each event, for pipes and screen readers; no screen")
    add("--view", default="overview", metavar="NAME", help="what is shown first (default: overview)")
    add("--filter", default="", metavar="TEXT", help="of that view, such as 'state=failed node~gpu-1'")
    add("--at", metavar="TIME", help="show this moment: 90, 2m30s, 01:30 or 50%%, from the start of the run")
    add("--screenshot", type=Path, metavar="FILE.svg", help="draw the screen into a file and end")
    add("--size", default="120x40", metavar="COLSxROWS", help="of the screenshot (default: 120x40)")
    return made


def top_command(
    argv: Sequence[str],
    *,
    state_dir: Path,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """Watch a run.

    Args:
        argv: the words behind `rally top`.
        state_dir: where runs are recorded.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    args = parser().parse_args(argv)
    try:
        return _top(args, state_dir, stdout, stderr)
    except RallyError as error:
        print(visible(f"rally top: {error}", stderr), file=stderr)
        return BAD_INPUT


def _top(
    args: argparse.Namespace,
    state_dir: Path,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    size = _size(args.size)
    if args.run is not None and is_url(args.run):
        return _remote(args, size, stdout, stderr)
    for name in ("token_file", "tls_ca"):
        if getattr(args, name) is not None:
            raise ConfigurationError(
                f"--{name.replace('_', '-')} is for the URL of an agent; give one such as http://gpu-a:9400"
            )
    if args.run is not None and is_socket_name(Path(args.run).name):
        args.run = str(Path(args.run).parent)  # its agent may be gone; the recording beside it is not
    runs = list_runs(state_dir, OFFERED_MAX) if args.run is None else []
    path = find_run(state_dir, args.run) if args.run is not None else running(runs)
    if args.plain:
        return _plain(_session(path or latest_run(state_dir)), args.at, stdout, stderr)
    _need_textual()
    if path is None and args.screenshot is None:
        path = _picked(runs, state_dir, stdout)
        if path is None:
            return 0
    run = FollowedRun(path or latest_run(state_dir))
    return _show(_app(run, None if args.read_only else RunController(run.path)), args, size, stdout)


def _remote(args: argparse.Namespace, size: tuple[int, int], stdout: TextIO, stderr: TextIO) -> int:
    """A job on other machines, by way of one of its agents."""
    from toolkit.adapters.control.guard import token_in
    from toolkit.adapters.control.remote import Credentials
    from toolkit.adapters.control.url import parse_url
    from toolkit.adapters.control.watched import WatchedJob

    token = None if args.token_file is None else token_in(args.token_file)
    try:
        job = WatchedJob(parse_url(args.run), Credentials(token, args.tls_ca))
    except ControlError as error:
        remedy = "; --token-file takes the job's --control-token-file" if "token" in str(error) else ""
        raise ControlError(f"{error}{remedy}") from error
    try:
        job.catch_up()
        if args.plain:
            return _plain(Session(job, "", wall_clock_ns), args.at, stdout, stderr)
        _need_textual()
        return _show(_remote_app(job, None if args.read_only else job), args, size, stdout)
    finally:
        job.close()


def _show(app: TopApp, args: argparse.Namespace, size: tuple[int, int], stdout: TextIO) -> int:
    _prepare(app, args)
    if args.screenshot is not None:
        _draw(app, args.screenshot, size)
        return 0
    _need_terminal(stdout)
    collect_rarely()
    app.run()
    return app.return_code or 0


def collect_rarely() -> None:
    """Look for garbage in cycles less often: at 10,000 ranks, whose rows have none, that takes a fifth of all CPU."""
    gc.set_threshold(20_000, 10, 100)


def _need_terminal(stdout: TextIO) -> None:
    if not (stdout.isatty() or _drawn_elsewhere()):
        raise ConfigurationError(
            "stdout is no terminal; give --plain for lines, or --screenshot FILE.svg for a picture"
        )


def _drawn_elsewhere() -> bool:
    """Whether textual hands the screen to another program: textual-serve tells it so, for `rally web`."""
    from textual.constants import DRIVER

    return DRIVER is not None


def _need_textual() -> None:
    try:
        import textual  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the screen needs textual: pip install 'rallypoint[tui]'; --plain does without"
        ) from error


def _picked(runs: Sequence[RunSummaryEntry], state_dir: Path, stdout: TextIO) -> Path | None:
    from textual.app import App

    from toolkit.fronts.tui.screens import Picker

    rows = _offered(runs)
    if not rows:
        latest_run(state_dir)  # says that there is none, and what to do
    _need_terminal(stdout)

    class Pick(App[Path]):
        CSS_PATH = str(Path(__file__).with_name("top.tcss"))

        def on_mount(self) -> None:
            self.push_screen(Picker(rows), self.exit)

    return Pick().run()


def _offered(runs: Sequence[RunSummaryEntry]) -> list[RunRow]:
    from toolkit.fronts.summary import state_with
    from toolkit.fronts.tui.screens import RunRow

    now_ns = wall_clock_ns()
    rows = []
    for entry in runs:
        started = entry.timeline.started
        when = ago((now_ns - started.wall_ns) / 1e9) if started is not None else ""
        what = next((node.entrypoint for node in entry.timeline.nodes.values()), entry.problem)
        state = state_with(entry.timeline) if not entry.problem else "unreadable"
        rows.append(RunRow(entry.path, entry.run_id or entry.path.name, state, f"{when}  {what}"))
    return rows


def _session(path: Path) -> Session:
    run = FollowedRun(path)
    return Session(run, simulated(run), wall_clock_ns)


def _app(run: FollowedRun, controller: Controller | None) -> TopApp:
    from toolkit.adapters.stacks import PySpy

    session = Session(run, simulated(run), wall_clock_ns)
    return _screen(session, run.run_id or run.name, run.path, controller, PySpy())


def _remote_app(job: WatchedJob, controller: Controller | None) -> TopApp:
    return _screen(Session(job, "", wall_clock_ns), job.name, None, controller, job)


def _screen(
    session: Session, title: str, folder: Path | None, controller: Controller | None, dumper: Dumper
) -> TopApp:
    from toolkit.adapters.control.asking import whoami
    from toolkit.fronts.tui.app import TopApp

    clock = SystemClock()
    return TopApp(
        session,
        title=title,
        folder=folder,
        controller=controller,
        by=whoami(),
        now_s=lambda: clock.now_ns() / 1e9,
        dumper=dumper,
    )


def _prepare(app: TopApp, args: argparse.Namespace) -> None:
    """Read what there is, and go where it was asked for."""
    from toolkit.fronts.tui.app import VIEWS

    if args.view not in VIEWS:
        raise ConfigurationError(f"--view {args.view}: there is no such view; there are {', '.join(VIEWS)}")
    app.begin_at(args.view, args.filter)
    if args.at is not None:
        read_all(app.session)
        app.session.seek(moment(args.at, app.session))


_TIME = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def moment(text: str, session: Session) -> int:
    """Wall time of a moment that a user named, in nanoseconds.

    Raises:
        ConfigurationError: it is none.
    """
    film = session.film
    length_ns = film.ended_ns - film.started_ns
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        return film.started_ns + int(length_ns * float(text[:-1]) / 100)
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    found = clock or (_TIME.fullmatch(text) if text else None)
    if found is None:
        raise ConfigurationError(f"--at {text} is no time; give seconds, 2m30s, 01:30 or 50%")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return film.started_ns + int((hours * 3600 + minutes * 60 + seconds) * 1e9)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if found is None or not (int(found[1]) >= 20 and int(found[2]) >= 6):
        raise ConfigurationError(f"--size {text} is no size; give columns and rows, such as 120x40")
    return int(found[1]), int(found[2])


def _draw(app: TopApp, path: Path, size: tuple[int, int]) -> None:
    read_all(app.session)
    app.draw_into(path, size)


# -- lines ----------------------------------------------------------------------------------------------------


def _plain(session: Session, at: str | None, stdout: TextIO, stderr: TextIO) -> int:
    """A line for each event that is news; of a live run until it ends."""
    from toolkit.adapters.loop_bell import LoopBell

    read_all(session)
    until = len(session.film) if at is None else session.film.count_at(moment(at, session))
    _print_mode(session, stdout)
    done = _print_lines(session, 0, until, stdout)
    if at is not None or session.mode != "LIVE":
        return _told_problem(session, stderr)
    bell = LoopBell()
    try:
        while session.mode == "LIVE":
            bell.wait(_LOOK_S)
            session.tick(0.0)
            done = _print_lines(session, done, len(session.film), stdout)
    except KeyboardInterrupt:
        pass
    finally:
        bell.close()
    return _told_problem(session, stderr)


def _print_mode(session: Session, stdout: TextIO) -> None:
    mode = f"SIM {session.simulated}" if session.mode == "SIM" else session.mode
    print(visible(f"# {mode} {session.film.latest.run_id}", stdout), file=stdout, flush=True)


def _print_lines(session: Session, start: int, end: int, stdout: TextIO) -> int:
    for place, event in enumerate(session.film.between(start, end), start):
        line = told(event)
        if line is not None:
            at = since((session.film.time_of(place) - session.film.started_ns) / 1e9)
            print(visible(f"{at:>9}  {event.node}  {line.words}", stdout), file=stdout)
    stdout.flush()
    return end


def _told_problem(session: Session, stderr: TextIO) -> int:
    if session.problem:
        print(visible(f"rally top: {session.problem}", stderr), file=stderr)
    return 0
