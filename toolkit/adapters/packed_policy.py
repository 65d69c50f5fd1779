"""A restart policy that is an object, of a notebook say, on its way to the agent: as a file that gives it back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toolkit.adapters import own_policies
from toolkit.core.errors import ConfigurationError

#: the script, and what it reads
SCRIPT, PICKLE = "restart_policy.py", "restart_policy.pickle"


def pack(policy: Any, said: str) -> bytes:
    """The policy by value, to be written into a file of the name `PICKLE`.

    Args:
        said: what messages begin with: which argument it is, and what was given.

    Raises:
        ConfigurationError: it is no policy, or can't be sent to another process.
    """
    own_policies.tried(policy, said)
    try:
        import cloudpickle
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{said}, and policies as objects need cloudpickle: pip install 'rallypoint[notebook]'; or write it into a "
            "file, and give 'path/to/file.py:name'"
        ) from None
    try:
        data: bytes = cloudpickle.dumps(policy)
    except Exception as error:
        raise ConfigurationError(
            f"{said}, which can't be sent to the agent ({type(error).__name__}: {error}); write it into a file, and "
            "give 'path/to/file.py:name'"
        ) from error
    return data


def script_for(folder: Path) -> str:
    """The text of `SCRIPT` in that folder: it gives the policy back as `policy`."""
    search = [str(Path(place).absolute()) for place in sys.path]
    return (
        "import pickle\nimport sys\n\n"
        f"sys.path.extend(place for place in {search!r} if place not in sys.path)\n"
        f"with open({str(folder / PICKLE)!r}, 'rb') as file:\n"
        "    policy = pickle.load(file)\n"
    )
