"""Video diffusion transformers behind one interface, one family a file."""
