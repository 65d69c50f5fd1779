"""The IPython that runs here, if one does. Never imports it."""

from __future__ import annotations

import sys
from typing import Any


def running_shell() -> Any:
    """The running InteractiveShell, or None."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
