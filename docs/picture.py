"""Makes the README's picture: runs `rally demo` in a real terminal (tmux) and draws what it shows as SVG.

    python docs/picture.py docs/demo.svg

Needs tmux. Nothing is retouched: the picture is the terminal's content, its end if it is longer than the window.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

COLUMNS, LINES = 112, 45
LIMIT_S = 240.0


def tmux(*words: str) -> str:
    return subprocess.run(["tmux", *words], check=True, capture_output=True, text=True).stdout


def terminal_content(command: str) -> str:
    """What the terminal shows when `command` has ended, with its colours as escape sequences."""
    session, done = f"rally-{uuid.uuid4().hex[:8]}", f"done-{uuid.uuid4().hex[:8]}"
    shell = f"{command}; tmux wait-for -S {done}; exec sleep {LIMIT_S:.0f}"
    tmux("new-session", "-d", "-s", session, "-x", str(COLUMNS), "-y", str(LINES), shell)
    try:
        subprocess.run(["tmux", "wait-for", done], check=True, timeout=LIMIT_S)
        time.sleep(0.5)  # the terminal may still be drawing
        return tmux("capture-pane", "-t", session, "-p", "-e")
    finally:
        tmux("kill-session", "-t", session)


def as_svg(content: str, title: str) -> str:
    from rich.console import Console
    from rich.text import Text

    lines = content.rstrip().splitlines()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(f"[bold]$ {title}[/bold]")
    for line in lines:
        console.print(Text.from_ansi("\x1b[0m" + line, no_wrap=True), soft_wrap=True)
    svg = console.export_svg(title=title)
    # The fonts that rich names are fetched from the network; the reader's own monospace font will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", '<svg xml:space="preserve" ', 1)


def main() -> None:
    target = Path(sys.argv[1])
    rally = Path(sys.executable).with_name("rally")
    target.write_text(as_svg(terminal_content(f"{rally} demo"), "rally demo"), encoding="utf-8")
    print(f"{target} written")


if __name__ == "__main__":
    main()
