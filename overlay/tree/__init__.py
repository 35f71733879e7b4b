"""Trees of files, whatever holds them: one view to read them by, sinks to write them to."""
