"""Subjects in clips, references of them, and training pairs."""
