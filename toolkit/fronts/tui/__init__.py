"""`rally top`: a run in the terminal, live, recorded or simulated. Pure parts first: rows, filters, lanes, words."""
