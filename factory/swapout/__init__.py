"""Swapout and its exact collapse to one plain network."""
