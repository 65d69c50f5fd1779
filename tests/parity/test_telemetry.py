"""torch's metric and event handlers receive the same from both: names, values, sources, metadata, order."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.distributed.elastic import events as torch_events
from torch.distributed.elastic.events import handlers as torch_event_handlers
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousGracefulExitError

from .scripted import ScriptedRendezvous, failure, scripted_agent
from .subjects import Subject

pytestmark = pytest.mark.torch

Metrics = list[tuple[str, int]]
#: a run: what the monitor sees, and the fields of the spec
RUNS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "success": (["HEALTHY", "SUCCEEDED"], {"local_world_size": 2}),
    "failure, no restarts": (["FAILED"], {}),
    "failure, all restarts used": (["FAILED"] * 3, {"max_restarts": 2}),
    "one failure, then success": (["FAILED", "HEALTHY", "SUCCEEDED"], {"max_restarts": 3}),
    "unhealthy, then success": (["UNHEALTHY", "SUCCEEDED"], {"max_restarts": 1, "role": "trainer"}),
    "unknown state": (["HEALTHY", "UNKNOWN"], {}),
    "signal": ([SignalException("killed", signal.SIGTERM)], {}),
}


def make_agent(subject: Subject, monitor: list[Any], **fields: Any) -> Any:
    spec = subject.spec(fields.pop("handler", None) or ScriptedRendezvous(), **fields)
    return scripted_agent(subject.api.SimpleElasticAgent)(spec, subject.api, monitor)


def run_to_its_end(subject: Subject, monitor: list[Any], **fields: Any) -> Any:
    agent = make_agent(subject, list(monitor), **fields)
    try:
        agent.run()
    except Exception:  # the cases about errors are in test_loop.py
        pass
    return agent


# -- metrics ----------------------------------------------------------------------------------------------------


def without_durations(metrics: Metrics) -> list[tuple[str, int | None]]:
    return [(name, None if name.endswith("duration.ms") else value) for name, value in metrics]


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_metric_handler_receives_the_same(
    both: tuple[Subject, Subject], metric_records: Metrics, name: str
) -> None:
    monitor, fields = RUNS[name]
    received = []
    for subject in both:
        metric_records.clear()
        run_to_its_end(subject, monitor, **fields)
        received.append(without_durations(metric_records))
    theirs, ours = received
    assert ours == theirs
    assert len(ours) >= 8


def test_metrics_of_a_run_by_name(subject: Subject, metric_records: Metrics) -> None:
    run_to_its_end(subject, ["FAILED", "SUCCEEDED"], role="trainer", max_restarts=3)
    run_level = [(n, v) for n, v in metric_records if n.startswith("workers.trainer.")]
    assert run_level == [
        ("workers.trainer.remaining_restarts", 3),
        ("workers.trainer.failed", 1),
        ("workers.trainer.remaining_restarts", 2),
        ("workers.trainer.succeeded", 1),
        ("workers.trainer.flakiness", 25),
        ("workers.trainer.run_total", 1),
        ("workers.trainer.run_success_with_retries", 1),
        ("workers.trainer.run_success_no_retries", 0),
        ("workers.trainer.run_failed_with_retries", 0),
        ("workers.trainer.run_failed_no_retries", 0),
    ]
    profiled = {n.rpartition(".success")[0] for n, v in metric_records if n.endswith(".success")}
    assert profiled == {
        "SimpleElasticAgent._rendezvous",
        "SimpleElasticAgent._assign_worker_ranks",
        "SimpleElasticAgent._initialize_workers",
        "SimpleElasticAgent._restart_workers",
        "SimpleElasticAgent.run",
    }
    durations = [(n, v) for n, v in metric_records if n.endswith(".duration.ms")]
    assert len(durations) == 1 + 2 * 3 + 1
    assert all(isinstance(value, int) and value >= 0 for _, value in durations)


def test_a_method_that_raised_counts_as_a_failure(subject: Subject, metric_records: Metrics) -> None:
    run_to_its_end(subject, [RuntimeError("boom")])
    assert ("SimpleElasticAgent.run.failure", 1) in metric_records
    assert ("SimpleElasticAgent.run.success", 1) not in metric_records


def test_a_run_that_ends_unhealthy(subject: Subject, metric_records: Metrics) -> None:
    run_to_its_end(subject, ["UNHEALTHY"])
    failed = subject.expects("unhealthy run counts as failed")
    assert ("workers.default.run_failed_no_retries", int(failed)) in metric_records
    assert ("workers.default.run_success_no_retries", int(not failed)) in metric_records
    assert ("workers.default.flakiness", 100 if failed else 0) in metric_records


def test_a_node_that_is_not_needed_has_no_run_metrics(subject: Subject, metric_records: Metrics) -> None:
    run_to_its_end(
        subject, [], handler=ScriptedRendezvous(rounds=[RendezvousGracefulExitError("not needed")])
    )
    assert ("SimpleElasticAgent.run.success", 1) in metric_records
    assert not [name for name, _ in metric_records if name.startswith("workers.")]


def test_flakiness_for_every_budget_up_to_120(subject: Subject, metric_records: Metrics) -> None:
    agent = make_agent(subject, [])
    budgets = [(spent, total) for total in range(121) for spent in range(total + 1)]
    for spent, total in budgets:
        agent._worker_group.spec.max_restarts = total
        agent._remaining_restarts = total - spent
        agent._record_flakiness_metric()
    # The order of the operations counts: 100 * (11 / 20) is 55.00000000000001.
    assert [value for _, value in metric_records] == [
        int(100.0 - 100.0 * (total - spent + 1) / (total + 1)) for spent, total in budgets
    ]


def test_a_failed_run_is_flaky_to_100_percent(subject: Subject, metric_records: Metrics) -> None:
    agent = make_agent(subject, [], max_restarts=3)
    agent._record_flakiness_metric(True)
    agent._record_flakiness_metric(is_failed=True)
    assert metric_records == [("workers.default.flakiness", 100)] * 2


# -- events -----------------------------------------------------------------------------------------------------


class ListHandler(logging.Handler):
    """An event handler as sites register it with torch."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.received.append(json.loads(record.getMessage()))


