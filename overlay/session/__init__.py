"""Staged writes: what a run on an ext3 overlay changes, from its start until it is in the image."""
