"""Squashfs 4.0, read and written without mounting."""