@pytest.fixture
def event_handler() -> Iterator[ListHandler]:
    """A handler that is registered with torch's events under the name "parity"."""
    handler = ListHandler()
    torch_event_handlers._log_handlers["parity"] = handler
    yield handler
    del torch_event_handlers._log_handlers["parity"]
    torch_events._events_loggers.pop("parity", None)
    logging.getLogger("torchelastic-events-parity").removeHandler(handler)


def normalised(subject: Subject, event: dict[str, Any]) -> dict[str, Any]:
    """The event without what can't be equal: times. The details are read as this side is known to write them."""
    assert (event["timestamp"] > 0) == subject.expects("event has a time")
    metadata = dict(event["metadata"])
    metadata["duration_ms"] = None if metadata["duration_ms"] is None else "some"
    details = json.loads(metadata["metadata"])
    as_written = subject.expects("scalars in event metadata")
    for key in ("local_rank", "role_rank", "role_world_size", "exit_code", "worker_pid"):
        if key in details:
            value = details[key][0] if isinstance(details[key], list) else details[key]
            assert details[key] == as_written(value)
            details[key] = value
    metadata["metadata"] = details
    if metadata["raw_error"] and "errorTraits" in metadata["raw_error"]:
        metadata["raw_error"] = json.dumps({"message": json.loads(metadata["raw_error"])["message"]})
    return event | {"timestamp": 0, "metadata": metadata}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_event_handler_receives_the_same(
    both: tuple[Subject, Subject], event_handler: ListHandler, name: str
) -> None:
    monitor, fields = RUNS[name]
    received = []
    for subject in both:
        event_handler.received.clear()
        run_to_its_end(subject, monitor, event_log_handler="parity", **fields)
        received.append([normalised(subject, event) for event in event_handler.received])
    theirs, ours = received
    assert ours == theirs


