"""The same cases against torch's agent and ours. What differs on purpose is in `differences.py`, with its reason."""
