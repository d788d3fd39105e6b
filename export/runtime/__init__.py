"""What runs on the station: the standard library, numpy, Pillow, cryptography and one runtime."""
