"""The Fulcrum distribution: version, entry point and import guard."""
