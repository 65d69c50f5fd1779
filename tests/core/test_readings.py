"""Readings folded: the latest one and curves, bounded, whatever is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.core import readings
from toolkit.core.events import GpuReading, ReadingsTaken, WorkerReading
from toolkit.core.moment import Moment
from toolkit.core.readings import CURVES_MAX, SAMPLES_MAX, Readings

GIB = 1 << 30


def taken(cpu: dict[int, float], util: dict[int, float | None] | None = None) -> ReadingsTaken:
    workers = [WorkerReading(local_rank=r, cpu_percent=c, rss_bytes=3 * GIB) for r, c in cpu.items()]
    gpus = [GpuReading(index=i, util_percent=u, local_ranks=[i]) for i, u in (util or {}).items()]
    return ReadingsTaken(incarnation=0, workers=workers, gpus=gpus)


def folded(*events: ReadingsTaken) -> Readings:
    known: Readings | None = None
    for at_s, event in enumerate(events):
        known = readings.after(known, event, Moment(at_s * 10**9, at_s * 10**9))
    assert known is not None
    return known


def test_the_latest_reading_is_found_by_rank() -> None:
    known = folded(taken({0: 1.0}), taken({0: 90.0, 1: 250.0}, {0: 97.0, 1: None}))
    assert known.at == Moment(10**9, 10**9)
    worker = known.worker(1)
    assert worker is not None and worker.cpu_percent == 250.0
    assert known.worker(2) is None
    assert [gpu.index for gpu in known.gpus_of(1)] == [1]


def test_curves_end_with_the_latest_reading_and_have_gaps() -> None:
    known = folded(taken({0: 1.0}, {0: 5.0}), taken({1: 2.0}), taken({0: 3.0, 1: 4.0}, {0: 50.0}))
    assert known.cpu_percent(0) == [1.0, None, 3.0]
    assert known.cpu_percent(1) == [2.0, 4.0]
    assert known.rss_bytes(1) == [3.0 * GIB, 3.0 * GIB]
    assert known.util_percent(0) == [5.0, None, 50.0]
    assert known.cpu_percent(7) == []


def test_curves_are_bounded_and_what_is_said_no_more_ends() -> None:
    many = [taken({0: float(n), **({1: 1.0} if n == 0 else {})}) for n in range(SAMPLES_MAX + 5)]
    known = folded(*many)
    assert known.cpu_percent(0) == [float(n) for n in range(5, SAMPLES_MAX + 5)]
    assert known.cpu_percent(1) == []
    hostile = folded(*(taken({n * CURVES_MAX + k: 1.0 for k in range(CURVES_MAX + 9)}) for n in range(3)))
    assert len(hostile.cpu) == CURVES_MAX


def test_a_curve_keeps_three_digits_of_what_is_small_and_of_what_is_large() -> None:
    known = folded(
        ReadingsTaken(
            incarnation=0,
            workers=[
                WorkerReading(local_rank=rank, cpu_percent=cpu, rss_bytes=rss)
                for rank, (cpu, rss) in enumerate([(0.1, 9_437_184), (6_400.0, 1 << 41), (-1.0, -5)])
            ],
        )
    )
    for rank, (cpu, rss) in enumerate([(0.1, 9_437_184), (6_400.0, 1 << 41), (0.0, 0.0)]):
        ((told_cpu,), (told_rss,)) = known.cpu_percent(rank), known.rss_bytes(rank)
        assert told_cpu is not None and abs(told_cpu - cpu) <= cpu / 1_000
        assert told_rss is not None and abs(told_rss - rss) <= rss / 1_000


@given(
    st.lists(
        st.builds(
            ReadingsTaken,
            incarnation=st.integers(),
            workers=st.lists(
                st.builds(
                    WorkerReading, local_rank=st.integers(), cpu_percent=st.floats(), rss_bytes=st.integers()
                )
            ),
            gpus=st.lists(
                st.builds(GpuReading, index=st.integers(), util_percent=st.none() | st.floats()), max_size=3
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_nothing_that_is_said_can_hurt(events: list[ReadingsTaken]) -> None:
    known = folded(*events)
    for worker in known.latest.workers:
        for value in (*known.cpu_percent(worker.local_rank), *known.rss_bytes(worker.local_rank)):
            assert value is None or value >= 0
