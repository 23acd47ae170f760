"""What flows: the Arrow schema of every table, with units and versions."""
