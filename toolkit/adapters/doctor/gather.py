"""Gathers facts side by side, each for a time that has an end: what hangs is reported, and holds up nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from toolkit.core.doctor.facts import Machine
from toolkit.core.doctor.findings import Silence

#: what gathers facts: told how long it may take, returns them
Gatherer = Callable[[float], Any]
_ENDING_S = 0.5
#: asked even where no thread can be started: it knows why, and it never hangs
_NEEDS_NO_THREAD = "limits"


@dataclass(slots=True)
class Gathered:
    """What came of it.

    Args:
        machine: the facts.
        silent: those that did not come, by their name in `Machine`.
        took_s: all of it.
    """

    machine: Machine
    silent: dict[str, Silence]
    took_s: float


@dataclass(slots=True)
class _Answers:
    facts: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, Silence] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.facts or name in self.silent


def gather(gatherers: Mapping[str, Gatherer], patience_s: Mapping[str, float]) -> Gathered:
    """The facts of all gatherers.

    Each has a thread that nobody waits for longer than its patience; one that hangs is left behind and ends with the
    process. A gatherer that raises is silent, and why.

    Args:
        gatherers: by the name of their facts in `Machine`.
        patience_s: how long each may take.
    """
    start = time.monotonic()
    answers, changed = _Answers(), threading.Condition()

    def ask(name: str, gatherer: Gatherer) -> None:
        try:
            facts = gatherer(patience_s[name])
        except TimeoutError:
            with changed:
                answers.silent.setdefault(name, Silence(patience_s[name]))
                changed.notify_all()
            return
        except Exception as error:  # noqa: BLE001 an edge: whatever one check comes upon, the others go on
            silence = Silence(None, f"{type(error).__name__}: {error}")
            with changed:
                answers.silent.setdefault(name, silence)
                changed.notify_all()
            return
        with changed:
            answers.facts[name] = facts
            changed.notify_all()

    for name, gatherer in gatherers.items():
        thread = threading.Thread(target=ask, args=(name, gatherer), name=f"rally-doctor-{name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if name == _NEEDS_NO_THREAD:
                ask(name, gatherer)
            else:
                with changed:
                    answers.silent[name] = Silence(None, str(error))
    with changed:
        for name in sorted(gatherers, key=lambda name: patience_s[name]):
            # A little longer: who watches over a process of its own ends it first.
            left_s = patience_s[name] + _ENDING_S - (time.monotonic() - start)
            if not changed.wait_for(partial(answers.has, name), max(left_s, 0)):
                answers.silent[name] = Silence(patience_s[name])
        facts = {name: found for name, found in answers.facts.items() if name not in answers.silent}
        return Gathered(Machine(**facts), dict(answers.silent), round(time.monotonic() - start, 3))
