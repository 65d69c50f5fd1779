"""The command line of `rally run`: its options, how they are read, what they say to whom."""
