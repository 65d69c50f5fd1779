"""How things are called in sentences for people; one place, so that log, screen and report say the same."""

from __future__ import annotations

from collections.abc import Sequence

#: how many keys of a store an error names
_NAMED_MAX = 8


def ending(exit_code: int | None, signal: str) -> str:
    """How a process ended: "was killed by SIGKILL", "exited with code 3"."""
    if signal:
        return f"was killed by {signal}"
    return "ended" if exit_code is None else f"exited with code {exit_code}"


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
