"""Workers as processes of this machine: starting, watching, signalling, reaping."""
