"""How values are said to people: durations, times of day, states, and text that came from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TextIO

from toolkit.core.moment import Moment
from toolkit.core.words import ranks, without_tokens

#: by state: colour, sign, sign of terminals without Unicode. The word always stands beside it.
_LOOKS = {
    "succeeded": ("green", "✓", "+"),
    "failed": ("red", "✗", "x"),
    "error": ("red", "✗", "x"),
    "vanished": ("red", "✗", "x"),
    "unreadable": ("red", "✗", "x"),
    "lost": ("red", "✗", "x"),
    "refused": ("red", "✗", "x"),
    "stopped": ("yellow", "■", "#"),
    "running": ("cyan", "●", "*"),
}
_GOING_ON = ("yellow", "◌", ".")

# Everything that can move the cursor, change the terminal or turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def look_of(state: str, *, unicode: bool) -> tuple[str, str]:
    """Colour and sign of a state."""
    colour, sign, plain = _LOOKS.get(state, _GOING_ON)
    return colour, sign if unicode else plain


def shows_unicode(stream: TextIO) -> bool:
    """Whether `stream` takes more than ASCII."""
    return (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def wants_colour(is_tty: bool, environ: Mapping[str, str]) -> bool:
    """Whether what goes to a stream may be coloured."""
    return is_tty and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def harmless(text: str) -> str:
    """`text` of a recording with nothing in it that can command a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\t", "    "))


def harmless_lines(text: str) -> str:
    """The same of several lines, which stay lines."""
    return "\n".join(map(harmless, text.split("\n")))


def visible(text: str, stream: TextIO) -> str:
    """`text` of a recording, safe to print on `stream`: nothing in it can command the terminal."""
    shown = harmless(text)
    if shows_unicode(stream):
        return shown.encode("utf-8", "backslashreplace").decode()
    encoding = stream.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def duration_in_words(seconds: float | None) -> str:
    """Such as "370 ms", "12.4 s", "3 min 05 s", "2 h 05 min", "4 d 06 h"; "-" if there is none."""
    if seconds is None or seconds != seconds:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = int(min(seconds, 1e12) + 0.5)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def ago(seconds: float) -> str:
    """Such as "just now", "3 min ago", "2 days ago"; "in the future" for clocks that disagree."""
    if seconds < -5:
        return "in the future"
    for size, name in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if name == 'day' and count != 1 else ''} ago"
    return f"{int(seconds)} s ago" if seconds >= 5 else "just now"


def local_time(moment: datetime | None) -> str:
    """Date and time of day here, or a "?"."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment is not None else "?"


def moment_text(at: Moment | None) -> str:
    """RFC 3339 in UTC, or an empty string where the recording does not say."""
    moment = moment_of_day(at.wall_ns) if at is not None else None
    return rfc3339(moment) if moment else ""


def rfc3339(moment: datetime) -> str:
    """Such as "2026-01-31T12:00:00.000Z"; `moment` is in UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of_day(wall_ns: int) -> datetime | None:
    """The moment in UTC; None for one that no calendar has: a recording may say anything."""
    try:
        return datetime.fromtimestamp(wall_ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def parsed(rfc3339: str) -> datetime | None:
    """The inverse of what the summaries write."""
    return datetime.fromisoformat(rfc3339) if rfc3339 else None


# -- what nodes of a job say of it ----------------------------------------------------------------------------


def store_silent(where: str) -> str:
    """That the store of the job gives no answer."""
    return f"the store at {where} does not answer"


def parked(beside: int) -> str:
    """That a round has formed without this node."""
    return f"round {beside} runs without this node, which waits as a spare"


def taken_over(epoch: int, coordinator: str, before: str, reason: str) -> str:
    """Who decides now, and who did before."""
    why = f": {reason}" if reason else ""
    return f"{without_tokens(coordinator)} coordinates since epoch {epoch}, not {without_tokens(before)}{why}"


def forwarded(signal: str, local_ranks: Sequence[int], waiting: Sequence[int]) -> str:
    """That a signal went on to workers, and whom it would have killed."""
    went = f"{signal} went on to local {ranks(list(local_ranks))}" if local_ranks else ""
    if not waiting:
        return went
    have, them = ("has", "it") if len(waiting) == 1 else ("have", "them")
    kept = (
        f"local {ranks(list(waiting))} {have} no handler for {signal}, which would kill {them}: "
        "it is kept until there is one"
    )
    return f"{went}; {kept}" if went else kept
