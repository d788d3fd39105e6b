"""Whether the line still sends what the network was trained on: picture statistics, novelty, drift."""
