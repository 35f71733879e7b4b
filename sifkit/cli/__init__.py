"""The command line: the only home of click and rich. One file a family of commands, imported when used."""
