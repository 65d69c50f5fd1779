"""A job, its timeline and its failures as HTML without script: what a notebook shows, saves and exports.

All of it is inside of one element of the class "rally", with a style of its own, so that it looks the same in
JupyterLab (light and dark), in an exported page, and with the network off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, TypeAlias

from toolkit.core.history import Failure, Timeline
from toolkit.core.words import failing, plural
from toolkit.views.failure_report import details, tail_of
from toolkit.views.rows import RANK_STATES, RankKey, RankRow, RowMaker, lost_nodes, size_in_words
from toolkit.views.svg import timeline_svg
from toolkit.views.wording import duration_in_words, harmless

#: ranks that have a line in the table; of larger jobs those that something happened to come first
ROWS_MAX = 16
_FAILURES_MAX = 4

_LIGHT = (
    "--r-fg:var(--jp-ui-font-color1,#1f2328);--r-dim:var(--jp-ui-font-color2,#59636e);"
    "--r-line:var(--jp-border-color2,#d1d9e0);--r-bg:var(--jp-layout-color0,#fff);--r-soft:rgba(127,127,127,.09);"
    "--r-runs:#1f77b4;--r-good:#1a7f37;--r-bad:#cf222e;--r-moves:#b08800;--r-waits:#8250df"
)
_DARK = (
    "--r-fg:var(--jp-ui-font-color1,#e6edf3);--r-dim:var(--jp-ui-font-color2,#9198a1);"
    "--r-line:var(--jp-border-color2,#3d444d);--r-bg:var(--jp-layout-color0,#0d1117);--r-soft:rgba(160,160,160,.13);"
    "--r-runs:#4aa8e8;--r-good:#3fb950;--r-bad:#ff6b61;--r-moves:#d9a520;--r-waits:#b392f0"
)
#: of everything that is drawn, live and frozen
STYLE = (
    f".rally{{{_LIGHT};color:var(--r-fg);background:var(--r-bg);border:1px solid var(--r-line);border-radius:6px;"
    "padding:10px 12px;margin:2px 0;font:13px/1.45 system-ui,sans-serif;max-width:900px;overflow-x:auto}"
    f"@media (prefers-color-scheme:dark){{.rally{{{_DARK}}}}}"
    f'body[data-jp-theme-light="true"] .rally,body.vscode-light .rally{{{_LIGHT}}}'
    f'body[data-jp-theme-light="false"] .rally,body.vscode-dark .rally{{{_DARK}}}'
    ".rally .rally-head{display:flex;gap:10px;align-items:baseline;flex-wrap:wrap}"
    ".rally .rally-state{font-weight:600}.rally .rally-name{font-weight:600}"
    ".rally .rally-facts,.rally .rally-note{color:var(--r-dim);margin:2px 0}"
    ".rally .rally-good{color:var(--r-good)}.rally .rally-bad{color:var(--r-bad)}"
    ".rally .rally-warn{color:var(--r-moves)}.rally .rally-busy{color:var(--r-runs)}"
    ".rally table.rally-table{border-collapse:collapse;margin:6px 0 2px;font-size:12px}"
    ".rally table.rally-table th,.rally table.rally-table td{text-align:left;padding:1px 10px 1px 0;border:0;"
    "background:none;white-space:nowrap;max-width:420px;overflow:hidden;text-overflow:ellipsis;color:inherit}"
    ".rally table.rally-table th{color:var(--r-dim);font-weight:400}"
    ".rally table.rally-table td.rally-number{text-align:right}"
    ".rally table.rally-table td.rally-long{white-space:normal;max-width:none}"
    ".rally .rally-bare{display:none}"
    ".rally.rally pre{font-family:ui-monospace,Menlo,Consolas,monospace;"
    "background:var(--r-soft);color:inherit;padding:6px 8px;margin:4px 0;border-radius:4px;font-size:12px;"
    "overflow-x:auto;white-space:pre-wrap}.rally summary{cursor:pointer;color:var(--r-dim)}"
    # Narrower its words could not be read; the card scrolls.
    ".rally svg.rally-timeline{display:block;margin:6px 0;min-width:560px}"
    ".rally svg text{font:11px system-ui,sans-serif;fill:var(--r-fg)}.rally svg .rally-dim{fill:var(--r-dim)}"
    ".rally svg .rally-odd{fill:var(--r-soft)}.rally svg .rally-even{fill:none}"
    ".rally svg path{fill:none}.rally svg .rally-grid{stroke:var(--r-line);stroke-width:.6}"
    ".rally svg .rally-done{stroke:var(--r-line);stroke-width:1.2}"
    ".rally svg .rally-waits{stroke:var(--r-waits);stroke-width:3}"
    ".rally svg .rally-moves{stroke:var(--r-moves);stroke-width:6;stroke-dasharray:3 1.5}"
    ".rally svg .rally-runs{stroke:var(--r-runs);stroke-width:10}"
    ".rally svg .rally-succeeds{stroke:var(--r-good);stroke-width:10}"
    ".rally svg .rally-fails{stroke:var(--r-bad);stroke-width:10;opacity:.75}"
    ".rally svg .rally-mark{font-size:13px;font-weight:700;paint-order:stroke;stroke:var(--r-bg);stroke-width:2.5px}"
    ".rally svg.rally-thin .rally-runs,.rally svg.rally-thin .rally-succeeds,.rally svg.rally-thin .rally-fails"
    "{stroke-width:7}.rally svg.rally-thin .rally-label{font-size:9px}.rally svg.rally-thin .rally-mark{font-size:9px}"
    ".rally svg .rally-failure,.rally svg .rally-lost{fill:var(--r-bad)}"
    ".rally svg .rally-bell{fill:var(--r-moves)}"
    ".rally .rally-buttons{margin-left:auto}.rally .rally-button{font:inherit;font-size:12px;color:inherit;"
    "background:var(--r-soft);border:1px solid var(--r-line);border-radius:4px;padding:0 8px;margin-left:6px;"
    "cursor:pointer;user-select:none}"
    ".rally .rally-danger{color:var(--r-bad);border-color:var(--r-bad)}"
    # It lies over what is below, so that no button moves away from under the pointer.
    ".rally .rally-ask:not(:empty){position:absolute;z-index:1;padding:4px 8px;margin-top:2px;background:var(--r-bg);"
    "border:1px solid var(--r-line);border-radius:4px}.rally .rally-said{display:contents}.rally [hidden]{display:none}"
    ".rally .rally-kill{padding:0 6px;opacity:.55}.rally tr:hover .rally-kill{opacity:1}"
    ".rally svg .rally-from_above,.rally svg .rally-from_below{fill:var(--r-dim);font-size:11px}"
)

#: shown where the style is gone, and so the pictures
BARE = (
    '<div class="rally-bare"><em>The picture is left out, as this notebook is not trusted here: run the cell, or '
    "choose “Trust Notebook” in the command palette (Ctrl+Shift+C). Its words:</em></div>"
)

#: how a state looks: class and sign, so that it is never told by colour alone
_LOOKS = {
    "running": ("rally-busy", "●"),
    "succeeded": ("rally-good", "✓"),
    "failed": ("rally-bad", "✗"),
    "error": ("rally-bad", "✗"),
    "lost": ("rally-bad", "✗"),
    "unkillable": ("rally-bad", "☠"),
    "restarting": ("rally-warn", "↻"),
    "rendezvous": ("rally-warn", "◌"),
    "starting": ("rally-warn", "◌"),
    "ending": ("rally-warn", "◌"),
    "stopped": ("rally-warn", "■"),
}


def text(words: object) -> str:
    """Anything as text in HTML."""
    return escape(harmless(str(words)))


def card(*parts: str) -> str:
    """Parts of HTML in the frame that everything of ours has."""
    # A page that does not trust a notebook takes style and pictures away, and leaves their words.
    bare = BARE if any("<svg" in part for part in parts) else ""
    return f'<div class="rally"><style>{STYLE}</style>{bare}{"".join(parts)}</div>'


def look_of(state: str) -> tuple[str, str]:
    """Class and sign of a state."""
    return _LOOKS.get(state, ("", "·"))


def badge(state: str) -> str:
    """A state with its sign."""
    look, sign = look_of(state)
    return f'<span class="rally-state {look}">{sign} {text(state)}</span>'


def head(state: str, name: str, *more: str) -> str:
    """The first line of a card."""
    rest = f'<span class="rally-facts">{text(" · ".join(filter(None, more)))}</span>'
    return f'<div class="rally-head">{badge(state)} <span class="rally-name">{text(name)}</span> {rest}</div>'


def facts(*words: str) -> str:
    """What else there is to say, on a line."""
    return f'<div class="rally-facts">{text(" · ".join(word for word in words if word))}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers stand to the right, and what is HTML already is marked by `Markup`."""
    heads = "".join(f"<th>{text(column)}</th>" for column in columns)
    head = f"<thead><tr>{heads}</tr></thead>" if any(columns) else ""
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<table class="rally-table">{head}<tbody>{lines}</tbody></table>'


