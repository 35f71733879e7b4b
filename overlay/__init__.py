"""File systems, layers, deltas and mounts. Standard library only; imports nothing of sifkit."""
