"""The log of one worker, followed from its end: a bounded window, however long it is. Logs are hostile input, too."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path

from toolkit.adapters.recording.layout import open_regular
from toolkit.adapters.recording.log_pieces import LogPieces
from toolkit.core.errors import RecordingError

#: bytes from the end that are read at first, bytes that one look takes later, lines that are kept, and bytes of a line
TAIL_BYTES, LOOK_BYTES, LINES_MAX, LINE_MAX = 4 << 20, 4 << 20, 20_000, 4_096

#: what colours text and moves the cursor (ECMA-48: CSI, OSC and the two-byte escapes)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


class LogFile:
    """A log that may grow, through all of its pieces.

    Args:
        path: of the file.
        share: of how many logs that are read at once this is one; each takes that part of the bounds.
    """

    def __init__(self, path: Path, share: int = 1) -> None:
        self.path = path
        self._tail_bytes, self._look_bytes = TAIL_BYTES // share, LOOK_BYTES // share
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        #: lines that were read so far, those that are not kept any more included
        self.count = 0
        #: whether what came before the first line was left out
        self.cut = False
        self.problem = ""
        self._pieces = LogPieces(path)
        self._begun = False
        self._rest = b""

    @property
    def unfinished(self) -> str:
        """What stands behind the last line and has no end yet, such as a progress bar; mostly nothing."""
        return _as_seen(self._rest)

    def read_new(self) -> int:
        """Read on. Returns how many lines came. Never raises; `problem` says what went wrong."""
        try:
            if not self._begun:
                self.cut = self._pieces.go_to_end(self._tail_bytes)
                self._begun = True
            data = self._pieces.read(self._look_bytes)
        except RecordingError as error:
            self.problem = str(error)
            return 0
        except OSError as error:
            self.problem = f"{self.path} can't be read: {error.strerror}"
            return 0
        if self._pieces.skipped:
            self._rest, self._pieces.skipped = b"", False
        self.problem = ""
        return self._take(data)

    def _take(self, data: bytes) -> int:
        if not data:
            return 0
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            whole.append(self._rest)
            self._rest = b""
        if self.cut and not self.count and whole:
            del whole[0]  # the end of a line whose beginning was not read
        self.lines.extend(map(_as_seen, whole))
        self.count += len(whole)
        return len(whole)


def _as_seen(line: bytes) -> str:
    """What a terminal would show of a line: a progress bar overwrites it, so that what stands there last counts."""
    text = line[:LINE_MAX].rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    return _ESCAPES.sub("", text) if "\x1b" in text else text


def last_line(path: Path) -> str:
    """The last line of a log that says something, finished or not; empty if there is none. Never raises."""
    try:
        fd = open_regular(path)
    except RecordingError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, LINE_MAX, max(size - LINE_MAX, 0))
    except OSError:
        return ""
    finally:
        os.close(fd)
    lines = (_as_seen(line).strip() for line in reversed(data.split(b"\n")))
    return next((line for line in lines if line), "")
