"""Tracebacks in the last words of a process: found in whatever stands around them, whole, and bounded in time. Pure.

What a worker leaves on stderr may be anything: binary, megabytes without a line's end, progress bars, colours. Each
line is cut, each pattern is linear, and only the last lines are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: of the text, its last characters and lines are looked at, and so much of each line
CHARS_MAX, LINES_MAX, LINE_MAX = 65_536, 2_000, 1_000
#: lines of an exception's message, its notes included, and frames' lines of one traceback
_MESSAGE_LINES_MAX, _FRAME_LINES_MAX = 40, 1_500

_HEADER = "Traceback (most recent call last):"
_GROUP_HEADER = "Exception Group Traceback (most recent call last):"
_BOX_HEADER = "Traceback (most recent call last) "
_CHAINS = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
#: what stands before tracebacks of errors that did not end the process
_ASIDE = (
    "Exception ignored",
    "Exception in thread",
    "Error in sys.",
    "--- Logging error",
)
# Colours and other commands to a terminal, and titles of its window. Neither part can run away: no nesting.
_ANSI = r"\x1b(?:\[[0-9;:?<=>]{0,40}[@-~]|\][^\x07\x1b\n]{0,400}(?:\x07|\x1b\\)?|[@-Z\\^_()#][0-9A-Za-z]?)"
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]{0,200}(?:: ?|$)")
_INDENTS = (" ", "\t", "> ", "│", "└")
#: a line that can only be that of an exception
_LAST_LINE = r"[A-Za-z_][\w.]{0,200}(?:Error|Exception|Exit|Interrupt|Warning)(?:: |$)"
_COMPILE_ERRORS = ("SyntaxError:", "IndentationError:", "TabError:")
#: lines that are no more of a message: logs, warnings, what other parts of a dying process say
_OTHER = (
    r"\[rank\d{1,6}\]|\[[WEIF]\d{4} |[WEIF]\d{4} \d\d:|\d{4}-\d\d-\d\d[ T]|(?:INFO|DEBUG|WARNING|ERROR|CRITICAL)\b"
    r"|Exception ignored|terminate called|/\S{1,300}Warning:|\S{1,300}:\d{1,7}: \w{0,40}Warning:|Fatal Python error"
    r"|\s*$|" + re.escape(_HEADER)
)


@dataclass(frozen=True, slots=True)
class Found:
    """A traceback.

    Args:
        lines: all of it, without what stood before each line.
        exceptions: first lines of the exceptions in it, causes first; the last is what was raised in the end.
        messages: the same with all lines of each.
        after: lines that follow it.
        aside: whether it is of an error that did not end the process.
    """

    lines: tuple[str, ...]
    exceptions: tuple[str, ...]
    messages: tuple[str, ...]
    after: int = 0
    aside: bool = False

    @property
    def text(self) -> str:
        """Its lines as one text."""
        return "\n".join(self.lines) + "\n"


def clean_lines(text: str) -> list[str]:
    """The last lines of a text as a terminal would show them: no colours, and of a progress bar its last state."""
    lines = re.sub(_ANSI, "", text[-CHARS_MAX:]).split("\n")[-LINES_MAX:]
    return [_shown(line)[:LINE_MAX] for line in lines]


def _shown(line: str) -> str:
    line = line.rstrip("\r").rpartition("\r")[2].rstrip()
    return line if line.isprintable() else "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


def last_traceback(lines: Sequence[str]) -> Found | None:
    """The traceback that ended the process, as far as can be told: the last that is no aside, else the last.

    Args:
        lines: as `clean_lines` returns them.
    """
    fatal = _fatal_python(lines)
    if fatal is not None:
        return fatal
    found = tracebacks(lines)
    return next((one for one in reversed(found) if not one.aside), found[-1] if found else None)


def tracebacks(lines: Sequence[str]) -> list[Found]:
    """All of them, in their order."""
    found: list[Found] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if _GROUP_HEADER in line:
            end, one = _group(lines, at)
        elif _HEADER in line:
            end, one = _chain(lines, at)
        elif _BOX_HEADER in line and "╭" in line:
            end, one = _box(lines, at)
        elif line.startswith(_COMPILE_ERRORS):
            end, one = at + 1, _compile_error(lines, at)
        else:
            at += 1
            continue
        aside = _is_aside(lines, at)
        found.append(replace(one, after=len(lines) - end, aside=aside))
        at = max(end, at + 1)
    return found


def _is_aside(lines: Sequence[str], at: int) -> bool:
    before = next((line for line in reversed(lines[max(0, at - 3) : at]) if line.strip()), "")
    return any(word in before for word in _ASIDE)


def _chain(lines: Sequence[str], at: int) -> tuple[int, Found]:
    """A traceback and those that came of it."""
    told: list[str] = []
    messages: list[str] = []
    while True:
        prefix = _prefix(lines, at)
        end, block, exception = _block(lines, at, prefix)
        told += block
        messages += [exception] if exception else []
        follows = _link(lines, end, prefix)
        if follows is None:
            return end, Found(tuple(told), tuple(m.split("\n", 1)[0] for m in messages), tuple(messages))
        told += ["", _bare(lines[follows - 2], prefix), ""]
        at = follows


def _prefix(lines: Sequence[str], at: int) -> str:
    """What stands before each line of the traceback, as torch's "[rank0]: ", or nothing."""
    prefix = lines[at][: lines[at].index(_HEADER)]
    bare = prefix.rstrip()
    follows = lines[at + 1] if at + 1 < len(lines) else ""
    return prefix if bare and follows.startswith(bare) else "" if prefix.strip() else prefix


