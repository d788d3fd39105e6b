"""Tests mirror the packages; `tests.benchmarks` holds the measured claims."""
