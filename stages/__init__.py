"""What a node of a pipeline does: typed artifacts in, typed artifacts out."""
