"""How things are called in sentences for people; one place, so that log, screen and report say the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from signal import Signals

#: how many keys of a store an error names
_NAMED_MAX = 8
#: what tells an agent from another of the same host and pid, in the names that the nodes of a job have for each other
_TOKEN = re.compile(r"(_\d+)_[0-9a-f]{6}\b")
#: characters of a message where one line is to tell it; logs and recordings have it whole
SHORT_MAX = 200
_SIGNALS = {
    "SIGSEGV": " (segmentation fault)",
    "SIGBUS": " (bus error: is /dev/shm full?)",
    "SIGABRT": " (abort)",
    "SIGFPE": " (arithmetic error)",
    "SIGILL": " (illegal instruction)",
}


def signal_name(exit_code: int) -> str:
    """The signal behind an exit code as `subprocess` counts, or an empty string."""
    if exit_code >= 0:
        return ""
    try:
        return Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def printable(text: str) -> str:
    """A text that anybody may have written, without signs that a terminal takes for commands."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def host_and_port(host: str, port: int) -> str:
    """As command lines have them; an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ending(exit_code: int | None, signal: str) -> str:
    """How a process ended: "was killed by SIGKILL", "exited with code 3"."""
    if signal:
        return f"was killed by {signal}{_SIGNALS.get(signal, '')}"
    return "ended" if exit_code is None else f"exited with code {exit_code}"


def in_short(text: str) -> str:
    """The first line of what somebody says; of a long one the beginning, to the end of a sentence if possible."""
    line = (text.strip().splitlines() or [""])[0]
    if len(line) <= SHORT_MAX:
        return line
    begin = line[:SHORT_MAX]
    sentence, space = begin.rfind(". "), begin.rfind(" ")
    if sentence > SHORT_MAX // 3:
        return begin[: sentence + 1]
    return f"{begin[:space] if space > SHORT_MAX // 3 else begin} …"


def failing(exit_code: int | None, signal: str, message: str) -> tuple[str, str]:
    """How a worker failed, in words, and the first line of what it said of that, if that says more."""
    said = in_short(message)
    if signal:
        # What an agent makes up for want of an error file says the same once more.
        return ending(None, signal), "" if signal in said else said
    if exit_code:
        return ending(exit_code, ""), "" if said == f"exited with code {exit_code}" else said
    return "failed", said


def endings(global_ranks: list[int], exit_code: int | None, signal: str) -> str:
    """How several workers ended alike: "ranks 0-2 were killed by SIGABRT (abort)"."""
    how = ending(exit_code, signal)
    one = len(set(global_ranks)) == 1
    return f"{ranks(global_ranks)} {how if one else how.replace('was ', 'were ', 1)}"


def without_tokens(text: str) -> str:
    """Agents in `text` by the names of their recordings, "gpu-a_123", without the token that follows in the store."""
    return _TOKEN.sub(r"\1", text)


def host_of(agent: str) -> str:
    """The machine in the name of an agent: "gpu-a" of "gpu-a_123"."""
    return without_tokens(agent).rsplit("_", 1)[0]


def some(names: Sequence[str], shown: int = 3) -> str:
    """Names in words; of many, the first few: "a", "a and b", "a, b, c and 4 more"."""
    if len(names) > shown + 1:
        return f"{', '.join(names[:shown])} and {len(names) - shown} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def ranks(global_ranks: list[int]) -> str:
    """Ranks in short: "rank 3", "ranks 0-3", "ranks 0, 2, 5-7"."""
    runs: list[tuple[int, int]] = []
    for rank in sorted(set(global_ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank {text}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"ranks {text}"


def plural(count: int, noun: str) -> str:
    """ "1 worker", "2 workers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str, *, count: int = 2, cutoff: float = 0.6
) -> str:
    """The remedy for a word that nobody knows: "did you mean lease or beat?", or `otherwise` where none is near.

    Args:
        count: so many of those that are known are named, the nearest first.
        cutoff: from 0 to 1; the higher the nearer they have to be.
    """
    from difflib import get_close_matches  # late: only what is wrong needs it

    near = get_close_matches(word, list(known), n=count, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def late(missing: Sequence[str], timeout_s: float) -> str:
    """What an error says about keys of a store that did not come.

    Args:
        missing: the keys.
        timeout_s: how long they were waited for.
    """
    return (
        f"waited {timeout_s:g} s for {named(missing)}, in vain; "
        "whoever sets it has failed, or needs a longer timeout"
    )


def named(keys: Sequence[str]) -> str:
    """Keys in words; of many, the first few and how many more."""
    first = ", ".join(repr(key) for key in keys[:_NAMED_MAX])
    more = f" and {len(keys) - _NAMED_MAX} more" if len(keys) > _NAMED_MAX else ""
    return f"{'key' if len(keys) == 1 else 'keys'} {first}{more}"


def times(count: int) -> str:
    """How often, where once goes without saying: "", "3 times "."""
    return "" if count == 1 else f"{count} times "