class Markup(str):
    """A string that is HTML."""


class Long(str):
    """Text that goes on in the next line, where others are cut."""


def _cell(value: Any) -> str:
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    if isinstance(value, Long):
        return f'<td class="rally-long">{text(value)}</td>'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="rally-number">{value:,}</td>' if isinstance(value, int) else _number(value)
    return f"<td>{text('' if value is None else value)}</td>"


def _number(value: float) -> str:
    return f'<td class="rally-number">{value:,.4g}</td>'


# -- a job ----------------------------------------------------------------------------------------------------


#: what workers have said last, by node and local rank
Said: TypeAlias = Mapping[RankKey, str]
NOTHING_SAID: Said = MappingProxyType({})
#: letters of that which are shown
SAID_MAX = 80


def job_html(
    timeline: Timeline,
    now_ns: int,
    *,
    name: str,
    mode: str,
    notes: Sequence[str] = (),
    said: Said = NOTHING_SAID,
    state: str = "",
) -> str:
    """A job: its state, what restarts cost, the timeline, failures, ranks.

    Args:
        now_ns: wall time of the moment that is shown.
        name: what the job is called.
        mode: LIVE, REPLAY or SIM, and of what.
        notes: lines that stand below the head.
        said: the last lines of workers.
        state: what to call its state; as the timeline does if empty.
    """
    return card(
        head(state or timeline.state, name, *job_facts(timeline, now_ns), mode),
        *(f'<div class="rally-note">{text(note)}</div>' for note in notes),
        timeline_svg(timeline, now_ns) if timeline.nodes else "",
        failures_html(timeline),
        ranks_html(timeline, said=said),
    )


