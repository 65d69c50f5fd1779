"""The subjects by name."""

from __future__ import annotations

from difflib import get_close_matches

from simulator.simulation import RallySubject
from simulator.subject import Subject
from simulator.torch_subject import TorchSubject, torch_handler
from simulator.torch_surroundings import TorchSurroundings
from toolkit.core.errors import ConfigurationError

SUBJECTS = ("rally", "torch", "rally-over-c10d")


def subject_named(name: str) -> Subject:
    """Our agent with our rendezvous, torch's agent with torch's, or our agent over torch's rendezvous.

    Raises:
        ConfigurationError: there is no such subject.
    """
    match name:
        case "rally":
            return RallySubject()
        case "rally-over-c10d":
            return RallySubject(torch_handler, TorchSurroundings, name)
        case "torch":
            return TorchSubject()
    near = get_close_matches(name, SUBJECTS)
    remedy = f"did you mean {near[0]}?" if near else f"there are {' and '.join(SUBJECTS)}"
    raise ConfigurationError(f"there is no subject {name!r}; {remedy}")