def _bare(line: str, prefix: str) -> str:
    return line[len(prefix) :] if line.startswith(prefix) else line.removeprefix(prefix.rstrip())


def _block(lines: Sequence[str], at: int, prefix: str) -> tuple[int, list[str], str]:
    """One traceback: where it ends, its lines, and those of its exception as one text."""
    told, at = [_HEADER], at + 1
    marked = prefix.rstrip()
    while at < len(lines) and len(told) < _FRAME_LINES_MAX and lines[at].startswith(marked):
        line = _bare(lines[at], prefix)
        if not (line.startswith(_INDENTS) or (not line.strip() and _goes_on(lines, at + 1))):
            break
        told.append(line)
        at += 1
    if at >= len(lines) or not lines[at].startswith(marked):
        return at, told, ""
    exception = _bare(lines[at], prefix)
    if not _EXCEPTION.match(exception):
        return at, told, ""
    told.append(exception)
    end = _message_end(lines, at + 1, prefix)
    message = [_bare(line, prefix) for line in lines[at + 1 : end]]
    return end, told + message, "\n".join((exception, *message[:20]))


def _goes_on(lines: Sequence[str], at: int) -> bool:
    """Whether a traceback goes on behind an empty line, as loguru writes it."""
    return at < len(lines) and bool(lines[at].startswith(_INDENTS) or re.match(_LAST_LINE, lines[at]))


def _message_end(lines: Sequence[str], at: int, prefix: str) -> int:
    """Where the message and the notes of an exception end."""
    marked = prefix.rstrip()
    last = min(at + _MESSAGE_LINES_MAX, len(lines))
    while at < last:
        line = lines[at]
        if marked and not (line.startswith(prefix) or line == marked):
            return at
        if re.match(_OTHER, _bare(line, prefix)):
            return at
        at += 1
    return at


def _link(lines: Sequence[str], end: int, prefix: str) -> int | None:
    """Where the traceback begins that came of the one that ends at `end`."""
    for at in range(end, min(end + 2, len(lines))):
        if _bare(lines[at], prefix).strip() in _CHAINS:
            follows = at + 2
            if follows < len(lines) and _HEADER in lines[follows] and _GROUP_HEADER not in lines[follows]:
                return follows
    return None


def _group(lines: Sequence[str], at: int) -> tuple[int, Found]:
    """A group of exceptions: drawn with bars, which stay."""
    begun = at
    prefix = lines[at][: lines[at].index(_GROUP_HEADER)].rstrip("+ ")
    at += 1
    while at < len(lines) and _bare(lines[at], prefix).lstrip().startswith(("|", "+")):
        at += 1
    told = tuple(_bare(line, prefix) for line in lines[begun:at])
    inner = [line.strip(" |+-") for line in told]
    indented = [line.lstrip(" |+-") == line.strip().lstrip("|+-").removeprefix(" ") for line in told]
    heads = [
        line
        for line, top in zip(inner[1:], indented[1:], strict=True)
        if top and _EXCEPTION.match(line) and ":" in line and not line.startswith(("Traceback", "File "))
    ]
    # The group itself comes first in the text, and is what was raised in the end.
    exceptions = (*heads[1:], *heads[:1])
    return at, Found(told, exceptions, exceptions)


