"""A notebook in a real JupyterLab, in a real Chromium: live, told what to do, frozen, saved, opened again, exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.render import HERE, read
from tests.browser import chromium
from tests.notebook.lab import PATIENCE_MS, Page, lab, write_notebook

NOTEBOOK = "job.ipynb"
TRAIN = """
from toolkit import launch

def train(steps):
    import time
    for step in range(steps):
        print("step", step, flush=True)
        time.sleep(0.1)

job = launch(train, 80, nproc=4, max_restarts=2, run_id="shown")
job
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        yield opened
        opened.screenshot(path=tmp_path / "last.png")


def test_live_told_frozen_saved_and_exported(page: Any, tmp_path: Path) -> None:
    """One story, because a server and a browser take seconds to start."""
    write_notebook(tmp_path / NOTEBOOK, TRAIN, "job.wait()")
    with lab(tmp_path) as server:
        notebook = Page(page, server, NOTEBOOK)
        notebook.idle()
        notebook.run(0)
        _is_live_and_moves(page)
        _buttons_stay_under_the_pointer(page)
        # The cell blocks the kernel's main thread; the button works all the same.
        notebook.run(1)
        _kills_rank_2(page)
        page.wait_for_selector('.rally:not(.rally-live) .rally-good:has-text("succeeded")')
        assert page.locator(".rally-live").count() == 0, "frozen in its place"
        assert "restarts 1 of 2" in page.locator(".rally .rally-facts").first.inner_text()
        page.screenshot(path=tmp_path / "frozen.png")
        notebook.save()
    outputs = nbformat.read(tmp_path / NOTEBOOK, 4).cells[0].outputs
    assert [set(output.data) for output in outputs] == [{"text/plain", "text/html"}]
    page.goto("about:blank")
    # The same user's: what they have run themselves is trusted, and shown with its pictures.
    with lab(tmp_path) as fresh:
        again = Page(page, fresh, NOTEBOOK)
        page.wait_for_selector(".rally svg.rally-timeline")
        assert "not found" not in again.output(0).inner_text()
        page.screenshot(path=tmp_path / "reloaded.png")
    _exported_shows_it_with_the_network_off(page, tmp_path)


def _is_live_and_moves(page: Any) -> None:
    page.wait_for_selector('.rally-live .rally-busy:has-text("running")')
    page.wait_for_selector('.rally-live table tr:nth-child(4):has-text("running")')
    # What each rank has said last is the nearest to progress that it tells.
    page.wait_for_selector('.rally-live table tr:nth-child(2):has-text("step 1")')
    # The axis grows, so that what began at one moment stands further and further to the left.
    bar, tick = ".rally-live path.rally-runs", ".rally-live svg .rally-dim >> nth=2"
    before = page.locator(tick).get_attribute("x"), page.locator(bar).get_attribute("d")
    page.wait_for_function(
        "([bar, d]) => document.querySelector(bar).getAttribute('d') !== d", arg=[bar, before[1]]
    )


def _buttons_stay_under_the_pointer(page: Any) -> None:
    """What is replaced between press and release gets no click, and one that moves gets that of another."""
    page.evaluate("window.buttons = [...document.querySelectorAll('.rally-kill, .rally-buttons button')]")
    page.locator(".rally-kill").nth(2).focus()
    # readings come once a second, and each draws the table anew
    page.wait_for_selector('.rally-live table th:has-text("CPU"):visible')
    page.wait_for_timeout(1500)
    assert page.evaluate("window.buttons.every((button) => document.contains(button))")
    assert page.evaluate("document.activeElement === window.buttons[4]"), "the focus stays, too"
    page.locator(".rally-kill").nth(2).dblclick()
    assert "SIGKILL to rank 2, incarnation 0?" in page.locator(".rally-ask").inner_text()
    page.locator(".rally-ask button").first.click()


def _kills_rank_2(page: Any) -> None:
    page.locator(".rally-kill").nth(2).click()
    assert "SIGKILL to rank 2, incarnation 0?" in page.locator(".rally-ask").inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Cancel", "nothing dangerous is the default"
    page.locator(".rally-ask .rally-danger").click()
    page.wait_for_selector('.rally-live .rally-note:has-text("SIGKILL went to rank 2")')
    page.wait_for_selector('.rally-live:has-text("restarts 1 of 2")')
    page.wait_for_selector(".rally-live .rally-failure")


