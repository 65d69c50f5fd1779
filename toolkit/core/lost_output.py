"""Output of workers that did not reach its log, as the agent counts and tells it."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.core.words import plural


@dataclass(frozen=True, slots=True)
class LostOutput:
    """What one log has lost so far in this incarnation.

    Args:
        problem: a sentence for people, with the counts.
        path: of the log, or empty.
        bytes: of output that are lost.
        lines: ends of lines among them.
    """

    problem: str
    path: str = ""
    bytes: int = 0
    lines: int = 0


def lost_in_words(lines: int, size: int) -> str:
    """Such as "1,204 lines (96.1 kB)"; a piece of a line is told by its bytes."""
    return f"{plural(lines, 'line')} ({size_in_words(size)})" if lines else size_in_words(size)


def size_in_words(size: int) -> str:
    """Bytes with the decimal unit that fits, such as "96.1 kB"."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"
