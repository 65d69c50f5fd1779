"""For all tests: how long an example of Hypothesis takes says how busy the machine is, and nothing else."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("rallypoint", deadline=None)
settings.load_profile("rallypoint")
