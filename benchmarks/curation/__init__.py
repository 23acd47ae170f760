"""Curation beside its peers and beside bare decoding, on the same footage and the same CPU budget."""