def _box(lines: Sequence[str], at: int) -> tuple[int, Found]:
    """A traceback in a box, as rich draws it; what was raised stands below."""
    begun = at
    prefix = lines[at][: lines[at].index("╭")]
    while at < len(lines) and "╰" not in lines[at]:
        at += 1
    told = [_bare(line, prefix).strip("│╭╰╮╯─ ") for line in lines[begun + 1 : at]]
    exception = _bare(lines[at + 1], prefix) if at + 1 < len(lines) else ""
    exceptions = (exception,) if _EXCEPTION.match(exception) else ()
    told = [_HEADER, *(f"  {line}" for line in told), *exceptions]
    return at + 1 + len(exceptions), Found(tuple(told), exceptions, exceptions)


def _compile_error(lines: Sequence[str], at: int) -> Found:
    """A script that can't be compiled: no header, and the place stands above."""
    begun = at
    while begun > max(0, at - 6) and lines[begun - 1].startswith(" "):
        begun -= 1
    return Found(tuple(lines[begun : at + 1]), (lines[at],), (lines[at],))


def _fatal_python(lines: Sequence[str]) -> Found | None:
    """What Python's faulthandler leaves of a crash."""
    at = next((n for n in range(len(lines) - 1, -1, -1) if "Fatal Python error: " in lines[n]), None)
    if at is None:
        return None
    end = at + 1
    blank = 0
    while end < len(lines) and end - at < _FRAME_LINES_MAX:
        line = lines[end]
        blank = blank + 1 if not line.strip() else 0
        known = line.startswith(
            ("  ", "Current thread", "Thread 0x", "Python runtime state", "Extension modules")
        )
        if blank > 1 or not (known or not line.strip()):
            break
        end += 1
    head = lines[at][lines[at].index("Fatal Python error: ") :]
    return Found((head, *lines[at + 1 : end]), (head,), (head,), len(lines) - end)


def own_frames(lines: Iterable[str], most: int) -> list[str]:
    """The last lines of a traceback within so many, the program's own frames rather than those of libraries.

    Lines that are left out are counted in a line of their own.
    """
    told = list(lines)
    if len(told) <= most:
        return told
    frames = _frames(told)
    if len(frames) < 2:
        return told if len(told) == most + 1 else [f"({len(told) - most} lines left out)", *told[-most:]]
    tail = frames.pop()  # the exception, and what follows it
    tail = tail if len(tail) < most else [*tail[: most - 1], f"({len(tail) - most + 1} more lines)"]
    kept: list[tuple[int, list[str]]] = []
    room = most - len(tail)
    order = sorted(range(len(frames)), key=lambda n: (_of_library(frames[n]), -n))
    for number in order:
        if len(frames[number]) <= room:
            kept.append((number, frames[number]))
            room -= len(frames[number])
    chosen = [line for _, frame in sorted(kept) for line in frame]
    left_out = sum(map(len, frames)) - len(chosen)
    if left_out <= 1:  # a single one takes no more room itself
        return [*(line for frame in frames for line in frame), *tail]
    return [f"({left_out} lines left out)", *chosen, *tail]


def _frames(told: Sequence[str]) -> list[list[str]]:
    """Each frame with its lines; the last piece is what follows the frames."""
    pieces: list[list[str]] = [[]]
    for line in told:
        if line.lstrip(" |>").startswith('File "') or (
            not line.startswith((" ", "\t")) and _in_frame(pieces[-1])
        ):
            pieces.append([])
        pieces[-1].append(line)
    return [piece for piece in pieces if piece]


def _in_frame(piece: Sequence[str]) -> bool:
    return bool(piece) and piece[0].lstrip(" |>").startswith('File "')


def _of_library(frame: Sequence[str]) -> bool:
    first = frame[0]
    return (
        "site-packages" in first or "dist-packages" in first or "/lib/python3" in first or "<frozen " in first
    )
