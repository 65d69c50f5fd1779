"""Where workers that hang are in their code: by py-spy, and where that may not or is not there, by themselves.

A worker that has called `toolkit.progress` writes its stacks on a signal, from C and without the GIL. It is asked only
if it has a handler for that signal: any other process would die of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Protocol

from toolkit.adapters.readings.process_table import facts
from toolkit.adapters.watching.looking import catches
from toolkit.adapters.watching.shared import SharedNotes
from toolkit.core.hanging.worker_notes import STACKS_SIGNAL_BELOW_MAX
from toolkit.core.stacks import Answer, Frame, Stacks, Target, Thread, Unread

#: how long py-spy may take for one process, and for all, in seconds
ONE_S, ALL_S = 4.0, 10.0
#: how long a worker may take to begin with its stacks; and after so long without more they are whole
_BEGIN_S, _QUIET_S = 0.5, 0.05


class Dumper(Protocol):
    """Reads stacks from outside: `toolkit.adapters.stacks.PySpy`."""

    def dump(self, targets: Sequence[Target]) -> list[Answer]: ...

    def close(self) -> None: ...


class Evidence:
    """Asks where workers are. Used by one thread, save for `close`.

    Args:
        notes: where workers write their stacks.
        dumper: asked first; None is py-spy.
    """

    def __init__(self, notes: SharedNotes, dumper: Dumper | None = None) -> None:
        self._notes = notes
        self._dumper = dumper
        self._closed = False

    def take(self, targets: Sequence[Target]) -> dict[int, Answer]:
        """The stacks of each by local rank, or why they are not known. Takes some `ALL_S` at the most."""
        dumper = self._dumper = self._dumper or _py_spy()
        if self._closed:
            dumper.close()
        answers = dict(zip((t.local_rank for t in targets), dumper.dump(targets), strict=True))
        for target in targets:
            if isinstance(answers[target.local_rank], Unread) and not self._closed:
                own = self._own_words(target.pid)
                if own is not None:
                    answers[target.local_rank] = own
        return answers

    def close(self) -> None:
        """Have it come to its end."""
        self._closed = True
        if self._dumper is not None:
            self._dumper.close()

    def _own_words(self, pid: int) -> Stacks | None:
        signum = signal.SIGRTMAX - STACKS_SIGNAL_BELOW_MAX
        told = facts(pid)
        if told is None or told.state in ("T", "t") or not catches(pid, signum):
            return None  # one that is stopped would answer when it goes on, and then nobody listens
        self._notes.forget_stacks()
        try:
            os.kill(pid, signum)
        except OSError:
            return None
        return stacks_in(self._written().decode(errors="replace"), pid)

    def _written(self) -> bytes:
        """What it writes, once nothing more comes."""
        data, changed_s = b"", time.monotonic()
        while time.monotonic() - changed_s < (_QUIET_S if data else _BEGIN_S):
            time.sleep(0.01)
            now = self._notes.stacks()
            if len(now) != len(data):
                data, changed_s = now, time.monotonic()
        return data


def _py_spy() -> Dumper:
    from toolkit.adapters.stacks import PySpy  # late: few workers hang

    return PySpy(one_s=ONE_S, all_s=ALL_S)


_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


def stacks_in(text: str, pid: int) -> Stacks | None:
    """What `faulthandler` wrote of all threads; None if it wrote nothing. The main thread comes last there."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            threads.append([])
        elif threads and (match := _FRAME.match(line)):
            with contextlib.suppress(ValueError):
                number = int(match[2]) if match[2].isdecimal() else 0
                threads[-1].append(Frame(match[3], match[1], number))
    if not threads:
        return None
    *others, main = threads
    return Stacks(
        (
            Thread("", pid, tuple(main), main=True),
            *(Thread("", 0, tuple(frames)) for frames in others),
        )
    )
