"""What is known to break with our agent. The list is empty, and is to stay so.

`tests/simulator/test_gallery.py` holds all scenarios against it: what is listed breaks, by just these promises, and all
else holds. A fault that is found and can't be mended at once goes here first, with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """Why a scenario does not hold yet.

    Args:
        promises: that are broken.
        reason: what does it.
    """

    promises: tuple[str, ...]
    reason: str


KNOWN: dict[str, Known] = {}