def standing_alone(svg: str) -> str:
    """A picture of ours as a file of its own."""
    head, rest = svg.replace('class="', 'class="rally ', 1).split(">", 1)
    # What is a descendant of the card elsewhere is the card itself here.
    style = STYLE.replace(".rally svg ", ".rally ")
    return f"{head}><style>{style}</style>{rest}"


def job_facts(timeline: Timeline, now_ns: int) -> tuple[str, ...]:
    """What a job's head says beside its state: size, restarts, and how long it takes."""
    # A lost node's ranks are somebody else's by now.
    gone = lost_nodes(timeline)
    there = [node for name, node in timeline.nodes.items() if name not in gone]
    ranks = [rank.now for node in there for rank in node.ranks.values()]
    running = sum(rank.state == "running" for rank in ranks)
    size = f"{plural(len(timeline.nodes), 'node')}, {running} of {plural(len(ranks), 'rank')} running"
    if not timeline.nodes:
        size = ""
    elif timeline.result:
        size = f"{plural(len(timeline.nodes), 'node')}, {plural(len(ranks), 'rank')}"
    used, most, total = timeline.restarts_used, timeline.restarts_max, timeline.restarts_total
    restarts = f"restarts {used} of {most}" if most else ""
    if total > used:
        restarts = f"{plural(total, 'restart')}, {used} of {most} spent"
    lost = f"{duration_in_words(timeline.time_lost_s)} in restarts" if timeline.time_lost_s else ""
    began = timeline.started
    ended_ns = timeline.ended.wall_ns if timeline.ended is not None else now_ns
    took = duration_in_words(max(ended_ns - began.wall_ns, 0) / 1e9) if began is not None else ""
    return tuple(
        filter(None, (size, f"round {timeline.rounds}" if timeline.rounds else "", restarts, lost, took))
    )


