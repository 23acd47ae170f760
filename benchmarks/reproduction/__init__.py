"""The claims of both papers in miniature: cells that anyone can run, and the table that they fill (``make reproduce``)."""
