"""Values and decisions. No I/O, clock, logging, randomness, environment or threads in here."""
