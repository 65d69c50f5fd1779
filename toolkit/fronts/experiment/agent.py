"""An agent of an experiment: `rally run` in a process that has loaded all it needs and waits for its start.

    python -m toolkit.fronts.experiment.agent NODE run ...

So an agent starts when the scenario says, and not some seconds later. It takes itself to be on a machine called NODE.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from toolkit import wiring
from toolkit.adapters.experiment.processes import wait_to_be_let_go
from toolkit.adapters.host import stand_for
from toolkit.adapters.interrupts import interrupt_kills
from toolkit.core.errors import ConfigurationError
from toolkit.fronts import run  # noqa: F401 - what an agent needs, loaded before it waits
from toolkit.fronts.cli import entry
from toolkit.fronts.command_line import restart_options


def main() -> None:
    """Take the name of the node off the words, load, wait, and be `rally`."""
    stand_for(sys.argv.pop(1))
    interrupt_kills()
    if "--rdzv-endpoint" in sys.argv:  # one node alone needs no torch
        wiring.load_torch_quietly()
    if "--restart-policy" in sys.argv:  # one of one's own may have much to import
        with suppress(ConfigurationError):  # `rally run` will say it
            restart_options.judge_of(sys.argv[sys.argv.index("--restart-policy") + 1], Path.cwd())
    if wait_to_be_let_go():
        entry()


if __name__ == "__main__":
    main()
