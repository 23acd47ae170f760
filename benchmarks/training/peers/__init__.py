"""Other trainers, run from their own checkouts on the same shapes; nothing of theirs is in this repository."""
