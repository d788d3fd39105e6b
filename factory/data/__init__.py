"""Image folders and lists in; checked, split, decoded arrays out."""
