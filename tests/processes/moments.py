"""Moments of a run that are derived from the run itself: a signal comes a number of steps into one of its phases.

Phases are read off the recording, which the agent writes before it goes on. Steps are audit events of the agent's
interpreter (`sys.addaudithook`): each file it opens, module it imports, process it starts. So a moment lies between two
things that the agent does, whatever the machine is busy with; some more lie milliseconds into a wait.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

#: in the order in which a run comes by them
PHASES = (
    "start",
    "recorded",
    "starting",
    "running",
    "failing",
    "stopping",
    "restarting",
    "running again",
    "finishing",
    "over",
    "exiting",
)


class Moment(NamedTuple):
    """When a signal comes.

    Args:
        phase: in which.
        steps: so many audit events into it.
        ms: or so many milliseconds.
    """

    phase: str
    steps: int = 1
    ms: float | None = None

    @property
    def text(self) -> str:
        """For a message, and for the hook."""
        return f"{self.phase}|{self.steps}|{'' if self.ms is None else self.ms}"


class Hit(NamedTuple):
    """When it did come.

    Args:
        phase: of then.
        at_s: on this machine's monotonic clock.
        handled: whether the process had taken its signals from Python by then.
    """

    phase: str
    at_s: float
    handled: bool

    @classmethod
    def of(cls, path: Path) -> Hit:
        """What the hook wrote."""
        return cls(*json.loads(path.read_text()))


def install(folder: Path) -> Path:
    """Write the hook into a folder that an interpreter is to find modules in."""
    (folder / "sitecustomize.py").write_text(f"PHASES = {PHASES!r}\n{_HOOK}")
    return folder


#: Runs in the agent before its first line. It looks at the recording whenever the agent does something.
_HOOK = """
import atexit, glob, json, os, signal, sys, threading, time


def phase_of(directory):
    if not os.path.exists(directory + "/run.json"):
        return 0
    said = []
    for path in glob.glob(directory + "/events-*.jsonl"):
        with open(path, "rb") as file:
            said += [line.split(b'"type":"')[1].split(b'"')[0].decode() for line in file if line.endswith(b"\\n")]
    said = [kind for kind in said if kind != "readings_taken"]
    lives = said.count("workers_started")
    if "agent_finished" in said:
        return 9
    if lives == 2:
        after = said[len(said) - said[::-1].index("workers_started"):]
        return 8 if "decision_made" in after else 7
    if "workers_stopped" in said:
        return 6
    if "workers_stopping" in said:
        return 5
    if "worker_exited" in said:
        return 4
    if lives == 1:
        return 3
    return 2 if "workers_starting" in said else 1


class Hook:
    def __init__(self):
        phase, steps, ms = os.environ["MOMENT"].split("|")
        self.wanted, self.steps, self.ms = PHASES.index(phase), int(steps), float(ms or 0)
        self.signals = [int(word) for word in os.environ["MOMENT_SIGNALS"].split(",")]
        self.helper = ""
        self.counted, self.busy, self.fired, self.directory = 0, False, False, os.environ["MOMENT_RUN"]
        self.sent = False
        # Registered first, so the last to be called.
        atexit.register(self.exiting)

    def __call__(self, event, args):
        if self.busy or self.fired or threading.current_thread().name == "moment":
            return
        self.busy = True
        try:
            self.look()
        finally:
            self.busy = False

    def look(self):
        if "toolkit" not in sys.modules or self.wanted == 10:
            return  # Python's own start is nobody's
        if self.ms:
            self.ms_s, self.ms = self.ms / 1000, 0
            self.steps = 1_000_000
            threading.Thread(target=self.later, name="moment", daemon=True).start()
            return
        phase = phase_of(self.directory)
        if phase < self.wanted:
            return
        self.counted += 1
        if self.counted >= self.steps or self.steps < 1_000_000 and phase > self.wanted:
            self.fire(phase)

    def later(self):
        while phase_of(self.directory) < self.wanted:
            time.sleep(0.001)
        time.sleep(self.ms_s)
        self.fire(phase_of(self.directory))

    def exiting(self):
        if self.ms and self.wanted == 10:
            # Threads are held when Python takes itself down, so somebody else sends it.
            words = [f"kill -{signum} {os.getpid()}" for signum in self.signals]
            self.helper = "; ".join([f"sleep {self.ms / 1000}", *words])
            self.signals = [0]
            self.fire(10)
        while self.fired and not self.sent:  # a thread is about to: it would be held for ever
            time.sleep(0.001)
        if not self.fired:
            self.fire(10)  # also where the phase before had no more steps
        if self.helper:
            os.posix_spawn("/bin/sh", ["sh", "-c", self.helper], os.environ)

    def fire(self, phase):
        if self.fired:
            return
        self.fired = True
        handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        path = os.environ["MOMENT_HIT"]
        with open(f"{path}.{os.getpid()}", "w") as file:
            json.dump([PHASES[phase], time.monotonic(), handled], file)
        os.replace(file.name, path)  # whole, whoever looks when
        self.sent = True  # before any of them: a handler may raise, here, and this thread gets no further
        if len(self.signals) > 1:
            threading.Thread(target=self.more, name="moment", daemon=True).start()
        os.kill(os.getpid(), self.signals[0])

    def more(self):
        for signum in self.signals[1:]:
            time.sleep(0.005)
            os.kill(os.getpid(), signum)


if "toolkit.fronts.cli" in sys.orig_argv:
    sys.addaudithook(Hook())
"""
