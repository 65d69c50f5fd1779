"""What workers wrote, as text that shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.adapters.recording.log_file import LogFile
from toolkit.adapters.recording.log_places import log_path
from toolkit.adapters.recording.merged_logs import MergedLogs
from toolkit.core.errors import ConfigurationError
from toolkit.core.history import Incarnation, Timeline
from toolkit.views import html
from toolkit.views.rows import RankRow

_STREAMS = {"out": ("out",), "err": ("err",), "both": ("out", "err")}
#: lines that are shown of longer ones
_SHOWN_MAX = 200


class LogText(Sequence[str]):
    """Lines, the oldest first."""

    def __init__(self, lines: Sequence[str], cut: Sequence[Path] = ()) -> None:
        self.lines = tuple(lines)
        #: logs of which only the end was read
        self.cut = tuple(cut)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, place: Any) -> Any:
        return self.lines[place]

    def __contains__(self, words: object) -> bool:
        """Whether some line contains these words."""
        return any(str(words) in line for line in self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        shown = self.lines[-_SHOWN_MAX:]
        notes = [f"the last {len(shown)} of {len(self.lines)} lines"] if len(self.lines) > len(shown) else []
        notes += [f"lines before these are in {path}" for path in self.cut]
        head = "".join(map(html.facts, notes))
        body = (
            f"<pre>{html.text_block(chr(10).join(shown))}</pre>"
            if shown
            else html.facts("nothing written yet")
        )
        return {"text/plain": "\n".join(shown), "text/html": html.card(head, body)}


def read_logs(
    rows: Sequence[RankRow],
    timeline: Timeline,
    folder: Path,
    *,
    stream: str,
    last: int | None,
    incarnation: int | None,
) -> LogText:
    """The logs of some ranks; those of several are merged, each line behind its rank.

    Raises:
        ConfigurationError: no such stream or incarnation, or a number of lines that can't be.
    """
    if stream not in _STREAMS:
        raise ConfigurationError(f"stream is {stream!r}; give out, err or both")
    if last is not None and last < 1:
        raise ConfigurationError(f"last is {last}; give 1 or more")
    places = []
    for row in rows:
        chosen = _incarnation(row, timeline, incarnation)
        names = {"out": chosen.stdout, "err": chosen.stderr}
        for each in _STREAMS[stream]:
            path = log_path(names[each], folder)
            if path is not None:
                places.append((str(chosen.global_rank), path))
    if len(rows) == 1 and len(places) == 1:
        file = LogFile(places[0][1])
        while file.read_new():
            pass
        lines = [*file.lines, *filter(None, [file.unfinished])]
        cut = [file.path] if file.cut or file.count > len(file.lines) else []
    else:
        merged = MergedLogs(places)
        merged.read_new()
        lines = [
            text if len(rows) == 1 else f"[{name}] {text}"
            for name, text in (*merged.lines, *merged.unfinished())
        ]
        cut = merged.cut
    whole = last is not None and len(lines) >= last
    return LogText(lines if last is None else lines[-last:], () if whole else cut)


def _incarnation(row: RankRow, timeline: Timeline, number: int | None) -> Incarnation:
    if number is None:
        return row.now
    rank = timeline.nodes[row.key[0]].ranks[row.key[1]]
    known = {each.number: each for each in (*rank.past, rank.now)}
    if number not in known:
        raise ConfigurationError(
            f"rank {row.now.global_rank} has no incarnation {number}; it has {', '.join(map(str, known))}"
        )
    return known[number]
