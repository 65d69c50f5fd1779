"""How a worker tells its agent where it is: names of variables and the layout of what they share. Pure."""

from __future__ import annotations

#: PATH:OFFSET of this worker's slot
STEPS_VARIABLE = "RALLY_STEPS"
#: path of what `faulthandler` writes stacks to
STACKS_VARIABLE = "RALLY_STACKS"
#: a slot: nanoseconds of the monotonic clock (0: never), and the step. Native, so that each is stored as a whole
SLOT = "@qq"
#: a line of the processor's cache for each, so that workers don't slow each other down
SLOT_BYTES = 64
#: steps are counts
STEP_MAX = (1 << 63) - 1
#: on this signal a worker that has called `toolkit.progress` writes its stacks: SIGRTMAX less so much
STACKS_SIGNAL_BELOW_MAX = 5
