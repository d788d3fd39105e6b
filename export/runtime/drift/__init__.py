"""Whether pictures are still what the network was trained on: of one picture (novelty), and of many (drift)."""
