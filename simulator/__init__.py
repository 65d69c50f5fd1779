"""The deterministic cluster of failing nodes in which the agent of `toolkit` will run unmodified.

Nothing is here yet; see README.md beside this file for what is planned and what it stands on.
"""
