"""Training-free scores of untrained networks."""
