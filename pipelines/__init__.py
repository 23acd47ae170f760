"""What runs: pipelines as plain data, the machinery that runs them, the command line."""
