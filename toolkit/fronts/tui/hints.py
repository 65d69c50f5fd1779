"""The keys that matter here, in one line at the bottom.

Textual's own Footer makes a widget of each key anew, with a layout of the screen, whenever another view has other keys:
that is half of what changing a view costs (measured by `python -m tests.bench.top top-keys`).
"""

from __future__ import annotations

from rich.text import Text
from textual.events import Click
from textual.screen import Screen
from textual.widget import Widget


class Hints(Widget):
    """Keys with what they do; a click on one does it, too."""

    DEFAULT_CSS = """
    Hints {
        dock: bottom; height: 1; width: 1fr; background: $footer-background; color: $footer-foreground;
        text-wrap: nowrap; text-overflow: clip;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        #: where each begins and ends, and its key
        self._places: list[tuple[int, int, str]] = []
        self._line = Text()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._look_again)

    def _look_again(self, screen: Screen[object]) -> None:
        """The keys may be others now."""
        if not screen.is_attached or not self.app.app_focus:
            return
        line, places = self._made(screen)
        if line != self._line or places != self._places:
            self._line, self._places = line, places
            self.refresh()

    def _made(self, screen: Screen[object]) -> tuple[Text, list[tuple[int, int, str]]]:
        line, places = Text(no_wrap=True, overflow="ellipsis"), []
        seen: set[str] = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled and binding.action not in seen:
                seen.add(binding.action)
                begin = len(line)
                line.append(f" {self.app.get_key_display(binding)} ", "bold")
                line.append(f"{binding.description} ")
                places.append((begin, len(line), binding.key))
        return line, places

    def render(self) -> Text:
        """The line."""
        return self._line

    def on_click(self, event: Click) -> None:
        """As if its key had been pressed."""
        key = next((key for begin, end, key in self._places if begin <= event.x < end), None)
        if key is not None:
            self.app.simulate_key(key)
