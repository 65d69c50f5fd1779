"""One suite per port; every adapter of the port, real, in-memory or simulated, passes it."""
