"""Measurements and long counted runs; each writes what it found to docs/measured/ with commit and machine."""
