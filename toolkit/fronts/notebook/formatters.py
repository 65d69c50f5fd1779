"""How values of ours show themselves in IPython: text, and HTML without script.

They are registered by name when `toolkit` is imported where IPython runs, so that core and simulator know nothing of
it, and nothing is imported before a value is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.core.history import Timeline
from toolkit.core.model import NOT_AVAILABLE
from toolkit.core.restart_spec import name_of
from toolkit.core.words import plural
from toolkit.views import html
from toolkit.views.svg import timeline_svg
from toolkit.views.table import text_table

_Bundle = dict[str, str]
#: characters of one value that are shown, and of all of a value as text
_VALUE_MAX, _TEXT_MAX = 400, 20_000


def register(shell: Any) -> None:
    """Tell a running IPython. Doing it again changes nothing."""
    formatter = shell.display_formatter.mimebundle_formatter
    for (module, name), made in _SHOWN.items():
        formatter.for_type_by_name(module, name, _bundle_of(made))


def _bundle_of(made: Callable[[Any], str]) -> Callable[[Any], _Bundle]:
    words = _WORDS.get(made, repr)

    def bundle(value: Any) -> _Bundle:
        return {"text/plain": _cut(words(value), _TEXT_MAX), "text/html": made(value)}

    return bundle


def _cut(text: str, length: int) -> str:
    """What a function returned may be as long as a model: that is no output of a notebook."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _last_ns(timeline: Timeline) -> int:
    return max((node.last_event.wall_ns for node in timeline.nodes.values() if node.last_event), default=0)


def timeline_html(timeline: Timeline) -> str:
    """A folded timeline."""
    return html.job_html(timeline, _end_ns(timeline), name=timeline.run_id or "no run", mode="")


def timeline_words(timeline: Timeline) -> str:
    """The same in a line."""
    return f"Timeline of {timeline.run_id or 'no run'}: " + ", ".join(
        (timeline.state, *html.job_facts(timeline, _end_ns(timeline)))
    )


def _end_ns(timeline: Timeline) -> int:
    return timeline.ended.wall_ns if timeline.ended is not None else _last_ns(timeline)


def result_html(result: Any) -> str:
    """A RunResult."""
    returned = {rank: value for rank, value in result.return_values.items() if value is not None}
    failed = [
        (
            rank,
            failure.exitcode,
            "" if failure.signal_name() == NOT_AVAILABLE else failure.signal_name(),
            html.Long(failure.message if isinstance(failure.message, str) else ""),
        )
        for rank, failure in sorted(result.failures.items())
    ]
    return html.card(
        html.head(result.state.value.lower(), plural(len(result.return_values) + len(failed), "rank")),
        html.table(
            ("rank", "returned"), ((rank, _cut(repr(value), _VALUE_MAX)) for rank, value in returned.items())
        )
        if returned
        else "",
        html.table(("rank", "exit code", "signal", "message"), failed) if failed else "",
    )


_OF_WORKERS = ("rank", "local rank", "role rank", "world size", "id")


def group_html(group: Any) -> str:
    """A WorkerGroup."""
    return html.card(
        html.head(group.state.value.lower(), f"{group.spec.role} on this node"),
        html.facts(*_group_facts(group)),
        html.table(_OF_WORKERS, _workers(group)),
    )


def group_words(group: Any) -> str:
    """The same as lines."""
    head = f"{group.state.value.lower()} {group.spec.role} on this node: {', '.join(_group_facts(group))}"
    return f"{head}\n{text_table(_OF_WORKERS, _workers(group))}"


def _workers(group: Any) -> list[tuple[Any, ...]]:
    return [
        (worker.global_rank, worker.local_rank, worker.role_rank, worker.world_size, str(worker.id or ""))
        for worker in group.workers
    ]


