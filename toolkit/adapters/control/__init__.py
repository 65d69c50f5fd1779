"""The control endpoint of an agent: what it says and what it may be told, over a Unix socket and, if asked for, TCP."""
