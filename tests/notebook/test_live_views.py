"""Live views in a real kernel, whose front end is this test: shown twice, looked away from, closed, over."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.notebook.kernels import Kernel, kernel
from tests.notebook.waiting import until

TWO_VIEWS = """
from toolkit import launch
from toolkit.fronts.notebook.display import View

def train():
    import time
    while True:
        time.sleep(0.01)
        sum(range(100_000))

job = launch(train, nproc=2, readings_interval=0.25, shutdown_timeout=1)
views = [View(job), View(job)]
for view in views:
    view.show()
"""


class FrontEnd:
    """What a page does that shows the views of a kernel."""

    def __init__(self, one: Kernel) -> None:
        self._kernel = one
        self._comms = self.value("[view._widget.comm.comm_id for view in views]")

    def value(self, code: str) -> list[int]:
        """A list there."""
        found: list[int] = ast.literal_eval(self._kernel.value(code))
        return found

    @property
    def sent(self) -> list[int]:
        """Messages of changes, of each view."""
        return self.value("[view.sent for view in views]")

    def say(self, view: int, act: str, place: str) -> None:
        """As `live.js` says it."""
        self._send("comm_msg", view, {"method": "custom", "content": {"act": act, "place": place}})

    def close(self, view: int) -> None:
        """As a page does whose widgets are cleared."""
        self._send("comm_close", view, {})

    def _send(self, kind: str, view: int, data: object) -> None:
        client = self._kernel.client
        message = client.session.msg(kind, {"comm_id": self._comms[view], "data": data})
        client.shell_channel.send(message)

    def until_told(self, view: int, times: int = 3) -> None:
        """Wait for changes."""
        before = self.sent[view]
        until(lambda: self.sent[view] >= before + times, f"{times} changes in view {view}")


@pytest.fixture
def one() -> Iterator[Kernel]:
    """A kernel with a job that two views show."""
    with kernel() as started:
        answer = started.run(TWO_VIEWS)
        assert answer["status"] == "ok", answer
        try:
            yield started
        finally:
            started.run("job.stop(); job.wait(30)")


def test_an_output_that_was_cleared_is_told_nothing_until_it_is_shown_again(one: Kernel) -> None:
    page = FrontEnd(one)
    for view in (0, 1):
        page.until_told(view)
    page.say(0, "all", "here")
    page.say(0, "all", "also here")
    page.say(0, "left", "here")
    page.until_told(0)
    page.say(0, "left", "also here")
    before = page.sent[0]
    page.until_told(1)
    assert page.sent[0] == before
    page.say(0, "all", "here again")
    page.until_told(0)


def test_a_place_may_be_heard_to_go_before_it_comes(one: Kernel) -> None:
    # What a page says while a cell runs may overtake what it said before.
    page = FrontEnd(one)
    page.until_told(0)
    page.say(0, "left", "here")
    page.say(0, "all", "here")
    before = page.sent[0]
    page.until_told(1)
    assert page.sent[0] == before


def test_a_view_that_was_closed_is_forgotten(one: Kernel) -> None:
    page = FrontEnd(one)
    page.close(0)
    until(lambda: page.value("[len(job._watchers)]") == [1], "only one is told")
    before = page.sent[0]
    page.until_told(1)
    assert page.sent[0] == before


def test_a_job_that_is_over_holds_on_to_nothing(one: Kernel) -> None:
    page = FrontEnd(one)
    page.until_told(0)
    assert one.run("job.stop(); job.wait(30)")["status"] == "ok"
    assert page.value("[len(job._watchers)]") == [0]
    assert page.value("[len(view._widget._all) for view in views]") == [0, 0]
    assert page.value("['rally' in view._widget._frozen for view in views]") == [True, True]
