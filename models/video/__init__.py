"""Reading, cutting, measuring and writing video."""
