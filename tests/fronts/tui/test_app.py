"""The screen, driven by keys: every view, moving through time, filters, and actions that ask before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, ContentSwitcher, Input

from tests.fronts.tui.conftest import FakeController, app_of, drive, shown
from toolkit.core.actions import Outcome
from toolkit.core.history import Timeline
from toolkit.fronts.tui.app import VIEWS, TopApp
from toolkit.fronts.tui.panes import RanksPane
from toolkit.fronts.tui.screens import Confirm, Reading
from toolkit.fronts.tui.table import Table
from toolkit.fronts.tui.timeline_pane import Lanes

Runs = Callable[..., Path]
SIZES = [(80, 24), (120, 40), (200, 60), (40, 10)]


def current(app: TopApp) -> str | None:
    return app.screen_stack[0].query_one("#views", ContentSwitcher).current


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", range(1, len(VIEWS) + 1))
def test_each_view_is_a_key_away_in_every_size(runs: Runs, number: int, size: tuple[int, int]) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press(str(number))
        await pilot.pause()
        assert current(app) == VIEWS[number - 1]
        text = shown(app)
        assert "SIM worker-crash seed 1" in text, "what it is stands there always"
        assert len(text.splitlines()) == size[1]

    drive(app, steps, size)


def test_tab_goes_round(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        for name in (*VIEWS[1:], VIEWS[0]):
            await pilot.press("tab")
            assert current(app) == name
        await pilot.press("shift+tab")
        assert current(app) == VIEWS[-1]

    drive(app, steps)


def test_the_overview_says_what_matters(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        text = shown(app)
        for words in (
            "succeeded",
            "1 of 3 used, 2 left",
            "MTTR",
            "ETTR",
            "was killed by SIGKILL",
            "8 succeeded",
        ):
            assert words in text, words

    drive(app, steps)


def test_a_rank_of_a_lost_node_is_lost(runs: Runs) -> None:
    app = app_of(runs("silent-node-loss"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        [row] = [row for row in app.query_one("#ranks-table", Table).rows if row.key[0].startswith("node-c")]
        assert row.state == "lost"
        assert "✗ lost" in shown(app)

    drive(app, steps)


# -- time -----------------------------------------------------------------------------------------------------


def test_scrubbing_shows_the_fold_up_to_that_moment(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))
    film = app.session.film

    async def steps(pilot: Pilot[Any]) -> None:
        seen: list[Timeline] = []
        await pilot.press("home")
        for _ in range(12):
            await pilot.press("right_curly_bracket")
            seen.append(app.session.timeline)
            assert app.session.timeline == film.at(app.session.shown_ns)
        assert len({repr(timeline) for timeline in seen}) > 2
        assert app.session.at_edge, "twelve tenths are the whole"
        await pilot.press("left_square_bracket")
        assert not app.session.at_edge
        await pilot.pause()
        assert "PAST" in shown(app)
        await pilot.press("end")
        await pilot.pause()
        assert "PAST" not in shown(app)

    drive(app, steps)


def test_a_failure_is_a_key_away_in_both_directions(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("home", "x")
        assert any(
            rank.now.state == "failed"
            for node in app.session.timeline.nodes.values()
            for rank in node.ranks.values()
        )
        at_ns = app.session.shown_ns
        await pilot.press("end", "X")
        assert app.session.shown_ns >= at_ns
        await pilot.press("X", "X", "X", "X", "X", "X", "X", "X", "X")
        assert app.session.shown_ns == at_ns, "there is none before the first"

    drive(app, steps)


def test_stepping_goes_from_event_to_event(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("home")
        counts = [app.session.count]
        for _ in range(5):
            await pilot.press("full_stop")
            counts.append(app.session.count)
        assert counts == sorted(set(counts)), "each step shows more"
        await pilot.press("comma")
        assert app.session.count == counts[-2]

    drive(app, steps)


def test_a_recording_plays_at_the_speed_that_is_asked_for(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))
    clock: Any = app._now_s

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("space")
        started_ns = app.session.film.started_ns
        assert app.session.playing and app.session.shown_ns == started_ns, "from the start"
        clock.s += 2.0
        app.tick()
        assert app.session.shown_ns == started_ns + 2 * 10**9
        await pilot.press("greater_than_sign", "greater_than_sign")
        clock.s += 1.0
        app.tick()
        assert app.session.shown_ns == started_ns + 6 * 10**9
        await pilot.press("space")
        clock.s += 10.0
        app.tick()
        assert app.session.shown_ns == started_ns + 6 * 10**9, "held"
        await pilot.press("space")
        clock.s += 1000.0
        app.tick()
        assert app.session.at_edge and not app.session.playing

    drive(app, steps)


def test_an_event_takes_one_to_its_moment(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("5")
        await pilot.pause()
        await pilot.press("g", "j", "j", "j", "enter")
        place = app.query_one("#events-table", Table).selected_key
        assert isinstance(place, int)
        assert app.session.shown_ns == app.session.film.time_of(place)

    drive(app, steps)


# -- filters --------------------------------------------------------------------------------------------------


def test_a_filter_works_while_it_is_typed_and_stays(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        table = app.query_one("#ranks-table", Table)
        assert len(table.rows) == 8
        await pilot.press("slash", *"rank<3")
        await pilot.pause()
        assert len(table.rows) == 3
        await pilot.press("enter")
        await pilot.pause()
        assert "/ rank<3" in shown(app)
        await pilot.press("escape")
        await pilot.pause()
        assert len(table.rows) == 8

    drive(app, steps)


def test_what_is_no_filter_says_why_and_changes_nothing(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3", "slash", *"stat=failed")
        await pilot.pause()
        assert "did you mean state?" in str(app.query_one("#filter", Input).border_subtitle)
        assert len(app.query_one("#ranks-table", Table).rows) == 8

    drive(app, steps)


def test_the_selection_stays_with_its_rank(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("j", "j", "j", "j", "j")
        table = app.query_one("#ranks-table", Table)
        key = table.selected_key
        assert table.selected.now.global_rank == 5
        await pilot.press("o", "x")
        await pilot.pause()
        assert table.selected_key == key
        await pilot.press("slash", *"rank>=5", "enter")
        await pilot.pause()
        assert table.selected_key == key

    drive(app, steps)


def test_what_is_wrong_comes_first_on_request(runs: Runs) -> None:
    app = app_of(runs("silent-node-loss"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("o")
        await pilot.pause()
        assert app.query_one("#ranks-table", Table).rows[0].state == "lost"

    drive(app, steps)


# -- detail, timeline, code, help -----------------------------------------------------------------------------


def test_a_rank_in_detail_has_all_its_starts(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, Reading)
        text = shown(app)
        assert "start 1" in text and "start 0" in text and "pid" in text
        await pilot.press("escape")
        assert not isinstance(app.screen, Reading)

    drive(app, steps)


def test_a_node_leads_to_its_ranks(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("2")
        await pilot.pause()
        await pilot.press("j", "enter")
        await pilot.pause()
        assert current(app) == "ranks"
        assert {row.key[0] for row in app.query_one("#ranks-table", Table).rows} == {"node1_1002"} or len(
            {row.key[0] for row in app.query_one("#ranks-table", Table).rows}
        ) == 1

    drive(app, steps)


def test_the_timeline_has_lanes_of_nodes_and_of_ranks(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("4")
        await pilot.pause()
        text = shown(app)
        assert "round 1" in text and "round 2" in text and "✗" in text and "━" in text
        await pilot.press("o")
        await pilot.pause()
        assert "rank 7" in shown(app)
        view = app.query_one(Lanes)
        length_ns = view._span.end_ns - view._span.start_ns
        await pilot.press("plus")
        await pilot.pause()
        assert view._span.end_ns - view._span.start_ns == length_ns // 2

    drive(app, steps)


def test_a_failure_becomes_a_line_of_a_scenario(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("home", "x", "3")
        await pilot.pause()
        pane = app.query_one("#ranks", RanksPane)
        failed = next(row for row in pane.query_one(Table).rows if row.state == "failed")
        pane.query_one(Table).select(failed.key)
        await pilot.press("y")
        from simulator.workloads import Fail

        made = eval(app.clipboard, {"Fail": Fail})
        assert (made.rank, made.exit_code) == (failed.now.global_rank, -9)
        await pilot.press("2")
        await pilot.pause()
        await pilot.press("y")
        from simulator import faults

        crash = eval(app.clipboard, {"faults": faults})
        assert crash.target == "node0"

    drive(app, steps)


def test_the_keys_are_told_from_the_live_keymap(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        text = shown(app)
        for words in ("Play/pause", "Next failure", "Filter", "Quit"):
            assert words in text
        assert "Kill rank" not in text, "there is nobody to kill in a simulation"

    drive(app, steps)


def test_the_palette_has_what_the_keys_do(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Play/pause", "Next failure", "Timeline"} <= titles
        assert not {"Kill rank", "Restart", "Stop job", "Drain node"} & titles

    drive(app, steps)


# -- actions --------------------------------------------------------------------------------------------------


def live(runs: Runs, tmp_path: Path, controller: FakeController | None) -> TopApp:
    """A run that goes on: the recording up to its middle."""
    source, target = runs("worker-crash"), tmp_path / "live"
    target.mkdir()
    for file in source.iterdir():
        lines = file.read_text().splitlines(keepends=True)
        kept = lines if file.name == "run.json" else lines[:9]
        (target / file.name).write_text("".join(kept))
    return app_of(target, controller, live=True)


def test_nothing_happens_without_a_yes(runs: Runs, tmp_path: Path) -> None:
    controller = FakeController()
    app = live(runs, tmp_path, controller)

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await pilot.pause()
        for refuse in (["escape"], ["n"], ["enter"]):
            await pilot.press("K")
            await pilot.pause()
            assert isinstance(app.screen, Confirm)
            assert app.screen.query_one("#cancel", Button).has_focus, "Cancel is chosen at first"
            text = shown(app)
            assert "SIGKILL to rank 0: pid" in text and "3 restarts left" in text
            await pilot.press(*refuse)
            await pilot.pause()
            assert not isinstance(app.screen, Confirm)
        assert controller.told == []

    drive(app, steps)


@pytest.mark.parametrize(
    ("key", "action"), [("K", "signal"), ("R", "restart"), ("D", "drain"), ("S", "stop")]
)
def test_a_yes_is_told_to_the_agent(runs: Runs, tmp_path: Path, key: str, action: str) -> None:
    controller = FakeController(Outcome(outcome="refused", detail="it does not want to"))
    app = live(runs, tmp_path, controller)

    async def steps(pilot: Pilot[Any]) -> None:
        assert app.session.mode == "LIVE"
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("j", key)
        await pilot.pause()
        await pilot.press("right", "enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        [(node, told)] = controller.told
        assert told.action == action and told.by == "me"
        if action == "signal":
            row = app.query_one("#ranks-table", Table).selected
            assert node == row.key[0]
            assert (told.local_ranks, told.incarnation) == ((row.now.local_rank,), row.now.number)
        if action == "restart":
            assert told.incarnation == 0, "so that told twice it is done once"
        assert "it does not want to" in shown(app)

    drive(app, steps)


def test_read_only_has_no_key_palette_entry_or_click_that_acts(runs: Runs, tmp_path: Path) -> None:
    app = live(runs, tmp_path, None)

    async def steps(pilot: Pilot[Any]) -> None:
        assert app.session.mode == "LIVE"
        for view in "123456":
            await pilot.press(view)
            await pilot.pause()
            for active in list(app.screen.active_bindings.values()):
                if active.enabled and active.binding.action not in ("quit", "app.quit", "command_palette"):
                    await pilot.press(active.binding.key)
                    assert not isinstance(app.screen, Confirm), active.binding
                    while len(app.screen_stack) > 1:
                        app.pop_screen()
            for key in "KRDS":
                await pilot.press(key)
                assert not isinstance(app.screen, Confirm)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert not {"Kill rank", "Restart", "Stop job", "Drain node"} & titles

    drive(app, steps)


def test_the_past_of_a_live_run_can_not_be_acted_on(runs: Runs, tmp_path: Path) -> None:
    controller = FakeController()
    app = live(runs, tmp_path, controller)

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3", "home")
        await pilot.press("K", "S")
        assert not isinstance(app.screen, Confirm)

    drive(app, steps)


def test_a_live_run_grows_and_keeps_its_place_in_the_past(runs: Runs, tmp_path: Path) -> None:
    app = live(runs, tmp_path, None)
    source = runs("worker-crash")

    async def steps(pilot: Pilot[Any]) -> None:
        before = len(app.session.film)
        await pilot.press("space")
        held = app.session.timeline
        for file in source.glob("events-*"):
            (tmp_path / "live" / file.name).write_bytes(file.read_bytes())
        app.tick()
        assert len(app.session.film) > before
        assert app.session.timeline == held, "held"
        await pilot.press("L")
        assert app.session.timeline.result == "SUCCEEDED"

    drive(app, steps)


def test_a_storm_of_sizes_breaks_nothing(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        for size in (20, 8), (200, 60), (40, 10), (10, 5), (120, 40), (80, 24):
            for view in "123456":
                await pilot.resize_terminal(*size)
                await pilot.press(view)
                await pilot.pause()

    drive(app, steps)


def test_nothing_that_a_recording_says_commands_the_terminal(runs: Runs, tmp_path: Path) -> None:
    target = tmp_path / "hostile"
    target.mkdir()
    for file in runs("worker-crash").iterdir():
        said = (
            file.read_text()
            .replace("node1", "no\\u001b[2Jde1")
            .replace("a worker failed", "a\\u001b]0;x\\u0007b")
        )
        (target / file.name).write_text(re.sub(r'("run_id": ?)"sim"', r'\1"s\\u001b[31mim"', said))
    app = app_of(target)

    async def steps(pilot: Pilot[Any]) -> None:
        for key in ("1", "2", "3", "4", "5", "6", "3", "enter"):
            await pilot.press(key)
            await pilot.pause()
            assert app.session.film.latest.nodes, "it is read"
            assert "\x1b" not in shown(app) and "\x07" not in shown(app), key

    drive(app, steps)


def test_ranks_fold_by_state_and_by_what_they_said_last_and_a_group_opens(runs: Runs, tmp_path: Path) -> None:
    app = app_of(runs("happy-64", 64))
    said = {key: f"step {key}" for key in range(64)} | {7: "loading the data"}

    async def steps(pilot: Pilot[Any]) -> None:
        pane = app.query_one(RanksPane)
        app.session.move(-0.5)
        pane._last = lambda row: said[row.now.global_rank]  # type: ignore[method-assign]
        await pilot.press("3", "z")
        await pilot.pause()
        assert "0-63" in shown(app) and len(pane.query_one("#ranks-groups", Table).rows) == 1
        await pilot.press("z")
        await pilot.pause()
        odd, rest = pane.query_one("#ranks-groups", Table).rows
        assert (odd.ranks, odd.line, len(rest.ranks)) == ((7,), "loading the data", 63)
        assert "loading the data" in shown(app) and pane.rank is None
        await pilot.press("enter")
        await pilot.pause()
        assert [row.now.global_rank for row in pane.query_one("#ranks-table", Table).rows] == [7]
        assert pane.rank is not None
        await pilot.press("escape")
        await pilot.pause()
        assert len(pane.query_one("#ranks-table", Table).rows) == 64

    drive(app, steps)


def test_the_logs_of_all_ranks_stand_together(runs: Runs, tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    for number, file in enumerate(sorted(runs("happy-4").iterdir())):
        log = tmp_path / f"{number}.log"
        log.write_text(f"10:00:0{number} said by {file.stem}\n")
        if file.suffix != ".jsonl":
            (target / file.name).write_text(file.read_text())
            continue
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if isinstance(line, dict) and line.get("type") == "worker_started":
                line["stderr"] = str(log)
        (target / file.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = app_of(target)

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("6", "m")
        await pilot.pause()
        text = shown(app)
        assert "4 ranks, stderr, by the times in their lines" in text
        assert text.count("│ 10:00:0") == 4
        await pilot.press("m")
        await pilot.pause()
        assert shown(app).count("10:00:0") == 1

    drive(app, steps)


def test_without_colour_everything_is_still_said(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_of(runs("silent-node-loss"))

    async def steps(pilot: Pilot[Any]) -> None:
        assert app.no_color
        await pilot.press("2")
        await pilot.pause()
        text = shown(app)
        assert ("lost" in text and "✗" in text and "▶" in text) or "‖" in text
        strips = app.screen._compositor.render_strips()
        marked = [
            segment.text for strip in strips for segment in strip if segment.style and segment.style.reverse
        ]
        assert any("nodes" in text for text in marked), "what is chosen is seen without colour"

    drive(app, steps)


def test_tab_stays_in_a_dialog_and_in_the_filter(runs: Runs, tmp_path: Path) -> None:
    controller = FakeController(Outcome(outcome="done"))
    app = live(runs, tmp_path, controller)

    async def steps(pilot: Pilot[Any]) -> None:
        await pilot.press("3", "R")
        await pilot.pause()
        await pilot.press("tab", "tab", "shift+tab")
        assert current(app) == "ranks" and isinstance(app.screen, Confirm)
        await pilot.press("tab", "enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert not isinstance(app.screen, Confirm)
        await pilot.press("question_mark", "tab", "escape", "5")
        await pilot.pause()
        assert current(app) == "events"
        await pilot.press("slash", "tab")
        assert current(app) == "events"

    drive(app, steps)


def test_a_filter_that_hides_everything_says_so(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))

    async def steps(pilot: Pilot[Any]) -> None:
        for view in "235":
            await pilot.press(view, "slash", *"!e !o !t", "enter")
            await pilot.pause()
            if not app.pane.query_one(Table).rows:
                assert "nothing fits the filter" in shown(app)
        await pilot.press("3", "slash", *"state=running", "enter")
        await pilot.pause()
        assert "nothing fits the filter; escape clears it" in shown(app)

    drive(app, steps)


def test_the_past_does_not_show_what_was_said_later(runs: Runs, tmp_path: Path) -> None:
    app = live(runs, tmp_path, None)

    async def steps(pilot: Pilot[Any]) -> None:
        app.query_one(RanksPane)._last_lines.of = lambda names: "said just now"  # type: ignore[method-assign]
        await pilot.press("3")
        await pilot.pause()
        assert "said just now" in shown(app)
        await pilot.press("comma")
        await pilot.pause()
        assert "PAST" in shown(app) and "said just now" not in shown(app)

    drive(app, steps)


def test_a_pane_that_is_given_other_room_is_painted_for_it(runs: Runs) -> None:
    app = app_of(runs("worker-crash"))
    latest: list[bool] = []

    async def steps(pilot: Pilot[Any]) -> None:
        for height in ("1fr", 16, 20):
            app.pane.styles.height = height
            await pilot.pause()
            latest.append("agent ends SUCCEEDED" in shown(app))

    drive(app, steps)
    assert latest == [True, True, True], "what came last is the last line, and not below the edge"
