"""Ranks by where their main threads are: nobody is left out, and the odd ones come first."""

from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.stacks import Alike, Answer, Frame, Stacks, Thread, Unread, grouped

REDUCE = (Frame("all_reduce", "dist.py", 12), Frame("train", "train.py", 40))
LOAD = (Frame("read", "data.py", 7), Frame("train", "train.py", 31))


def stacks(frames: tuple[Frame, ...]) -> Stacks:
    """Another thread is elsewhere in each process; that makes no difference."""
    other = Thread("watchdog", 9, (Frame("wait", "threading.py", 320),))
    return Stacks((other, Thread("MainThread", 1, frames, main=True)))


def test_one_that_loads_data_while_seven_wait_for_it_comes_first() -> None:
    answers = [(rank, stacks(LOAD if rank == 3 else REDUCE)) for rank in range(8)]
    assert grouped(answers) == [Alike((3,), LOAD), Alike((0, 1, 2, 4, 5, 6, 7), REDUCE)]


def test_another_line_of_the_same_function_is_another_place() -> None:
    elsewhere = (Frame("all_reduce", "dist.py", 13), REDUCE[1])
    assert len(grouped([(0, stacks(REDUCE)), (1, stacks(elsewhere))])) == 2


def test_those_that_are_not_known_come_last_by_their_reason() -> None:
    away = Unread("runs on gpu-b")
    answers: list[tuple[int, Answer]] = [(0, stacks(LOAD)), (1, stacks(LOAD)), (2, away), (3, away)]
    assert grouped([*answers, (4, Unread("has ended"))]) == [
        Alike((0, 1), LOAD),
        Alike((4,), Unread("has ended")),
        Alike((2, 3), away),
    ]


def test_a_process_without_a_main_thread_in_python_is_nowhere() -> None:
    assert Stacks(()).main == ()
    assert grouped([(0, Stacks(()))]) == [Alike((0,), ())]


_frames = st.lists(
    st.builds(Frame, st.sampled_from("fgh"), st.just("a.py"), st.integers(0, 2)), max_size=3
).map(tuple)
_answers: st.SearchStrategy[Answer] = st.one_of(
    _frames.map(stacks), st.sampled_from([Unread("has ended"), Unread("runs on gpu-b")])
)


@given(st.lists(_answers, max_size=40), st.data())
def test_each_rank_is_in_one_group_with_exactly_those_in_its_place(
    answers: list[Answer], data: st.DataObject
) -> None:
    by_rank = list(enumerate(answers))
    groups = grouped(data.draw(st.permutations(by_rank)))
    assert groups == grouped(by_rank), "the order of the answers makes no difference"
    assert sorted(rank for group in groups for rank in group.global_ranks) == [rank for rank, _ in by_rank]
    places = [answer if isinstance(answer, Unread) else answer.main for answer in answers]
    for group in groups:
        assert group.global_ranks == tuple(rank for rank, _ in by_rank if places[rank] == group.where)
    read = [len(group.global_ranks) for group in groups if not isinstance(group.where, Unread)]
    assert read == sorted(read), "small ones first"
    assert all(isinstance(group.where, Unread) for group in groups[len(read) :])
