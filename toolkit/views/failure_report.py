"""Why a job or a node failed, in words: the same lines at the end of `rally run`, in `rally show` and on screens. Pure.

One screen: who failed first, what of and what helps, the end of its traceback, what the others died of because of it,
whom the agent stopped, where the logs are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolkit.core.diagnosing.tracebacks import own_frames
from toolkit.core.events import FailureRecorded
from toolkit.core.job_report import FailureRecord, Hand, culprit
from toolkit.core.words import endings, ranks, without_tokens

#: lines of a traceback that are shown; the whole of it is in the recording
TRACEBACK_LINES = 12
#: kinds of endings that are told apart among those who failed after the first
_ENDINGS_MAX = 3


@dataclass(frozen=True, slots=True)
class ReportWords:
    """Why a job failed: the same lines from each of its agents and in `rally show`.

    Args:
        first: who failed first, or why the job failed if nobody did.
        details: what that was, and what helps; a line each.
        traceback: the last lines of that one's.
        others: who failed besides, and whether because of it; a line each kind.
        why: what ended the job then; empty where that is said already.
    """

    first: str
    traceback: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    why: str = ""
    details: tuple[str, ...] = ()


def report_in_words(
    why: str,
    failures: Sequence[FailureRecord],
    stopped: Mapping[int, str] | None = None,
    ended_well: Sequence[int] = (),
) -> ReportWords:
    """The report in words.

    Args:
        why: of the job.
        failures: who failed first at the top.
        stopped: by global rank, whom the agent stopped, with what they had said of another's death before.
        ended_well: global ranks that had ended with exit code 0 before anybody failed.
    """
    why, first = without_tokens(why), culprit(failures)
    if first is None:
        return ReportWords(f"the job failed: {why}" if why else "the job failed")
    told = (
        "nobody is known to have failed by itself; first to tell was "
        if first.hand == "second"
        else "failed first: "
    )
    words = first.words()
    return ReportWords(
        first=f"{told}{words}",
        details=tuple(details(words, first.what, first.remedy)),
        traceback=tail_of(first.traceback),
        others=(
            *(gone_in_words(ended_well) if first.hand == "second" else ()),
            *_others(failures[1:], first.hand),
            *stopped_in_words(stopped or {}),
        ),
        why=without_who(why, first),
    )


def details(words: str, what: str, remedy: str) -> list[str]:
    """What a failure was, if that says more than `words` have said, and what helps."""
    new = bool(what) and _plain(what) not in _plain(words)
    return [*([f"that is: {what}"] if new else []), *([f"what helps: {remedy}"] if remedy else [])]


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def without_who(reason: str, record: FailureRecord) -> str:
    """What a reason adds to who failed and how, where it begins with that."""
    who = record.words()
    return "" if reason == who else reason.removeprefix(f"{who}; ")


def record_of(event: FailureRecorded) -> FailureRecord:
    """A failure of this node as its agent would tell the others."""
    return FailureRecord(
        node=event.node,
        host=event.hostname,
        global_rank=event.global_rank,
        local_rank=event.local_rank,
        pid=event.pid,
        exit_code=event.exit_code,
        signal=event.signal,
        message=event.message,
        traceback=event.traceback,
        hand=event.hand if event.hand in _HANDS else "unclear",
        what=event.what,
        error_class=event.error_class,
        remedy=event.remedy,
    )


_HANDS: dict[Hand, str] = {
    "second": "because of it: ",
    "unclear": "after it, perhaps because of it: ",
    "first": "by itself, too: ",
}


def _others(failures: Sequence[FailureRecord], first: Hand) -> list[str]:
    """Those who failed besides, in a line for each hand."""
    lines = []
    for hand, label in _HANDS.items():
        groups: dict[tuple[int | None, str, str], list[int]] = {}
        for record in failures:
            if record.hand == hand:
                key = (record.exit_code, record.signal, record.what)
                groups.setdefault(key, []).append(record.global_rank)
        if groups:
            said = [
                endings(found, code, signal) + (f": {what}" if what else "")
                for (code, signal, what), found in groups.items()
            ]
            more = f"; and {len(said) - _ENDINGS_MAX} other kinds" if len(said) > _ENDINGS_MAX else ""
            lines.append(
                ("likewise: " if hand == first == "second" else label) + "; ".join(said[:_ENDINGS_MAX]) + more
            )
    return lines


def consequences_in_words(failures: Iterable[tuple[int, int | None, str, str]]) -> list[str]:
    """Those who died of another's death, in a line each kind.

    Args:
        failures: of each its global rank, exit code, signal, and what it died of.
    """
    records = [
        FailureRecord(global_rank=rank, exit_code=code, signal=signal, what=what, hand="second")
        for rank, code, signal, what in failures
    ]
    return _others(records, "first")


def gone_in_words(ended_well: Sequence[int]) -> list[str]:
    """Who may be the cause where all that failed only miss somebody: whoever ended well before them."""
    if not ended_well:
        return []
    return [
        f"before that {ranks(list(ended_well))} had ended with exit code 0, perhaps too early for the others"
    ]


def stopped_in_words(stopped: Mapping[int, str]) -> list[str]:
    """Whom the agent stopped: those that had told of another's death, then the rest.

    Args:
        stopped: by global rank, what they had said, or an empty string.
    """
    groups: dict[str, list[int]] = {}
    for rank, said in stopped.items():
        groups.setdefault(said, []).append(rank)
    quiet = groups.pop("", [])
    lines = [
        f"because of it: {ranks(found)} said {said}, and {'was' if len(found) == 1 else 'were'} stopped by the agent"
        for said, found in list(groups.items())[:_ENDINGS_MAX]
    ]
    if quiet:
        lines.append(f"stopped by the agent: {ranks(quiet)}")
    return lines


def tail_of(traceback: str) -> tuple[str, ...]:
    """The lines of a traceback that matter, behind one that says how many were left out."""
    return tuple(own_frames(traceback.strip("\n").splitlines(), TRACEBACK_LINES))
