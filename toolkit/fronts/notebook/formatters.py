"""How values of ours show themselves in IPython: text, and HTML without script.

They are registered by name when `toolkit` is imported where IPython runs, so that core and simulator know nothing of
it, and nothing is imported before a value is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.core.history import Timeline
from toolkit.core.words import plural
from toolkit.views import html
from toolkit.views.svg import timeline_svg

_Bundle = dict[str, str]
#: characters of one value that are shown, and of all of a value as text
_VALUE_MAX, _TEXT_MAX = 400, 20_000


def register(shell: Any) -> None:
    """Tell a running IPython. Doing it again changes nothing."""
    formatter = shell.display_formatter.mimebundle_formatter
    for (module, name), made in _SHOWN.items():
        formatter.for_type_by_name(module, name, _bundle_of(made))


def _bundle_of(made: Callable[[Any], str]) -> Callable[[Any], _Bundle]:
    def bundle(value: Any) -> _Bundle:
        return {
            "text/plain": _cut(str(value) if type(value).__name__ == "Report" else repr(value), _TEXT_MAX),
            "text/html": made(value),
        }

    return bundle


def _cut(text: str, length: int) -> str:
    """What a function returned may be as long as a model: that is no output of a notebook."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _last_ns(timeline: Timeline) -> int:
    return max((node.last_event.wall_ns for node in timeline.nodes.values() if node.last_event), default=0)


def timeline_html(timeline: Timeline) -> str:
    """A folded timeline."""
    now_ns = timeline.ended.wall_ns if timeline.ended is not None else _last_ns(timeline)
    return html.job_html(timeline, now_ns, name=timeline.run_id or "no run", mode="")


def result_html(result: Any) -> str:
    """A RunResult."""
    returned = {rank: value for rank, value in result.return_values.items() if value is not None}
    failed = [
        (
            rank,
            failure.exitcode,
            failure.signal_name(),
            failure.message if isinstance(failure.message, str) else "",
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


def group_html(group: Any) -> str:
    """A WorkerGroup."""
    spec = group.spec
    rows = [
        (worker.global_rank, worker.local_rank, worker.role_rank, worker.world_size, str(worker.id or ""))
        for worker in group.workers
    ]
    return html.card(
        html.head(group.state.value.lower(), f"{spec.role} on this node"),
        html.facts(
            plural(len(rows), "worker"),
            f"group rank {group.group_rank} of {group.group_world_size}"
            if group.group_rank is not None
            else "",
            f"workers meet at {group.master_addr}:{group.master_port}" if group.master_addr else "",
            plural(spec.max_restarts, "restart") + " allowed",
        ),
        html.table(("rank", "local rank", "role rank", "world size", "id"), rows),
    )


#: nodes with a workload of their own that are told of
_PLANS_MAX = 4


def _trains(who: str, work: Any) -> str:
    return html.facts(
        f"{who} trains {work.steps} steps of {work.step_s:g} s",
        f"a checkpoint every {work.checkpoint_every}" if work.checkpoint_every else "no checkpoints",
    )


def scenario_html(scenario: Any) -> str:
    """A Scenario: the cluster, the job, and what goes wrong."""
    low, high = scenario.bounds
    workers = sum(scenario.workers_of(name) for name in scenario.node_names)
    size = f"{low}" if low == high else f"{low} to {high}"
    work = scenario.workload
    return html.card(
        f'<div class="rally-head"><span class="rally-name">{html.text(scenario.name)}</span></div>',
        html.facts(scenario.about) if scenario.about else "",
        html.facts(
            plural(scenario.nodes, "node"),
            plural(workers, "worker"),
            f"{size} in a round",
            f"{plural(scenario.max_restarts, 'restart')} allowed",
        ),
        _trains("each worker", work),
        "".join(
            _trains(f"each of {name}", plan.workload)
            for name, plan in list(scenario.plans.items())[:_PLANS_MAX]
            if plan.workload is not None and plan.workload != work
        ),
        _what_happens(scenario),
    )


def _what_happens(scenario: Any) -> str:
    """Who comes later, what strikes, and which workers fail, in the order of time."""
    late = [(plan.start_s, f"{name} starts") for name, plan in scenario.plans.items() if plan.start_s]
    struck = [(fault.at_s, fault.what()) for fault in scenario.faults]
    rows = [(f"{at_s:g} s", words) for at_s, words in sorted((*late, *struck), key=lambda row: row[0])]
    of_plans = (plan.workload for plan in scenario.plans.values() if plan.workload is not None)
    fails = [failure for work in (scenario.workload, *of_plans) for failure in work.failures]
    rows += [(_when(failure), f"rank {failure.rank} fails{_how_often(failure)}") for failure in fails]
    if scenario.mtbf_s is not None:
        what = "node fails" if scenario.mtbf_hits == "node" else "node's worker is killed"
        rows.append(("any time", f"each {what} every {scenario.mtbf_s:,g} s in the mean"))
    shown = html.table(("at", "what happens"), rows[: html.ROWS_MAX]) if rows else ""
    more = len(rows) - html.ROWS_MAX
    return shown + (html.facts(f"and {more:,} more") if more > 0 else "") or html.facts("nothing goes wrong")


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
#: those whose `str` is a screen of text
_SAY_MORE = (report_html, words_html, experiment_html)
