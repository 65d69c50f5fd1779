"""The processes of a sweep: fresh interpreters that are given scenarios and give back what came of them.

They are neither forked nor made by `multiprocessing`: a Jupyter kernel has threads and sockets that must not be
copied, and a spawned process would run the caller's script again. Here each starts with nothing but the caller's
`sys.path`. Scenarios go over by cloudpickle, which takes along what is defined in a script or in a notebook.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from simulator.sweep_result import Measured, measured
from toolkit.core.errors import ConfigurationError, RallyError

#: tasks that a process has at a time: while one runs, the next one lies ready
_AHEAD = 2
_START = "import sys; sys.path[:] = {paths!r}; from simulator.sweep_process import serve; serve({descriptor})"


#: the number of what a process says when it has what it needs
_READY = -1
#: its number, a point, a seed
Task = tuple[int, int, int]


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    #: tasks that it has, in order
    has: deque[Task] = field(default_factory=deque)
    ready: bool = False


class Crew:
    """Some processes that run tasks; used as a context, which ends them.

    Args:
        work: scenarios with their subjects, `[points]`.
        size: processes.

    Raises:
        ConfigurationError: the scenarios can't be sent to them.
    """

    def __init__(self, work: Sequence[tuple[Any, Any]], size: int) -> None:
        self._packed = packed(list(work))
        self._size = size
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()
        # It writes nothing but to us.
        worker.process.kill()
        worker.process.wait()

    def _started(self) -> _Worker:
        ours, theirs = Pipe()
        code = _START.format(paths=list(sys.path), descriptor=theirs.fileno())
        # In a process group of its own, so that Ctrl-C in a terminal is only ours.
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        _send(lambda: ours.send_bytes(self._packed))
        return worker

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Measured | None]]:
        """Give out tasks, in their order.

        Yields:
            The number of a task and what came of it, as they end; None for one in which its process died.

        Raises:
            RallyError: the processes can't be started.
            Exception: what a run raised.
        """
        left = deque(tasks)
        for _ in range(self._size):
            self._started()
        while left or any(worker.has for worker in self._workers):
            for worker in list(self._workers):
                while left and len(worker.has) < _AHEAD:
                    self._give(worker, left.popleft())
            for ready in wait([worker.pipe for worker in self._workers]):
                worker = next(worker for worker in self._workers if worker.pipe is ready)
                try:
                    number, found, error = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._died(worker, left)
                    continue
                if error is not None:
                    raise error
                if number == _READY:
                    worker.ready = True
                    continue
                worker.has.popleft()
                yield number, found

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.has.append(task)
        _send(lambda: worker.pipe.send(task))

    def _died(self, worker: _Worker, left: deque[Task]) -> Iterator[tuple[int, None]]:
        self._workers.remove(worker)
        code = worker.process.wait()
        worker.pipe.close()
        if not worker.ready:
            raise RallyError(
                f"a process of the sweep ended with code {code} before it ran anything; "
                "what it said is on stderr; jobs=1 runs the sweep in this process"
            )
        left.extendleft(reversed(list(worker.has)[1:]))
        self._started()
        # It has one at least: without any it waits, and does nothing that could end it.
        yield from ((task[0], None) for task in list(worker.has)[:1])


def _send(send: Callable[[], None]) -> None:
    try:
        send()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has died, which is seen when its end of the pipe is read


def packed(value: Any) -> bytes:
    """The value as bytes that a fresh process can read.

    Raises:
        ConfigurationError: it holds something that can't be sent.
    """
    try:
        from cloudpickle import dumps
    except ModuleNotFoundError:
        dumps, remedy = pickle.dumps, "pip install cloudpickle, or give jobs=1"
    else:
        remedy = "leave out what belongs to this process, such as open files, or give jobs=1"
    try:
        data: bytes = dumps(value)
    except Exception as error:  # whatever the pickled objects raise
        raise ConfigurationError(
            f"the scenario can't be sent to another process: {error}; {remedy}"
        ) from error
    return data


def serve(descriptor: int) -> None:
    """What a process of the crew does: run what it is told until nobody tells it anything more."""
    pipe = Connection(descriptor)
    try:
        work, error = _unpacked(pipe.recv_bytes())
        pipe.send((_READY, None, error))
        while True:
            number, point, seed = pipe.recv()
            scenario, subject = work[point]
            pipe.send(_answer(number, scenario, subject, seed))
    except (EOFError, OSError):
        return  # whoever started this has what it wants, or is gone


def _unpacked(data: bytes) -> tuple[Any, Exception | None]:
    try:
        return pickle.loads(data), None
    except Exception as error:  # noqa: BLE001 - a module that only the caller finds, and whatever it raises
        why = f"a process of the sweep can't read the scenario: {type(error).__name__}: {error}; give jobs=1"
        return [], ConfigurationError(why)


def _answer(
    number: int, scenario: Any, subject: Any, seed: int
) -> tuple[int, Measured | None, BaseException | None]:
    try:
        return number, measured(scenario, subject, seed), None
    except Exception as error:  # noqa: BLE001 - the edge of the process: the caller raises it
        return number, None, _sendable(error)


def _sendable(error: Exception) -> Exception:
    error.add_note("in a process of the sweep")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an error of somebody else's kind
        return RallyError(f"{type(error).__name__}: {error}")
    return error
