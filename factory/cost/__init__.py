"""What a network costs: parameters, bytes, FLOPs, latency."""
