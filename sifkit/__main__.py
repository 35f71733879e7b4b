"""``python -m sifkit``."""

from sifkit.cli.main import main

main()
