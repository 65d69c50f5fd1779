"""What an experiment on this machine stands on: agents that can be held and struck, their links, their workers."""