def _exported_shows_it_with_the_network_off(page: Any, folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", str(folder / NOTEBOOK)],
        check=True,
        capture_output=True,
    )
    page.context.set_offline(True)
    page.goto((folder / NOTEBOOK).with_suffix(".html").as_uri())
    picture = page.locator(".rally svg.rally-timeline")
    picture.wait_for()
    box = picture.bounding_box()
    assert box["width"] > 400 and box["height"] > 60
    assert page.locator(".rally svg .rally-failure").count() == 1
    page.screenshot(path=folder / "exported.png")


def test_a_view_says_that_its_kernel_has_gone(page: Any, tmp_path: Path) -> None:
    """It would show as running, for ever, what has ended with the kernel."""
    write_notebook(tmp_path / NOTEBOOK, TRAIN.replace("80", "1000"))
    with lab(tmp_path) as server:
        notebook = Page(page, server, NOTEBOOK)
        notebook.idle()
        notebook.run(0)
        page.wait_for_selector('.rally-live table tr:nth-child(2):has-text("step 1")')
        page.locator('[data-command="notebook:restart-kernel"]').first.click()
        page.locator(".jp-Dialog .jp-mod-accept").last.click()
        page.wait_for_selector('.rally-live .rally-warn:has-text("not watched any more")')
        assert "LIVE" not in page.locator(".rally-live").inner_text()
        assert page.locator(".rally-live button:visible").count() == 0
        page.screenshot(path=tmp_path / "gone.png")


def test_dark_and_light(page: Any, tmp_path: Path) -> None:
    """The frozen view takes the theme of the page around it: text and ground change together."""
    from simulator import scenarios, simulate
    from toolkit.fronts.notebook.formatters import report_html

    card = report_html(simulate(scenarios.moved_rank_0, seed=1))
    colours = {}
    for theme in ("true", "false"):
        (tmp_path / "card.html").write_text(
            f'<!doctype html><meta charset="utf-8"><body data-jp-theme-light="{theme}">{card}'
        )
        page.goto((tmp_path / "card.html").as_uri())
        look = "getComputedStyle(document.querySelector('.rally'))"
        colours[theme] = page.evaluate(f"[{look}.color, {look}.backgroundColor]")
        page.screenshot(path=tmp_path / f"{theme}.png")
    assert colours["true"] == ["rgb(31, 35, 40)", "rgb(255, 255, 255)"]
    assert colours["false"] == ["rgb(230, 237, 243)", "rgb(13, 17, 23)"]


def test_the_first_notebook_as_a_reader_runs_it(tmp_path: Path) -> None:
    """All cells of 01 in JupyterLab: nothing fails, every live view is frozen in the end."""
    notebook = read(HERE / "01-first-run.py")
    nbformat.write(notebook, tmp_path / NOTEBOOK)
    # As high as all of it: cells that are out of sight are not in the page.
    with lab(tmp_path) as server, chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 6000})
        opened = Page(page, server, NOTEBOOK)
        opened.idle()
        page.get_by_text("Run", exact=True).first.click()
        page.get_by_text("Run All Cells", exact=True).first.click()
        count = sum(cell.cell_type == "code" for cell in notebook.cells)
        prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        # Training, failures and a restart, one after another: as long as a busy machine takes for all of it.
        page.wait_for_function(
            f"{prompts}.filter((prompt) => /\\d/.test(prompt.textContent)).length === {count}",
            timeout=6 * PATIENCE_MS,
        )
        page.wait_for_function("document.querySelectorAll('.rally-live').length === 0")
        page.screenshot(path=tmp_path / "first.png")
        assert (
            page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').count()
            == 0
        )
        assert page.locator(".rally svg.rally-timeline").count() >= 2
        assert "restarts 1 of 3" in page.locator(".rally .rally-facts").first.inner_text()
        opened.save()
    outputs = [
        output for cell in nbformat.read(tmp_path / NOTEBOOK, 4).cells for output in cell.get("outputs", ())
    ]
    assert not [output for output in outputs if output.output_type == "error"]
