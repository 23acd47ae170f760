"""Samples, metrics and the report as stages."""
