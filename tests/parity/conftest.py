"""Fixtures of the parity suite. torch is imported when the first of them is used."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .subjects import Subject

_DEATH_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(params=["torch", "rally"], scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """One side: torch's classes or ours."""
    from .subjects import subject_named

    return subject_named(request.param)


@pytest.fixture(params=["torch", "rally", "rebased"], scope="session")
def local_subject(request: pytest.FixtureRequest) -> Subject:
    """One side, or torch's LocalElasticAgent with only its import changed to `toolkit.api`."""
    from .subjects import subject_named

    return subject_named(request.param)


@pytest.fixture(scope="session")
def both() -> tuple[Subject, Subject]:
    """torch's classes and ours, for cases that compare what the two do."""
    from .subjects import subject_named

    return subject_named("torch"), subject_named("rally")


@pytest.fixture(autouse=True)
def signal_handlers_come_back() -> Iterator[None]:
    """torch's agent leaves its signal handlers behind; later tests must not see them."""
    before = {sig: signal.getsignal(sig) for sig in _DEATH_SIGNALS}
    yield
    for sig, handler in before.items():
        signal.signal(sig, handler)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the caller has set for torch reaches the agents."""
    for name in ("TORCH_ELASTIC_WORKER_IDENTICAL", "TORCHELASTIC_SIGNALS_TO_HANDLE", "LOGLEVEL"):
        monkeypatch.delenv(name, raising=False)
    # Both kinds of agent then give the workers of each round a store of their own, also in one job.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


@pytest.fixture
def metric_records() -> Iterator[list[tuple[str, int]]]:
    """What torch's metric handler of the agents' group receives, as (name, value)."""
    from torch.distributed.elastic.metrics import api as metrics

    received: list[tuple[str, int]] = []

    class Handler(metrics.MetricHandler):
        def emit(self, metric_data: Any) -> None:
            received.append((metric_data.name, metric_data.value))

    before = dict(metrics._metrics_map)
    metrics.configure(Handler(), "torchelastic")
    yield received
    metrics._metrics_map.clear()
    metrics._metrics_map.update(before)
