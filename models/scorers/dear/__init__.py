"""Scorers of key frames by models whose weights a user brings: dear, so only what passed the cheap rules is shown to them."""
