"""What a worker died of, told from what it has left."""
