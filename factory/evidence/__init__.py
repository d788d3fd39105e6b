"""How far a score can be trusted: rank correlation, with intervals, against trained networks."""
