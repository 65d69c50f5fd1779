"""Simulations that one steps, breaks, branches and rewinds: each in a process of its own, held by a handle.

`hosted.py` is the handle, `host.py` what runs behind it, `comparison.py` says where two runs part.
"""
