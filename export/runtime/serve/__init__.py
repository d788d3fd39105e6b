"""The station as a small local HTTP service: pictures in, verdicts out, and a live page to look at."""
