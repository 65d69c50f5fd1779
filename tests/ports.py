"""Ports for the servers of tests, which nobody else on this machine is given meanwhile."""

from __future__ import annotations

from toolkit.adapters.host import PortReservation

_kept: list[PortReservation] = []


def free_port() -> int:
    """One that nobody listens on, kept for this process until it ends: any server of a test may listen on it.

    A port that was only free a moment ago is at times given to a test that runs beside this one.
    """
    _kept.append(PortReservation())
    return _kept[-1].port
