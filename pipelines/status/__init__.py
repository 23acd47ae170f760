"""The status page and the metrics of a store, served beside the review page."""
