"""One evaluation metric a file."""
