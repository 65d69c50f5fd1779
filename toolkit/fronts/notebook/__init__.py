"""Jobs and simulated clusters as objects: launched, watched, broken and replayed from a notebook or a script."""