def failures_html(timeline: Timeline, most: int = _FAILURES_MAX) -> str:
    """The failures that came first in their incarnations, the latest first, each with its traceback to open."""
    firsts = [failure for failure in timeline.failures.values() if failure.first]
    firsts.sort(key=lambda failure: failure.at.wall_ns, reverse=True)
    parts = [_failure(failure) for failure in firsts[:most]]
    if len(firsts) > most:
        parts.append(f'<div class="rally-note">and {plural(len(firsts) - most, "failure")} before</div>')
    return "".join(parts)


def _failure(failure: Failure) -> str:
    how, said = failing(failure.exit_code, failure.signal, failure.message)
    words = f"rank {failure.global_rank} {how}"
    shown = f'<div><span class="rally-bad">✗ {text(words)}</span>'
    shown += f": {text(said)}" if said else ""
    shown += f' <span class="rally-note">round {failure.round}, {text(failure.hostname or failure.node)}</span></div>'
    for detail in details(said or words, failure.what, failure.remedy):
        shown += f"<div>{text(detail)}</div>"
    if failure.traceback:
        last = tail_of(failure.traceback)
        shown += f"<pre>{chr(10).join(map(text, last))}</pre>" if last else ""
        shown += (
            f"<details><summary>whole traceback</summary><pre>{text_block(failure.traceback)}</pre></details>"
        )
    return shown


def text_block(words: str) -> str:
    """Several lines."""
    return "\n".join(map(text, words.splitlines()))


def last_of(row: RankRow, said: Said) -> str:
    """How a rank ended, or else what it has said last: for many the nearest to progress that they tell."""
    return row.last or said.get(row.key, "")[:SAID_MAX]


def ranks_html(timeline: Timeline, most: int = ROWS_MAX, said: Said = NOTHING_SAID) -> str:
    """The table of ranks; of many, those that are not as they should be come first, and the rest is counted."""
    rows = RowMaker().ranks(timeline)
    if not rows:
        return ""
    shown = rows if len(rows) <= most else sorted(rows, key=_oddest)[:most]
    told = any(last_of(row, said) for row in shown)
    used = any(row.usage.cpu_percent is not None for row in shown)
    steps = any(row.step is not None for row in shown)
    columns = ["rank", "host", "state", "incarnation", "pid"]
    columns += [
        *(["step"] if steps else []),
        *(["CPU", "memory"] if used else []),
        *(["last"] if told else []),
    ]
    body = table(columns, [_rank(row, steps, used, [last_of(row, said)] if told else []) for row in shown])
    if len(rows) > len(shown):
        counts = Counter(row.state for row in rows)
        all_of_them = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        body += f'<div class="rally-note">{plural(len(rows), "rank")}: {text(all_of_them)}</div>'
    return body


def _oddest(row: RankRow) -> tuple[int, int]:
    return RANK_STATES.index(row.state), row.now.global_rank


def _rank(row: RankRow, steps: bool, used: bool, last: list[str]) -> list[Any]:
    usage: list[Any] = [row.step] if steps else []
    if used:
        cpu = row.usage.cpu_percent
        usage += ["" if cpu is None else f"{cpu:.0f} %", size_in_words(row.usage.rss_bytes)]
    now = row.now
    return [
        now.global_rank,
        row.host,
        Markup(badge(row.state)),
        now.number,
        str(now.pid or ""),
        *usage,
        *last,
    ]
