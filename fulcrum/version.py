"""The released version of Fulcrum, the one place that states it."""

__version__ = "0.1.0"
