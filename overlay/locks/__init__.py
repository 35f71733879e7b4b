"""Many readers or one writer of an overlay: the locks, and who holds them."""
