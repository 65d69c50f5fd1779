"""The run directory: written by agents, read by every view."""
