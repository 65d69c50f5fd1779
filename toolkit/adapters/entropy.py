"""Randomness of the operating system."""

from __future__ import annotations

import secrets


class SystemEntropy:
    """Implements `toolkit.ports.Entropy`."""

    def random(self) -> float:
        """A number in [0, 1) with 53 random bits."""
        return secrets.randbits(53) / (1 << 53)

    def token(self) -> str:
        """32 hexadecimal digits."""
        return secrets.token_hex(16)
