"""`rally`, tied to the process that started it: `python -m toolkit.fronts.tied FD run ...` ends when that goes away."""

from __future__ import annotations

import sys

from toolkit.adapters.lifeline import end_with
from toolkit.fronts.cli import entry


def main() -> None:
    """Take the descriptor of our end of the lifeline off the words, and be `rally`."""
    end_with(int(sys.argv.pop(1)))
    entry()


if __name__ == "__main__":
    main()
