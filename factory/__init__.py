"""The workstation: from a line profile to a trained, collapsed network."""

__version__ = "0.1.0"
