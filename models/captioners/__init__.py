"""Models that look at pictures and write: captions, descriptions of references, prompts."""
