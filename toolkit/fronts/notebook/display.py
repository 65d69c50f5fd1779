"""Shows a job where it was asked for: live while it goes on, frozen into HTML in the same place when it has ended."""

from __future__ import annotations

from toolkit.fronts.notebook.watched import Watched


def bundle(watched: Watched) -> dict[str, str]:
    """As it stands now: text, and HTML without script."""
    return {"text/plain": repr(watched), "text/html": watched.html()}


def show(watched: Watched) -> None:
    """Display it."""
    from IPython.display import display

    display(bundle(watched), raw=True)
