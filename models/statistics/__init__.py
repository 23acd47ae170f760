"""Statistics of people's answers: agreement, preference, and what a threshold would have kept."""
