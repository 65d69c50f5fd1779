"""The agent with real processes: what it promises about starting, restarting, stopping and telling of it."""
