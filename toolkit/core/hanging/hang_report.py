"""What is said of workers that hang, and who of them is to blame: in words, from verdicts and stacks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.core.events import HungWorker
from toolkit.core.hanging.hangs import Verdict
from toolkit.core.hanging.watched import HUNG, HangSettings
from toolkit.core.stacks import Alike, Answer, Unread, grouped
from toolkit.core.words import plural, printable, ranks

#: characters of the stacks in an event, and frames of one group
STACKS_MAX, FRAMES_MAX = 8_000, 12
#: kinds that need no comparison with the others
_CERTAIN = frozenset({"stopped", "traced", "stuck", "timer"})


@dataclass(frozen=True, slots=True)
class Suspects:
    """Who of the workers that hang is to blame, as far as this node can tell.

    Args:
        culprits: local ranks; the others that hang only wait for them.
        waiting: local ranks that hang and are no culprits.
        odd: local ranks whose stacks are those of few, while most are in one place.
        all_still: whether no worker of this node moves, and nothing tells one from the other but the stacks.
    """

    culprits: tuple[int, ...]
    waiting: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()
    all_still: bool = False


def suspects(
    verdicts: Sequence[Verdict],
    steps: Mapping[int, int | None],
    answers: Mapping[int, Answer] | None = None,
) -> Suspects:
    """Who is to blame.

    Args:
        verdicts: who hangs.
        steps: the step of each worker that runs, by local rank; None for those that never told one.
        answers: stacks by local rank, as far as they were read.
    """
    hanging = [verdict.local_rank for verdict in verdicts]
    odd = _odd(answers or {})
    certain = [v.local_rank for v in verdicts if v.kind in _CERTAIN]
    if certain:
        return Suspects(tuple(certain), tuple(rank for rank in hanging if rank not in certain), odd)
    behind = _behind(hanging, steps)
    if behind:
        return Suspects(behind, tuple(rank for rank in hanging if rank not in behind), odd)
    if len(hanging) < len(steps):
        return Suspects(tuple(hanging), (), odd)
    if odd:
        return Suspects(odd, tuple(rank for rank in hanging if rank not in odd), odd, all_still=True)
    return Suspects((), tuple(hanging), (), all_still=True)


def _behind(hanging: Sequence[int], steps: Mapping[int, int | None]) -> tuple[int, ...]:
    """Those that hang at the lowest step, if others are further."""
    known = {rank: step for rank, step in steps.items() if step is not None}
    if not known or min(known.values()) == max(known.values()):
        return ()
    lowest = min(known.values())
    return tuple(rank for rank in hanging if known.get(rank) == lowest)


def _odd(answers: Mapping[int, Answer]) -> tuple[int, ...]:
    """Those that are elsewhere in their code than most."""
    groups = [group for group in grouped(answers.items()) if not isinstance(group.where, Unread)]
    known = sum(len(group.global_ranks) for group in groups)
    largest = max((len(group.global_ranks) for group in groups), default=0)
    if known < 3 or largest * 2 <= known or largest == known:
        return ()
    return tuple(
        sorted(r for group in groups if len(group.global_ranks) < largest for r in group.global_ranks)
    )


def condemned(
    verdicts: Sequence[Verdict], found: Suspects, settings: HangSettings, *, alone: bool
) -> list[Verdict]:
    """Whom to kill. The rest of the group is then stopped as after any failure.

    While a debugger holds a worker nobody else is killed but by timers. On a node all of whose workers wait alike the
    culprit may well be on another one, whose agent finds it: they get the timeout a second time.

    Args:
        alone: whether this node is the whole group.
    """
    chosen = [v for v in verdicts if v.kind == "timer" and v.signum > 0]
    if any(v.kind == "traced" for v in verdicts):
        return chosen
    if settings.stuck_fails:
        chosen += [v for v in verdicts if v.kind == "stuck"]
    if settings.action == "restart":
        chosen += [
            v for v in _to_blame(verdicts, found, settings, alone) if v not in chosen and v.kind != "timer"
        ]
    return chosen


def _to_blame(
    verdicts: Sequence[Verdict], found: Suspects, settings: HangSettings, alone: bool
) -> list[Verdict]:
    if found.all_still and not alone and min(v.for_s for v in verdicts) < 2 * settings.timeout_s:
        return []
    culprits = [v for v in verdicts if v.local_rank in found.culprits]
    return culprits or list(verdicts[:1])


# -- in words -----------------------------------------------------------------------------------------------


def hung_workers(
    verdicts: Sequence[Verdict], found: Suspects, global_ranks: Mapping[int, int], details: Mapping[int, str]
) -> list[HungWorker]:
    """The verdicts as events have them, culprits first.

    Args:
        global_ranks: by local rank.
        details: what else is known of a process, by its id: where in the kernel it is, or the name of a debugger.
    """
    told = [
        HungWorker(
            local_rank=v.local_rank,
            global_rank=global_ranks.get(v.local_rank, -1),
            pid=v.pid,
            kind=v.kind,
            for_s=round(v.for_s, 1),
            step=v.step,
            culprit=v.local_rank in found.culprits,
            detail=details.get(v.tracer or v.pid, ""),
            timer=v.timer,
        )
        for v in verdicts
    ]
    return sorted(told, key=lambda worker: (not worker.culprit, worker.local_rank))


def headline(workers: Sequence[HungWorker], steps: Mapping[int, int | None], running: int) -> str:
    """What hangs, in one sentence.

    Args:
        workers: culprits first; not empty.
        steps: of all that run, by global rank.
        running: how many workers of this node run.
    """
    culprits = [worker for worker in workers if worker.culprit]
    if not culprits:
        return _all_alike(workers, running)
    others = [worker for worker in workers if not worker.culprit]
    said = "; ".join(_of_one(worker, steps) for worker in culprits[:3])
    more = f"; {plural(len(culprits) - 3, 'more worker')} likewise" if len(culprits) > 3 else ""
    waits = "waits" if len(others) == 1 else "wait"
    wait = f"; {ranks([worker.global_rank for worker in others])} {waits}" if others else ""
    return said + more + wait


def _all_alike(workers: Sequence[HungWorker], running: int) -> str:
    for_s = min(worker.for_s for worker in workers)
    # One that runs alone need not be the only one that there was.
    alone = f"rank {workers[0].global_rank} (pid {workers[0].pid})"
    who = alone if running == 1 else f"all {running} workers of this node"
    if all(worker.kind == "standing" for worker in workers):
        steps = {worker.step for worker in workers}
        where = f" at step {steps.pop()}" if len(steps) == 1 else ""
        return f"{who} {'stands' if running == 1 else 'stand'}{where} for {for_s:.0f} s"
    what = "has" if running == 1 else "have"
    return f"{who} {what} used no CPU and written nothing for {for_s:.0f} s"


def _of_one(worker: HungWorker, steps: Mapping[int, int | None]) -> str:
    who = f"rank {worker.global_rank} (pid {worker.pid})"
    detail = f" ({worker.detail})" if worker.detail else ""
    match worker.kind:
        case "stopped":
            return f"{who} is stopped, for {worker.for_s:.0f} s now"
        case "traced":
            return f"{who} is held by a debugger{detail}, for {worker.for_s:.0f} s now"
        case "stuck":
            return f"{who} is in uninterruptible sleep{detail}, for {worker.for_s:.0f} s now"
        case "standing":
            return f"{who} stands at step {worker.step} for {worker.for_s:.0f} s{_of_others(worker, steps)}"
        case "timer":
            return f"timer {worker.timer!r} of {who} expired {worker.for_s:.1f} s ago"
    return f"{who} has used no CPU and written nothing for {worker.for_s:.0f} s"


def _of_others(worker: HungWorker, steps: Mapping[int, int | None]) -> str:
    others = sorted({step for rank, step in steps.items() if step is not None and rank != worker.global_rank})
    if not others:
        return ""
    if others == [worker.step]:
        return ", as the others do"
    where = f"{others[0]}" if len(others) == 1 else f"{others[0]} to {others[-1]}"
    return f"; the others are at {where}"


def stacks_text(groups: Sequence[Alike]) -> str:
    """Groups of ranks in the same place, the odd ones out first; at most `STACKS_MAX` characters."""
    lines: list[str] = []
    for group in groups:
        who = ranks(list(group.global_ranks))
        if isinstance(group.where, Unread):
            lines.append(f"{who}: {group.where.why}")
            continue
        lines.append(f"{who} in {group.where[0].function}:" if group.where else f"{who}: not in Python")
        lines += [f"    {f.function}  {f.file}:{f.line}" for f in group.where[:FRAMES_MAX]]
        if len(group.where) > FRAMES_MAX:
            lines.append(f"    ... and {len(group.where) - FRAMES_MAX} more")
    text = "\n".join(map(printable, lines))
    return text if len(text) <= STACKS_MAX else text[: STACKS_MAX - 4] + "\n..."


def cause(worker: HungWorker, steps: Mapping[int, int | None], running: int) -> str:
    """What the failure of a worker says that was killed because of this.

    Args:
        steps: of all that run, by global rank.
        running: how many workers of this node run.
    """
    return HUNG + headline([worker], steps, running)
