"""The ports of one simulated node, one a file. They have the names and the contracts of those in `toolkit.adapters`."""
