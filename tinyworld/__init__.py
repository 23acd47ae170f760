"""A rendered world with known truth, the embedded default."""
