"""Nearest neighbours among millions: binary codes by Hamming distance, unit vectors by cosine."""
