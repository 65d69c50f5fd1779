"""`experiment.json` in a run directory: the scenario that is recorded there, and what struck whom."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from toolkit.adapters.recording.layout import open_regular
from toolkit.core.errors import ConfigurationError, RecordingError
from toolkit.core.experiment import NotedExperiment

EXPERIMENT_FILE = "experiment.json"
_FILE_MAX = 1 << 20


def note_experiment(run_dir: Path, noted: NotedExperiment) -> None:
    """Write the file, in place of one that is there.

    Raises:
        ConfigurationError: it can't be written.
    """
    path = run_dir / EXPERIMENT_FILE
    part = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(noted), indent=2) + b"\n")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be written: {error.strerror}; give another run directory"
        ) from error


def read_experiment(run_dir: Path) -> NotedExperiment | None:
    """What the file says; None if there is none.

    Raises:
        RecordingError: it can't be read, is too large, or is something else.
    """
    path = run_dir / EXPERIMENT_FILE
    if not os.path.lexists(path):
        return None
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise RecordingError(f"{path} has more than {_FILE_MAX} bytes; it is not what an experiment writes")
    try:
        return msgspec.json.decode(data, type=NotedExperiment)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"{path} is no experiment: {error}") from error
