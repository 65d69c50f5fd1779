"""How states look: a sign and a colour, never a colour alone. Pure."""

from __future__ import annotations

from rich.style import Style

from toolkit.views.lanes import Phase
from toolkit.views.telling import Tone
from toolkit.views.wording import look_of

_MORE = {
    "lost": ("red", "✗"),
    "unkillable": ("red", "☠"),
    "vanished": ("red", "✗"),
    "parked": ("blue", "◍"),
    "restarting": ("yellow", "↻"),
}
TONES: dict[Tone, str] = {"bad": "red", "warn": "yellow", "good": "green", "action": "magenta", "plain": ""}
TONE_SIGNS: dict[Tone, str] = {"bad": "✗", "warn": "!", "good": "✓", "action": "»", "plain": " "}

#: letter and colour of a cell of a lane
PHASES: dict[Phase, tuple[str, str]] = {
    "none": (" ", ""),
    "waits": ("┄", "blue"),
    "moves": ("╍", "yellow"),
    "runs": ("━", "cyan"),
    "fails": ("━", "red"),
    "succeeds": ("━", "green"),
    "done": ("·", "bright_black"),
}
#: a failing incarnation must be told from a good one without colour, too
PLAIN_PHASES: dict[Phase, str] = {
    "none": " ", "waits": "w", "moves": "~", "runs": "=", "fails": "x", "succeeds": "#", "done": "·",
}  # fmt: skip
MARK_STYLES = {
    "failure": "bold white on red",
    "bell": "bold black on yellow",
    "from_above": "bold yellow",
    "from_below": "bold yellow",
    "lost": "bold white on red",
    "signal": "",
}


def state_look(state: str) -> tuple[str, str]:
    """Colour and sign of a state of a job, a node or a rank."""
    return _MORE.get(state) or look_of(state, unicode=True)


def style(text: str) -> Style:
    """A style by its name; the empty one for an empty name."""
    return Style.parse(text) if text else Style.null()
