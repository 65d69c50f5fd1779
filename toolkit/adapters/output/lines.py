"""One stream's bytes as lines: on the console with a prefix, and in a filtered file.

Whole chunks at a time; only carriage returns and filters cost a loop over lines.
"""

from __future__ import annotations

from collections.abc import Callable

from toolkit.adapters.output.console import Console, Stream
from toolkit.adapters.output.rows import MOVES, Rows

#: a longer line is split
LINE_MAX_BYTES = 1024 * 1024
#: an unfinished line is shown after this time: it may be a prompt or a progress bar
HOLD_S = 0.5
#: the same at the end of a block of this many bytes: then the line was cut by a buffer, and its end is to come
BLOCK_BYTES, HOLD_BLOCK_S = 4096, 10.0
#: a progress bar of which another writer's output stands below is shown anew after this time
BAR_S = 5.0


class ConsoleLines:
    """What one stream shows on the console.

    Lines of different streams never mix: an unfinished line is held until its end comes, or for half a second in
    which nothing came. Once it is on the screen it goes on there, until somebody else writes; a progress bar then
    comes again every 5 seconds, and so do the rows of a stream that moves its cursor between several of them.

    Args:
        console: where to.
        stream: which of its two.
        prefix: what each line begins with.
        verbatim: nothing is prefixed or left out; for what a worker believes to be a terminal.
    """

    def __init__(self, console: Console, stream: Stream, prefix: bytes, *, verbatim: bool = False) -> None:
        self._console = console
        self.stream = stream
        self._prefix = prefix
        self._verbatim = verbatim
        self._held = b""
        #: whether the last that was shown is a line without its end
        self._open = False
        self._bar_shown_at: float | None = None
        #: where the stream moves its cursor: what it shows
        self._rows: Rows | None = None
        #: when an unfinished line is to be shown, on the caller's clock; None if there is none
        self.due: float | None = None

    def show(self, data: bytes, now: float, *, alone: bool = False) -> None:
        """Show the whole lines in `data`; hold the rest.

        Args:
            now: seconds.
            alone: no other stream is open, so that a terminal's unfinished line needs no hold.
        """
        if not self._verbatim and (self._rows is not None or (b"\x1b" in data and MOVES.search(data))):
            self._show_rows(data, now)
            return
        if self._open and not self._held and data.startswith(b"\n") and self._was_broken_off():
            data, self._open = data[1:], False  # whose output stands below has ended that line already
        end = data.rfind(b"\n") + 1
        if end:
            self._write(self._held + data[:end])
            self._held, self.due, self._bar_shown_at = data[end:], None, None
        else:
            self._held += data
        if self._held:
            self._hold(now, len(data), at_once=alone and self._verbatim)

    def tick(self, now: float) -> None:
        """Show the unfinished line if it has been held long enough. Only for a stream of which nothing waits."""
        if self.due is None or now < self.due:
            return
        if self._rows is not None:
            self._tell_rows(now)
            return
        if b"\r" in self._held:
            self._bar_shown_at = now
        self._show_held()

    def finish(self) -> None:
        """The stream has ended: show what is held."""
        if self._rows is not None:
            self._tell_rows(0.0)
        self._show_held()
        self._console.release(self.stream, self)

    def forget(self) -> None:
        """What is held will not be shown: it is in the file, as what comes after it."""
        self._held, self._rows, self.due = b"", None, None

    def _was_broken_off(self) -> bool:
        return not self._verbatim and not self._console.owns(self.stream, self)

    def _show_rows(self, data: bytes, now: float) -> None:
        if self._rows is None:
            self._rows = Rows()
            data, self._held, self.due = self._held + data, b"", None
        over = self._rows.feed(data)
        if over:
            self._write(over)
        if self._rows.is_calm:
            self._tell_rows(now)
            self._rows = None
        elif self.due is None:
            self.due = max(now + HOLD_S, (self._bar_shown_at or -BAR_S) + BAR_S)

    def _tell_rows(self, now: float) -> None:
        assert self._rows is not None, "asked for by its callers"
        changed = self._rows.changed()
        if changed:
            self._write(changed)
            self._bar_shown_at = now
        self.due = None

    def _hold(self, now: float, came: int, *, at_once: bool) -> None:
        if not self._verbatim and b"\r" in self._held:
            self._held = _last_update(self._held)
        if len(self._held) > LINE_MAX_BYTES:
            self._write(self._held if self._verbatim else self._held + b"\n")
            self._held, self.due = b"", None
        elif at_once or self._console.owns(self.stream, self):
            self._show_held()
        elif came >= BLOCK_BYTES:
            self.due = now + HOLD_BLOCK_S
        elif self._held.strip(b"\r"):
            due = now + HOLD_S
            if self._bar_shown_at is not None:
                due = max(due, self._bar_shown_at + BAR_S)
            self.due = due if self.due is None else min(self.due, due)

    def _show_held(self) -> None:
        # A trailing "\r" waits for what overwrites the line: it must also overwrite the prefix.
        text = self._held if self._verbatim else self._held.rstrip(b"\r")
        if text:
            self._write(text)
        self._held, self.due = self._held[len(text) :][:1], None

    def _write(self, text: bytes) -> None:
        """Write lines, or one unfinished line; `text` is not empty."""
        self._open = not text.endswith(b"\n")
        if self._verbatim:
            self._console.write(self.stream, text, owner=self)
            return
        again = False
        if b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
            text, again = _last_updates(text)
        fresh = self._prefixed(text)
        resume = None
        if self._console.owns(self.stream, self):
            resume = b"\r" + fresh if again else fresh[len(self._prefix) :]
        self._console.write(self.stream, fresh, owner=self, resume=resume)

    def _prefixed(self, text: bytes) -> bytes:
        # One pass and one copy over the chunk: most of the agent's own time goes here.
        lines = text.replace(b"\n", b"\n" + self._prefix)
        if not text.endswith(b"\n"):
            return self._prefix + lines
        return b"".join((self._prefix, memoryview(lines)[: len(lines) - len(self._prefix)]))


class FilteredLines:
    """Copies the lines of one stream that contain one of the words.

    Args:
        words: not empty.
        append: takes whole lines.
        prefix: what each copied line begins with.
    """

    def __init__(self, words: tuple[bytes, ...], append: Callable[[bytes], object], prefix: bytes) -> None:
        self._words = words
        self._append = append
        self._prefix = prefix
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Copy the whole lines in `data` that are wanted; hold the rest."""
        end = data.rfind(b"\n") + 1
        if end:
            self._copy(self._held + data[:end])
            self._held = data[end:]
        else:
            self._held += data
        if len(self._held) > LINE_MAX_BYTES:
            self.finish()

    def finish(self) -> None:
        """Treat what is held as a line."""
        if self._held:
            self._copy(self._held + b"\n")
        self._held = b""

    def _copy(self, text: bytes) -> None:
        if not any(word in text for word in self._words):
            return
        wanted = [line for line in text.split(b"\n")[:-1] if any(word in line for word in self._words)]
        if wanted:
            self._append(b"".join(self._prefix + line + b"\n" for line in wanted))


def _last_update(line: bytes) -> bytes:
    """What a line shows in the end: from the last carriage return on that something follows."""
    start = line.rstrip(b"\r").rfind(b"\r")
    return line if start < 0 else line[start:]


def _last_updates(text: bytes) -> tuple[bytes, bool]:
    """The same for each line, without the returns; and whether the first overwrites what is before it."""
    lines = [_last_update(line) for line in text.split(b"\n")]
    again = lines[0].startswith(b"\r")
    return b"\n".join(line.removeprefix(b"\r") for line in lines), again