def _group_facts(group: Any) -> list[str]:
    facts = [plural(len(group.workers), "worker")]
    if group.group_rank is not None:
        facts.append(f"group rank {group.group_rank} of {group.group_world_size}")
    if group.master_addr:
        facts.append(f"workers meet at {group.master_addr}:{group.master_port}")
    return [*facts, plural(group.spec.max_restarts, "restart") + " allowed"]


#: nodes with a workload of their own that are told of
_PLANS_MAX = 4


def _trains(who: str, work: Any) -> list[str]:
    every = "each step" if work.checkpoint_every == 1 else f"every {work.checkpoint_every} steps"
    often = f"a checkpoint {every}" if work.checkpoint_every else "no checkpoints"
    return [f"{who} trains {work.steps} steps of {work.step_s:g} s", often]


def scenario_html(scenario: Any) -> str:
    """A Scenario: the cluster, the job, and what goes wrong."""
    rows, more = _what_happens(scenario)
    happens = html.table(("at", "what happens"), rows) if rows else html.facts("nothing goes wrong")
    return html.card(
        f'<div class="rally-head"><span class="rally-name">{html.text(scenario.name)}</span></div>',
        html.facts(scenario.about) if scenario.about else "",
        *(html.facts(*facts) for facts in _scenario_facts(scenario)),
        happens,
        html.facts(f"and {more:,} more") if more else "",
    )


def scenario_words(scenario: Any) -> str:
    """The same as lines."""
    rows, more = _what_happens(scenario)
    lines = [scenario.name, *([scenario.about] if scenario.about else [])]
    lines += [", ".join(facts) for facts in _scenario_facts(scenario)]
    lines += [f"{at:>9}  {words}" for at, words in rows] or ["nothing goes wrong"]
    return "\n  ".join([*lines, *([f"and {more:,} more"] if more else [])])


def _scenario_facts(scenario: Any) -> list[list[str]]:
    low, high = scenario.bounds
    workers = sum(scenario.workers_of(name) for name in scenario.node_names)
    sizes = [
        plural(scenario.nodes, "node"),
        plural(workers, "worker"),
        f"{low} in a round" if low == high else f"{low} to {high} in a round",
        f"{plural(scenario.max_restarts, 'restart')} allowed",
        *([] if scenario.policy is None else [f"restart policy {name_of(scenario.policy)}"]),
    ]
    others = [
        _trains(f"each of {name}", plan.workload)
        for name, plan in list(scenario.plans.items())[:_PLANS_MAX]
        if plan.workload is not None and plan.workload != scenario.workload
    ]
    return [sizes, _trains("each worker", scenario.workload), *others]


def _what_happens(scenario: Any) -> tuple[list[tuple[str, str]], int]:
    """Who comes later, what strikes, and which workers fail, in the order of time; and how many more there are."""
    late = [(plan.start_s, f"{name} starts") for name, plan in scenario.plans.items() if plan.start_s]
    struck = [(fault.at_s, fault.what()) for fault in scenario.faults]
    rows = [(f"{at_s:g} s", words) for at_s, words in sorted((*late, *struck), key=lambda row: row[0])]
    of_plans = (plan.workload for plan in scenario.plans.values() if plan.workload is not None)
    fails = [failure for work in (scenario.workload, *of_plans) for failure in work.failures]
    rows += [(_when(failure), f"rank {failure.rank} fails{_how_often(failure)}") for failure in fails]
    if scenario.mtbf_s is not None:
        what = "node fails" if scenario.mtbf_hits == "node" else "node's worker is killed"
        rows.append(("any time", f"each {what} every {scenario.mtbf_s:,g} s in the mean"))
    return rows[: html.ROWS_MAX], max(len(rows) - html.ROWS_MAX, 0)


def _when(failure: Any) -> str:
    return f"step {failure.at_step}" if failure.at_s is None else f"{failure.at_s:g} s of work"


def _how_often(failure: Any) -> str:
    if failure.incarnations is None:
        return ", each time"
    return "" if failure.incarnations == 1 else f", {failure.incarnations} times"


