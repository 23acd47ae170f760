"""The DAG layer: graph, fingerprints, plan, runner and store."""
