"""The agent. It imports `toolkit.core` and `toolkit.ports` only: the same code runs in production and in simulation."""