_VERDICTS = {"held": "succeeded", "broken": "failed"}


def report_html(report: Any) -> str:
    """A Report of a simulated run: what struck, what was promised and broken, the timeline."""
    state = _VERDICTS.get(report.verdict, "ending")
    badge = html.badge(state).replace(html.text(state), html.text(report.verdict))
    timeline = report.timeline
    ended = _last_ns(timeline)
    ends = [
        (
            name,
            html.Markup(html.badge(end.result.lower())),
            "" if end.exited_at_s is None else f"{end.exited_at_s:.1f} s",
        )
        for name, end in report.nodes.items()
        if len(report.nodes) <= html.ROWS_MAX or end.result != "SUCCEEDED"
    ]
    shown = ends[: html.ROWS_MAX]
    return html.card(
        f'<div class="rally-head">{badge}<span class="rally-name">{html.text(report.scenario.name)}</span>'
        f'<span class="rally-facts">with {html.text(report.subject)} · seed {report.seed}</span></div>',
        html.facts(report.scenario.about),
        _promises_html(report),
        html.facts(report.finding) if report.finding else "",
        timeline_svg(timeline, ended),
        "".join(html.facts(f"⚡ {words}") for words in report.struck[:8]),
        html.table(("node", "ended", "at"), shown) if shown else "",
        html.facts(
            f"{report.virtual_s:.1f} s of virtual time",
            plural(report.rounds, "round"),
            plural(report.restarts, "restart"),
            f"again: {report.command}",
        ),
    )


def _promises_html(report: Any) -> str:
    """Each broken promise with its first finding, in full; and what is excused."""
    kinds: dict[str, list[str]] = {}
    for found in report.broken:
        kinds.setdefault(found.promise, []).append(found.detail)
    lines = []
    for promise, details in kinds.items():
        more = f" (and {len(details) - 1} more of this kind)" if len(details) > 1 else ""
        lines.append(
            f'<div><b class="rally-bad">✗ {html.text(promise)}</b> {html.text(details[0])}'
            f'<span class="rally-facts">{more}</span></div>'
        )
    reasons = dict.fromkeys((found.broken.promise, found.excuse) for found in report.excused)
    excused = [html.facts(f"~ {promise} is excused: {why}") for promise, why in reasons]
    return "".join((*lines[: html.ROWS_MAX], *excused[:2]))


def experiment_html(result: Any) -> str:
    """An ExperimentResult: what was told, and the timeline."""
    timeline = result.timeline
    ended = _last_ns(timeline)
    return html.card(
        f"<pre>{html.text_block(str(result))}</pre>", timeline_svg(timeline, ended) if timeline.nodes else ""
    )


def words_html(value: Any) -> str:
    """A value that says it all in lines of text."""
    return html.card(f"<pre>{html.text_block(str(value))}</pre>")


_SHOWN: dict[tuple[str, str], Callable[[Any], str]] = {
    ("toolkit.core.history", "Timeline"): timeline_html,
    ("toolkit.core.model", "RunResult"): result_html,
    ("toolkit.core.model", "WorkerGroup"): group_html,
    ("simulator.scenario", "Scenario"): scenario_html,
    ("simulator.report", "Report"): report_html,
    ("simulator.interactive.comparison", "Comparison"): words_html,
    ("toolkit.views.comparison", "Comparison"): words_html,
    ("toolkit.fronts.experiment.experiment", "ExperimentResult"): experiment_html,
    ("simulator.interactive.node_view", "NodeView"): words_html,
    ("simulator.interactive.node_view", "WaitingStacks"): words_html,
}
#: their text; of others their repr
_WORDS: dict[Callable[[Any], str], Callable[[Any], str]] = {
    timeline_html: timeline_words,
    group_html: group_words,
    scenario_html: scenario_words,
    # What is a screen of text says more by that than by its fields.
    report_html: str,
    words_html: str,
    experiment_html: str,
}
