"""Lines for people on a stream: coloured and wrapped on a terminal, plain and whole elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, TextIO

from toolkit.views.wording import look_of, shows_unicode, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class Page:
    """Lines on a stream. All that comes from a recording goes through `visible` before it gets here or in here."""

    def __init__(self, stdout: TextIO) -> None:
        from rich.console import Console  # late: --json does without

        self.stdout = stdout
        self.unicode = shows_unicode(stdout)
        # Text that somebody keeps is plain, though the kernels of notebooks set FORCE_COLOR.
        kept = isinstance(stdout, StringIO) and not stdout.isatty()
        self._console: Console = Console(
            force_jupyter=False,
            force_terminal=False if kept else None,
            file=stdout,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """One line of parts with their styles. Wrapped on terminals only: pipes get each line whole."""
        text = self._text(parts)
        if self._console.is_terminal:
            from rich.padding import Padding

            self._console.print(Padding(text, (0, 0, 0, indent), expand=False))
        else:
            self._console.print(" " * indent + text.plain if indent else text, soft_wrap=True)

    def _text(self, parts: Iterable[str | tuple[str, str]]) -> Text:
        from rich.text import Text

        text = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            text.append(visible(words, self.stdout), style)
        return text

    def gap(self) -> None:
        """An empty line."""
        self._console.print()

    def sign(self, state: str) -> tuple[str, str]:
        """The sign of a state, with its style."""
        colour, sign = look_of(state, unicode=self.unicode)
        return sign, f"bold {colour}"

    @property
    def arrow(self) -> str:
        """Before what was done."""
        return "→" if self.unicode else "->"

    @property
    def dot(self) -> str:
        """Between facts."""
        return " · " if self.unicode else ", "
