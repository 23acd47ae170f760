"""What a job of any size would take: stages, workers, retries and people's shifts under simulated time."""
