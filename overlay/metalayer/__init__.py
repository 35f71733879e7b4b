"""Layers over a base that belongs to somebody else: its metadata, owned by the caller."""
