"""torch's error file (`TORCHELASTIC_ERROR_FILE`), read and written. Written by a dying process, it may be anything."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

#: a larger file is not read; torch's own are a few kB
SIZE_MAX = 4 << 20


def read(path: str) -> dict[str, Any] | None:
    """The content of a worker's error file.

    Returns:
        None if there is no such file. For a file that can't be used (truncated, too large, no JSON object) a dict
        whose message says so: a broken error file is reported, never raised.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            raw = file.read(SIZE_MAX + 1)
    except OSError as error:
        return _unusable(path, f"can't be read: {error.strerror}")
    finally:
        os.close(fd)
    if len(raw) > SIZE_MAX:
        return _unusable(path, f"is larger than {SIZE_MAX} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return _unusable(path, "is truncated or no JSON")
    if not isinstance(data, dict) or not isinstance(data.get("message"), str | dict):
        return _unusable(path, "has no message")
    return data


def put_aside(path: str) -> None:
    """Give the file of an earlier run in the same folder another name, "error.json.1" and so on: it says nothing of
    the worker that is about to start, which also would not replace it.
    """
    number = 1
    while os.path.lexists(f"{path}.{number}"):
        number += 1
    try:
        os.rename(path, f"{path}.{number}")  # noqa: PTH104 - as short as the rest
    except OSError:
        return  # there is none


class Unusable(dict[str, Any]):
    """Stands for an error file that can't be used; its message says why."""


def _unusable(path: str, why: str) -> Unusable:
    return Unusable(message=f"the worker failed, and its error file {path} {why}")


def write(path: str, data: dict[str, Any], exit_code: int) -> None:
    """Write `data` as an error file, with the exit code that the worker itself could not know.

    A path that can't be written is left alone: the failure is reported in other ways, too.
    """
    message = data.get("message")
    if isinstance(message, dict):
        data = {**data, "message": {**message, "errorCode": exit_code}}
    try:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(data, file)
    except OSError:
        return


def write_own(error: BaseException, path: str, traceback: str) -> None:
    """Tell the agent about the `error` of this worker, in the form of torch's `@record`, unless that has done so."""
    if not path or Path(path).exists():
        return
    extra = {"py_callstack": traceback, "timestamp": str(int(time.time()))}
    data = {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}}
    try:
        Path(path).write_text(json.dumps(data), encoding="utf-8")
    except OSError:
        pass  # the traceback still goes to stderr
