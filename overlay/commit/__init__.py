"""The changes of a session carried into the image: all of them, or none."""
