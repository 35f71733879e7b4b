"""What is done to an overlay that nobody runs on: made, looked at, checked, resized, edited."""
