"""Raw footage in, the subset worth training on out."""