def test_events_of_a_run_by_name(subject: Subject, event_handler: ListHandler) -> None:
    run_to_its_end(
        subject, ["FAILED", "SUCCEEDED"], event_log_handler="parity", max_restarts=3, local_world_size=2
    )
    seen = [(event["name"], event["source"]) for event in event_handler.received]
    prefix = "torchelastic.worker.status."
    started = [
        (prefix + "RENDEZVOUS", "AGENT"),
        (prefix + "ASSIGN_WORKER_RANKS", "AGENT"),
        (prefix + "START", "WORKER"),
        (prefix + "START", "WORKER"),
    ]
    assert seen == [*started, *started, (prefix + "SUCCEEDED", "WORKER"), (prefix + "SUCCEEDED", "WORKER")]
    last = event_handler.received[-1]["metadata"]
    assert last["state"] == "SUCCEEDED"
    assert (last["run_id"], last["rdzv_backend"], last["role"]) == ("parity-run", "scripted", "default")
    assert (last["global_rank"], last["group_rank"], last["worker_id"]) == (1, 0, "w1")
    assert (last["agent_restarts"], last["total_run_time"], last["raw_error"]) == (1, 0, None)
    assert last["hostname"] == subject.api._get_fq_hostname()


def test_a_failed_worker_and_the_one_that_was_stopped(subject: Subject, event_handler: ListHandler) -> None:
    def one_of_two_failed(agent: Any) -> Any:
        state = subject.api.WorkerState.FAILED
        return subject.api.RunResult(state, failures={1: failure(local_rank=1, exit_code=-9)})

    run_to_its_end(subject, [one_of_two_failed], event_log_handler="parity", local_world_size=2)
    ends = [normalised(subject, event)["metadata"] for event in event_handler.received[-2:]]
    assert [end["state"] for end in ends] == ["TERMINATED", "FAILED"]
    assert [end["metadata"]["exit_code"] for end in ends] == [None, -9]
    assert [end["metadata"]["worker_pid"] for end in ends] == [None, 1001]
    assert [end["raw_error"] for end in ends] == [None, json.dumps({"message": "<NONE>"})]


def test_the_agents_own_events(subject: Subject) -> None:
    agent = make_agent(subject, [])
    try:
        raise ValueError("bad shape")
    except ValueError:
        failed = agent.get_event_failed()
    assert failed.name == "torchelastic.worker.status.FAILED"
    assert failed.source == torch_events.EventSource.AGENT
    assert "ValueError: bad shape" in failed.metadata["raw_error"]
    succeeded = agent.get_event_succeeded()
    assert succeeded.name == "torchelastic.worker.status.SUCCEEDED"
    assert succeeded.metadata["raw_error"] is None
    assert succeeded.metadata["global_rank"] is None


def test_the_agents_own_events_can_be_recorded_by_torch(subject: Subject, event_handler: ListHandler) -> None:
    # As torch's launcher does after the run.
    torch_events.record(make_agent(subject, []).get_event_succeeded(), "parity")
    assert [event["name"] for event in event_handler.received] == ["torchelastic.worker.status.SUCCEEDED"]


def test_each_reads_the_others_events(both: tuple[Subject, Subject]) -> None:
    theirs, ours = (make_agent(subject, []).get_event_succeeded() for subject in both)
    for event, reader in ((theirs, type(ours)), (ours, type(theirs))):
        read = reader.deserialize(event.serialize())
        assert (read.name, read.source, read.metadata) == (event.name, event.source, event.metadata)
        assert reader.deserialize(read) is read
        assert str(read) == read.serialize()


def test_torchs_event_source_is_taken(subject: Subject) -> None:
    event = make_agent(subject, [])._construct_event("CUSTOM", torch_events.EventSource.WORKER)
    assert json.loads(event.serialize())["source"] == "WORKER"


def test_a_duration_is_recorded_also_when_the_body_raises(
    subject: Subject, event_handler: ListHandler
) -> None:
    agent = make_agent(subject, [], event_log_handler="parity")
    with pytest.raises(KeyError), agent.record_duration("CHECKPOINT"):
        raise KeyError("x")
    (event,) = event_handler.received
    assert (event["name"], event["source"]) == ("torchelastic.worker.status.CHECKPOINT", "AGENT")
    assert event["metadata"]["duration_ms"] >= 0


def test_an_unknown_event_handler_is_an_error(subject: Subject) -> None:
    agent = make_agent(subject, ["SUCCEEDED"], event_log_handler="no such handler")
    with pytest.raises(KeyError):
        agent.run()
    assert agent.calls[-1] == "_shutdown"
