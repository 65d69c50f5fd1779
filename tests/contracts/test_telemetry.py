"""The contract of `Telemetry`: who set up torch's handlers gets events and metrics; nobody else pays for them.

torch keeps its handlers in globals, so each case over the real adapter has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.adapters.from_torch.telemetry import TorchTelemetry
from toolkit.ports import Telemetry

ROOT = Path(__file__).parents[2]

#: makes the adapter; it hands on to torch's handlers if torch is there
ADAPTERS: dict[str, Callable[[], Telemetry]] = {"torch": TorchTelemetry}

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


# -- cases, each in a process of its own; they return what they saw -----------------------------------------


def a_metric_without_torch(telemetry: Telemetry) -> Any:
    telemetry.put_metric("m", 3, "g")
    return "torch" in sys.modules


def a_metric_with_a_handler(telemetry: Telemetry) -> Any:
    from torch.distributed.elastic import metrics

    seen = []

    class Handler(metrics.MetricHandler):
        def emit(self, metric_data: Any) -> None:
            seen.append([metric_data.group_name, metric_data.name, metric_data.value])

    metrics.configure(Handler(), "mine")
    telemetry.put_metric("a", 3, "mine")
    telemetry.put_metric("b", 0, "mine")
    telemetry.put_metric("a", 4, "somebody else's")
    return seen


def a_metric_that_nobody_wants(telemetry: Telemetry) -> Any:
    from torch.distributed.elastic import metrics

    telemetry.put_metric("a", 3, "g")
    return metrics.__name__


def an_event_with_a_handler(telemetry: Telemetry) -> Any:
    import logging

    from torch.distributed.elastic import events
    from torch.distributed.elastic.events import handlers

    seen = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(json.loads(record.getMessage()))

    handlers._log_handlers["mine"] = Handler()
    event = events.Event(name="e", source=events.EventSource.AGENT, metadata={"run_id": "job", "n": 1})
    telemetry.record(event, "mine")
    return [[each["name"], each["source"], each["metadata"]] for each in seen]


def an_event_for_nobody(telemetry: Telemetry) -> Any:
    from torch.distributed.elastic import events

    telemetry.record(events.Event(name="e", source=events.EventSource.AGENT), "null")
    return True


CASES = {
    case.__name__: case
    for case in (
        a_metric_without_torch,
        a_metric_with_a_handler,
        a_metric_that_nobody_wants,
        an_event_with_a_handler,
        an_event_for_nobody,
    )
}


def test_in_the_simulator_nobody_listens() -> None:
    pytest.importorskip("greenlet")
    from simulator.adapters.sink import NoTelemetry

    telemetry: Telemetry = NoTelemetry()
    telemetry.put_metric("m", 3, "g")
    assert telemetry.wanted("anywhere") is False
    telemetry.record(object(), "anywhere")


def seen_in_its_own_process(adapter: str, case: Callable[[Telemetry], Any]) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", __name__, adapter, case.__name__],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@each_adapter
def test_a_metric_does_not_import_torch(adapter: str) -> None:
    assert seen_in_its_own_process(adapter, a_metric_without_torch) is False


@pytest.mark.torch
@each_adapter
class TestWithTorch:
    @pytest.fixture(autouse=True)
    def torch(self) -> None:
        pytest.importorskip("torch")

    def test_a_metric_reaches_the_handler_of_its_group(self, adapter: str) -> None:
        seen = seen_in_its_own_process(adapter, a_metric_with_a_handler)
        assert seen == [["mine", "a", 3], ["mine", "b", 0]]

    def test_a_metric_that_nobody_wants_is_dropped(self, adapter: str) -> None:
        assert seen_in_its_own_process(adapter, a_metric_that_nobody_wants)

    def test_an_event_reaches_the_handler_of_its_destination(self, adapter: str) -> None:
        seen = seen_in_its_own_process(adapter, an_event_with_a_handler)
        assert seen == [["e", "AGENT", {"run_id": "job", "n": 1}]]

    def test_an_event_for_nobody_is_dropped(self, adapter: str) -> None:
        assert seen_in_its_own_process(adapter, an_event_for_nobody)


if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[2]](ADAPTERS[sys.argv[1]]())))
