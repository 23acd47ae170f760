"""One scorer a file: what a clip is worth."""
