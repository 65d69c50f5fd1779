"""`rally demo`: a real training job that loses a worker and comes back."""
